"""What the scaling notebooks share: committed studies, and how laws are drawn.

A study is a file of analysis/results/scaling; its records lie beside it.
"""

import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.performance import Shown
from analysis.plots import BLUE, INK, PALE, RED

FOLDER = plots.RESULTS / "scaling"
# From the least to the most, told apart by their lightness.
SHADES = ("#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#084594")
_DPI = 80

Study = Mapping[str, Any]


def read(name: str) -> Study:
  """The content of `<name>.json`.

  Raises:
    SystemExit: it is not there.
  """
  path = FOLDER / f"{name}.json"
  if not path.is_file():
    raise SystemExit(
      f"{path.relative_to(plots.HERE.parent)} is absent: check out the whole"
      " repository, or run the study again"
    )
  return json.loads(path.read_text())


def shown(draw: Callable[[], Figure], about: str | None) -> Shown:
  """A figure as a notebook shows it."""
  file = io.BytesIO()
  plots.write(lambda _: draw(), {}, file, dpi=_DPI)
  return Shown(about=about or "", png=file.getvalue())


def drawn(draw: Callable[[pathlib.Path], None], about: str | None) -> Shown:
  """What `draw` writes to a PNG, as a notebook shows it."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "figure.png"
    draw(path)
    return Shown(about=about or "", png=path.read_bytes())


def save(draw: Callable[[], Figure], name: str) -> None:
  """To analysis/figures, as PNG and SVG."""
  path = plots.FIGURES / f"{name}.png"
  plots.both(lambda _: draw())({}, path)
  print(path.relative_to(plots.HERE.parent))


def task(axis: Axes, told: Mapping[str, Any], title: str) -> None:
  """Relative improvement of a task over its smallest size.

  Args:
    axis: the panel.
    told: from `fmjax.scaling.reports.tasks.curve`.
    title: of the panel.
  """
  held = told["held_out"]
  gain_n = 100 * np.array(told["improvement"])
  ends_n2 = 100 * np.array(told["improvement_ci"])
  params = np.array(told["params"])
  if "band" in told:
    band = told["band"]
    axis.fill_between(
      band["x"],
      100 * np.array(band["low"]),
      100 * np.array(band["high"]),
      color=BLUE,
      alpha=0.15,
      linewidth=0,
      label="90 % of refits",
    )
    axis.plot(
      band["x"],
      100 * np.array(band["improvement"]),
      color=BLUE,
      linewidth=1.8,
      label="offset law",
    )
  if "band" in told and told["good"]:
    axis.axhline(
      100 * told["ceiling"],
      color=RED,
      linestyle=(0, (5, 2)),
      linewidth=1.3,
      label="its ceiling",
    )
  for place, (x, y, ends) in enumerate(
    zip(params, gain_n, ends_n2, strict=True)
  ):
    unseen = place >= len(params) - held
    axis.plot([x, x], ends, color=PALE, linewidth=1.2, zorder=2)
    axis.plot(
      x,
      y,
      "o",
      color=BLUE,
      markersize=7,
      markerfacecolor="white" if unseen else BLUE,
      markeredgewidth=1.5,
      zorder=3,
    )
  axis.set_xscale("log")
  axis.set_xlabel("backbone parameters")
  axis.set_ylabel("reduction of NLL, %")
  plots.headline(axis, title)
  if "band" in told and not told["good"]:
    axis.annotate(
      "the fit is not to be relied on",
      (0.03, 0.95),
      xycoords="axes fraction",
      fontsize=9,
      color=INK,
      va="top",
    )


def interval(ends: Sequence[float | None], digits: int = 2) -> str:
  """`5.01 to 5.22`; an end that nothing bounds is said to be."""
  low, high = ends
  if low is None and high is None:
    return "unknown"
  told = [
    "unbounded" if end is None else f"{end:.{digits}f}" for end in (low, high)
  ]
  return " to ".join(told)


def relative(path: pathlib.Path) -> str:
  return path.relative_to(plots.HERE.parent).as_posix()

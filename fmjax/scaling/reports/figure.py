"""The scaling figure, drawn from a report's content alone.

Relative improvement over the smallest rung against backbone parameters, one
panel a metric, baselines as labelled lines. Colors are those of Okabe and Ito,
told apart with any color vision; lines also differ in their dashes.
"""

import contextlib
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.config import ConfigError

BLUE, INK, PALE, GRID = "#0072B2", "#222222", "#6b6b6b", "#e6e6e6"
_LINES = {
  "popularity_all": ("popularity, all time", "#D55E00", (0, (6, 2))),
  "popularity_7d_frozen": ("popularity, 7 days frozen", "#CC79A7", (0, (3, 2))),
  "popularity_7d_rolling": (
    "popularity, 7 days rolling",
    "#B07D00",
    (0, (1, 1.5)),
  ),
  "cooccurrence": ("co-occurrence", "#009E73", (0, (6, 2, 1, 2))),
}
_TITLES = {
  "nll": "Test NLL, reduction from {}",
  "ndcg@10": "Test NDCG@10, gain over {}",
}
_STRIP = 0.34  # height of a strip for far baselines, in those of the panel
_LABEL_GAP = 0.075  # between two labels, in heights of the figure
_TOP, _BOTTOM = 0.79, 0.19  # of the panels
_DPI = 160


def draw(content: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes `path` (PNG) and the same as SVG beside it.

  Args:
    content: of `report.json`.
    path: ends in .png.
  """
  metrics = [metric for metric in _TITLES if metric in content["fit"]]
  with new_figure(path, size=(13, 5.4)) as figure:
    grid = figure.add_gridspec(
      1,
      len(metrics),
      left=0.055,
      right=0.855,
      bottom=_BOTTOM,
      top=_TOP,
      wspace=0.56,  # room for the labels of baselines
    )
    for column, metric in enumerate(metrics):
      main = _panel(figure, grid[column], content, metric)
      if not column:  # one legend explains all panels
        figure.legend(
          *main.get_legend_handles_labels(),
          loc="lower center",
          ncols=4,
          fontsize=9.5,
          frameon=False,
          labelcolor=INK,
        )


@contextlib.contextmanager
def new_figure(
  path: pathlib.Path, *, size: tuple[float, float]
) -> Iterator[Any]:
  """An empty figure in the house's style, saved as PNG and SVG at the end.

  Raises:
    ConfigError: it cannot be drawn.
  """
  if path.suffix != ".png":
    raise ConfigError(f"the figure {path} must end in .png; an SVG goes beside")
  try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError:
    raise ConfigError(
      "figures need matplotlib, which is not installed: pip install"
      " 'fmjax[analysis]'"
    ) from None
  style: Any = {
    "font.size": 11,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "svg.hashsalt": "fmjax",  # the same content gives the same bytes
  }
  with matplotlib.rc_context(style):
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _panel(figure, cell, content: Mapping[str, Any], metric: str):
  """Draws a metric; returns the axes of its rungs."""
  law = content["fit"][metric]
  x_n = np.array([r["params"]["backbone"] for r in content["rungs"]], float)
  gain_n = 100 * np.array(law["improvement"])
  ends_n2 = 100 * np.array(law["improvement_ci"])
  lines = _baseline_gains(content, metric)

  inside = np.concatenate([gain_n, ends_n2.ravel()])
  span = max(np.ptp(inside), 1e-3)
  far = {
    "high": {n: v for n, v in lines.items() if v > inside.max() + span},
    "low": {n: v for n, v in lines.items() if v < inside.min() - span},
  }
  # A baseline far away gets a strip of its own behind a break in the axis: it
  # must stay in sight, and so must the rungs.
  heights = [
    *([_STRIP] if far["high"] else []),
    1.0,
    *([_STRIP] if far["low"] else []),
  ]
  inner = cell.subgridspec(len(heights), 1, height_ratios=heights, hspace=0.07)
  axes = [figure.add_subplot(inner[row]) for row in range(len(heights))]
  main = axes[1 if far["high"] else 0]
  near = {n: v for n, v in lines.items() if n not in far["high"] | far["low"]}
  parts = [(main, near)]
  if far["high"]:
    parts.append((axes[0], far["high"]))
  if far["low"]:
    parts.append((axes[-1], far["low"]))

  margin = (x_n.max() / x_n.min()) ** 0.06 if len(x_n) > 1 else 2.0
  for axis in axes:
    axis.set_xscale("log")
    axis.set_xlim(x_n.min() / margin, x_n.max() * margin)
    axis.grid(True, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(lambda value, _: percent(value))
    for side in ("top", "right"):
      axis.spines[side].set_visible(False)
  shown = np.concatenate([inside, np.array(list(near.values()))])
  pad = 0.12 * max(np.ptp(shown), 1e-3)
  main.set_ylim(shown.min() - pad, shown.max() + 1.6 * pad)
  _curve(main, law)
  _points(main, content, x_n, gain_n, ends_n2)
  for axis, values in parts[1:]:
    _strip(axis, values)
  _baselines(parts)
  for above, below in itertools.pairwise(axes):
    _break(above, below)
  for axis in axes[:-1]:
    axis.tick_params(labelbottom=False)
  decades = np.floor(np.log10(x_n.max())) - np.ceil(np.log10(x_n.min()))
  if decades < 1:
    axes[-1].set_xticks(x_n)
  axes[-1].xaxis.set_major_formatter(lambda value, _: short(value))
  axes[-1].set_xlabel("backbone parameters (item tables not counted)")
  _titles(figure, axes[0].get_position().x0, content, metric)
  return main


def _baseline_gains(
  content: Mapping[str, Any], metric: str
) -> dict[str, float]:
  """In percent of the smallest rung; only those that have the metric."""
  smallest = content["rungs"][0]["test"][metric]
  sign = -1 if metric == "nll" else 1
  return {
    name: 100 * sign * (content["baselines"][name][metric] / smallest - 1)
    for name in _LINES
    if content["baselines"].get(name, {}).get(metric) is not None
  }


def _curve(axis, law: Mapping[str, Any]) -> None:
  """The law and its band; a law that is not to be relied on is dashed."""
  if "band" not in law:
    return
  spread = law["band"]
  axis.fill_between(
    spread["x"],
    100 * np.array(spread["low"]),
    100 * np.array(spread["high"]),
    color=BLUE,
    alpha=0.16,
    linewidth=0,
    label=f"{100 * spread['level']:.0f} % of refits",
  )
  axis.plot(
    spread["x"],
    100 * np.array(spread["improvement"]),
    color=BLUE,
    linewidth=1.8,
    linestyle="-" if law["good"] else (0, (2, 2)),
    label=law["equation"].replace("^(-alpha)", r"$^{-\alpha}$"),
  )


def _points(axis, content, x_n, gain_n, ends_n2) -> None:
  axis.errorbar(
    x_n,
    gain_n,
    yerr=np.abs(ends_n2.T - gain_n),
    fmt="o",
    color=BLUE,
    markersize=6.5,
    elinewidth=1.3,
    capsize=3,
    zorder=3,
    label="rung, 95 % over users",
  )
  for rung, x, gain, (_, high) in zip(
    content["rungs"], x_n, gain_n, ends_n2, strict=True
  ):
    best = rung["name"] == content["best"]
    if best:
      axis.plot(
        x,
        gain,
        "o",
        markersize=13,
        markeredgecolor=INK,
        zorder=4,
        markerfacecolor="none",
        markeredgewidth=1.2,
        label="chosen on validation",
      )
    axis.annotate(
      rung["name"],
      (x, max(high, gain)),
      # Clear of the point, where it has no bar.
      xytext=(0, (5 if high > gain else 9)),
      ha="center",
      textcoords="offset points",
      fontsize=9.5,
      color=INK,
      weight="bold" if best else "normal",
      zorder=2.5,  # under the points
      # Readable on lines and the band.
      bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
    )


def _baselines(parts: Sequence[tuple[Any, Mapping[str, float]]]) -> None:
  """Lines with labels right of the panel, moved apart where they collide.

  Args:
    parts: axes of the panel, each with the baselines that lie in it.
  """
  wanted = []
  for axis, values in parts:
    low, high = axis.get_ylim()
    box = axis.get_position()
    for name, value in values.items():
      place = box.y0 + box.height * (value - low) / (high - low)
      wanted.append((place, name, axis, value))
  wanted.sort(key=lambda each: each[:2])
  places = spread_out([place for place, *_ in wanted], _LABEL_GAP)
  for (_, name, axis, value), place in zip(wanted, places, strict=True):
    label, color, dashes = _LINES[name]
    axis.axhline(value, color=color, linestyle=dashes, linewidth=1.5, zorder=2)
    axis.annotate(
      f"{label}\n{percent(round(value, 1 if abs(value) < 10 else None))}",
      xy=(1, value),
      xycoords=("axes fraction", "data"),
      xytext=(axis.get_position().x1 + 0.012, place),
      textcoords="figure fraction",
      fontsize=9,
      color=color,
      va="center",
      linespacing=1.1,
      annotation_clip=False,
      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8},
    )


def _strip(axis, values: Mapping[str, float]) -> None:
  """Labels tell the values, so that it needs no ticks."""
  low, high = min(values.values()), max(values.values())
  pad = 0.6 * max(high - low, 0.06 * abs(high) + 1)
  axis.set_ylim(low - pad, high + pad)
  axis.set_yticks([])


def _break(above, below) -> None:
  """Two slashes on the axis, where a part of it is left out."""
  above.spines["bottom"].set_visible(False)
  mark = {
    "marker": [(-1, -0.6), (1, 0.6)],
    "markersize": 8,
    "linestyle": "none",
    "color": PALE,
    "markeredgewidth": 1.2,
    "clip_on": False,
    "zorder": 5,
  }
  above.plot([0], [0], transform=above.transAxes, **mark)
  below.plot([0], [1], transform=below.transAxes, **mark)


def spread_out(wanted: Sequence[float], gap: float) -> list[float]:
  """Ascending places at least `gap` apart, as near to `wanted` as it goes.

  Groups that collide are centered on the mean of what they wanted (pool
  adjacent violators).
  """
  groups: list[tuple[float, int]] = []  # mean place of the first, members
  for number, place in enumerate(wanted):
    start, members = place - gap * number, 1
    while groups and groups[-1][0] >= start:
      other, count = groups.pop()
      start = (start * members + other * count) / (members + count)
      members += count
    groups.append((start, members))
  flat = [start for start, members in groups for _ in range(members)]
  return [start + gap * number for number, start in enumerate(flat)]


def _titles(figure, x: float, content: Mapping[str, Any], metric: str) -> None:
  smallest = content["rungs"][0]["name"]
  figure.text(
    x,
    0.97,
    _TITLES[metric].format(smallest),
    fontsize=12.5,
    color=INK,
    weight="bold",
    va="top",
  )
  sentence = content["findings"][metric]
  # An interval stays on one line.
  joined = re.sub(r"(\[[^]]*), ", "\\1,\N{NO-BREAK SPACE}", sentence)
  finding = _wrap(joined[0].upper() + joined[1:] + ".", 64)
  law = content["fit"][metric]
  if "band" in law and not law["good"]:
    finding += "\nThe fit is not to be relied on (dashed)."
  figure.text(
    x, 0.915, finding, fontsize=9.5, color=PALE, va="top", linespacing=1.15
  )


def _wrap(text: str, width: int) -> str:
  """Breaks at plain spaces only."""
  lines = [""]
  for word in text.split(" "):
    if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
      lines.append("")
    lines[-1] += " " * bool(lines[-1]) + word
  return "\n".join(lines)


def percent(value: float) -> str:
  return "0 %" if value == 0 else f"{value:+g} %".replace("-", "−")


def short(value: float) -> str:
  """1k, 10k, 1M."""
  for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if value >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:g}"

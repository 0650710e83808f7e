"""The figure of a study, drawn from its content alone.

Left, the test NLL of every size and length with the law through them; right,
what a larger backbone gains at the longest training, with the law that has not
seen the largest sizes.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmjax.scaling.reports.figure import (
  BLUE,
  GRID,
  INK,
  PALE,
  new_figure,
  percent,
  short,
)

_FLOOR, _LIMIT = "#009E73", "#D55E00"
# Of the lengths, from the shortest: one hue, told apart by its lightness.
_LIGHTEST = 0.35


def draw(content: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes `path` (PNG) and the same as SVG beside it.

  Args:
    content: of a study.
    path: ends in .png.
  """
  with new_figure(path, size=(13, 5.6)) as figure:
    grid = figure.add_gridspec(
      1, 2, left=0.06, right=0.9, bottom=0.13, top=0.8, wspace=0.45
    )
    left = figure.add_subplot(grid[0])
    right = figure.add_subplot(grid[1])
    for axis in (left, right):
      axis.set_xscale("log")
      axis.grid(True, color=GRID, linewidth=0.8)
      axis.set_axisbelow(True)
      axis.tick_params(length=0)
      axis.minorticks_off()
      axis.xaxis.set_major_formatter(lambda value, _: short(value))
      axis.set_xlabel("backbone parameters (item tables not counted)")
      for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    losses(left, content)
    improvement(right, content)
    _title(figure, left, *_of_losses(content))
    _title(figure, right, *_of_improvement(content))


def losses(axis, content: Mapping[str, Any]) -> None:
  """Test NLL by size, a line a length: the law; the floors below.

  A law that is not to be relied on is not drawn: lines join what was measured.
  """
  held = {each["params"] for each in content["held_out"]}
  curves = content["curves"]
  shades = np.linspace(_LIGHTEST, 1, len(curves))
  for curve, shade in zip(curves, shades, strict=True):
    color = _tint(shade)
    rungs = [r for r in content["grid"] if r["steps"] == curve["steps"]]
    if content["law"]["good"]:
      axis.fill_between(
        curve["params"],
        *np.transpose(curve["band"]),
        color=color,
        alpha=0.18,
        linewidth=0,
      )
      line = curve["params"], curve["nll"]
    else:
      line = (
        [rung["params"]["backbone"] for rung in rungs],
        [rung["nll"] for rung in rungs],
      )
    axis.plot(*line, color=color, linewidth=1.6)
    for rung in rungs:
      size = rung["params"]["backbone"]
      axis.plot(
        size,
        rung["nll"],
        "o",
        color=color,
        markersize=6,
        markerfacecolor="white" if size in held else color,
        markeredgewidth=1.5,
      )
    axis.annotate(
      f"{short(curve['tokens'])} tokens",
      (line[0][-1], line[1][-1]),
      xytext=(8, 0),
      textcoords="offset points",
      fontsize=9,
      color=color,
      va="center",
      annotation_clip=False,
    )
  if content["law"]["good"]:
    _floors(axis, content)
  axis.set_ylabel("test NLL, nats")


def _floors(axis, content: Mapping[str, Any]) -> None:
  low, high = content["irreducible_ci"]
  lines = [(content["irreducible"], _LIMIT, "fitted irreducible loss E")]
  if content["known_floor"] is not None:
    lines.append((content["known_floor"], _FLOOR, "known floor (oracle)"))
  if low is not None and high is not None:
    axis.axhspan(low, high, color=_LIMIT, alpha=0.1, linewidth=0)
  smallest = min(curve["params"][0] for curve in content["curves"])
  for value, color, label in lines:
    axis.axhline(value, color=color, linestyle=(0, (5, 2)), linewidth=1.4)
    axis.annotate(
      f"{label} {value:.2f}",
      (smallest, value),
      xytext=(0, 4),
      textcoords="offset points",
      fontsize=9,
      color=color,
    )


def improvement(axis, content: Mapping[str, Any]) -> None:
  """Reduction of the NLL over the smallest size at the longest training."""
  curve = content["curves"][-1]
  unseen = content["held_out_curve"]
  held = {each["params"] for each in content["held_out"]}
  rungs = [r for r in content["grid"] if r["steps"] == curve["steps"]]
  base = rungs[0]["nll"]

  def gain(nll):
    return 100 * (1 - np.asarray(nll) / base)

  axis.fill_between(
    unseen["params"],
    *gain(np.transpose(unseen["band"])),
    color=BLUE,
    alpha=0.16,
    linewidth=0,
    label="90 % of refits",
  )
  axis.plot(
    unseen["params"],
    gain(unseen["nll"]),
    color=BLUE,
    linewidth=1.8,
    label="law of the filled points alone",
  )
  axis.plot(
    unseen["params"],
    gain(unseen["straight_line"]),
    color=PALE,
    linewidth=1.3,
    linestyle=(0, (2, 2)),
    label="straight line in logs",
  )
  for rung in rungs:
    size = rung["params"]["backbone"]
    axis.plot(
      size,
      gain(rung["nll"]),
      "o",
      color=BLUE,
      markersize=7,
      markerfacecolor="white" if size in held else BLUE,
      markeredgewidth=1.6,
      zorder=3,
    )
    axis.annotate(
      f"d{rung['width']}",
      (size, gain(rung["nll"])),
      xytext=(0, -9),  # clear of the ceiling
      textcoords="offset points",
      ha="center",
      va="top",
      fontsize=9.5,
      color=INK,
    )
  ceiling = gain(unseen["limit"])
  axis.axhline(ceiling, color=_LIMIT, linestyle=(0, (5, 2)), linewidth=1.4)
  axis.annotate(
    f"ceiling at this length {percent(round(float(ceiling), 1))}",
    (unseen["params"][0], ceiling),
    xytext=(0, 4),
    textcoords="offset points",
    fontsize=9,
    color=_LIMIT,
  )
  axis.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6)))
  axis.set_ylabel(f"reduction of test NLL over d{rungs[0]['width']}")
  axis.legend(
    loc="lower left",
    bbox_to_anchor=(-0.02, 0.99),  # clear of points, wherever they lie
    ncols=3,
    fontsize=8.5,
    frameon=False,
    labelcolor=INK,
    handlelength=1.4,
    columnspacing=1.1,
  )


def _of_losses(content: Mapping[str, Any]) -> tuple[str, str]:
  law = content["law"]
  exponents = ", ".join(
    f"{name} = {law['parameters'][name]:.2f}" for name in ("alpha", "beta")
  )
  told = f"Test NLL over size and data: {exponents}."
  if not law["good"]:
    told += " The fit is not to be relied on."
  return "Parameters × data", told


def _of_improvement(content: Mapping[str, Any]) -> tuple[str, str]:
  errors = content["holdout_error_over_drop"]
  names = " and ".join(
    each["name"].split("-")[0] for each in content["held_out"]
  )
  if None in errors:
    told = f"{names} are no better than the last rung seen."
  else:
    shares = " and ".join(f"{100 * error:.0f} %" for error in errors)
    told = f"{names}: off by {shares} of their drop from the last rung seen."
  if not content["held_out_law"]["good"]:
    told += " The fit is not to be relied on."
  return "Are the largest rungs predicted?", told


def _title(figure, axis, title: str, told: str) -> None:
  x = axis.get_position().x0
  figure.text(x, 0.95, title, fontsize=12.5, color=INK, weight="bold", va="top")
  figure.text(x, 0.885, told, fontsize=9.5, color=PALE, va="top")


def _tint(shade: float) -> tuple[float, ...]:
  """`BLUE` mixed with white."""
  blue = np.array([int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  return tuple((1 - shade) * np.ones(3) + shade * blue)

"""How to spend compute: isoFLOP curves beside the fitted law.

python -m analysis.compute_optimal  # draws its figure; also `make figures`
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import plots, scaling, tables
from analysis.performance import Shown
from analysis.plots import BLUE, GREEN, INK, RED

_SHOWN = ("E", "alpha", "beta")
_COLORS = {"1": GREEN, "2": BLUE, "3": RED}


def allocation() -> dict[str, Any]:
  return scaling.read("parameters_data")["allocation"]


def draw() -> Figure:
  """Left, loss over size at equal compute; right, the best sizes."""
  found = allocation()
  canvas, (left, right) = plots.panels(13, 5, 2)
  budgets = [each for each in found["isoflop"] if len(each["params"]) > 2]
  shades = np.linspace(0.25, 1, len(budgets))
  for budget, shade in zip(budgets, shades, strict=True):
    left.plot(
      budget["params"],
      budget["nll"],
      "o-",
      color=BLUE,
      alpha=shade,
      markersize=4,
    )
    left.annotate(
      f"{budget['compute']:.0e}",
      (budget["params"][-1], budget["nll"][-1]),
      xytext=(5, 0),
      textcoords="offset points",
      fontsize=8,
      color=INK,
    )
  left.set_xscale("log")
  left.set_xlabel("backbone parameters")
  left.set_ylabel("test NLL, nats")
  plots.headline(left, "Equal compute (FLOPs, 6·N·D)")

  compute = [each["compute"] for each in found["isoflop"]]
  ends = np.array([min(compute), max(compute)])
  for number, each in enumerate(found["approaches"]):
    color = _COLORS[each["approach"][0]]
    line = np.exp(each["log_params"]) * ends ** each["params_exponent"]
    dashes = (0, (1 + number, 1))
    right.plot(
      ends,
      line,
      color=color,
      linestyle=dashes if number else "-",
      label=f"{each['approach']}: N ~ C^{each['params_exponent']:.2f}",
    )
    if not each["approach"].startswith("1"):
      right.plot(each["compute"], each["params"], "o", color=color)
  right.set_xscale("log")
  right.set_yscale("log")
  right.set_xlabel("compute, FLOPs (6·N·D)")
  right.set_ylabel("best backbone parameters")
  right.legend(fontsize=9, frameon=False)
  plots.headline(right, "The best size of a budget")
  return canvas


def figure() -> Shown:
  """IsoFLOP curves and the best sizes by every approach."""
  return scaling.shown(draw, figure.__doc__)


def approaches() -> Shown:
  """Exponents side by side, and where they disagree."""
  found = allocation()
  rows = [
    (
      each["approach"],
      f"{each['params_exponent']:.3f}",
      f"{each['tokens_exponent']:.3f}",
      str(len(each["compute"])) if each["compute"] else "all runs",
    )
    for each in found["approaches"]
  ]
  head = ("approach", "N ~ C^", "D ~ C^", "read from")
  notes = [*found["warnings"], *found["notes"]]
  lines = [tables.markdown(head, rows, text=(0, 3)), ""]
  lines += [f"* {note}" for note in notes]
  return Shown(about=approaches.__doc__ or "", markdown="\n".join(lines))


def sensitivity() -> Shown:
  """What the law's exponents are, had another analyst fitted it."""
  table = scaling.read("parameters_data")["sensitivity"]
  rows = [
    (
      row["choice"],
      *(_number(row["parameters"][name]) for name in _SHOWN),
      "yes" if row["good"] else "no",
    )
    for row in table
  ]
  head = ("choice", *_SHOWN, "good fit")
  return Shown(
    about=sensitivity.__doc__ or "", markdown=tables.markdown(head, rows)
  )


def _number(value: float | None) -> str:
  return "unknown" if value is None else f"{value:.3f}"


def main() -> None:
  scaling.save(draw, "compute_optimal")


if __name__ == "__main__":
  main()

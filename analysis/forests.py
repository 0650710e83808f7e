"""Figures of the ablations, each a function of committed results."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots import BLUE, GREEN, INK, PALE, RED, headline, panels

Result = Mapping[str, Any]
Arms = Mapping[str, Mapping[str, Result]]  # by data set and arm

COLORS = {
  "synthetic": BLUE,
  "movietweetings": RED,
  "kuairand": GREEN,
  "movielens_1m": "#CC79A7",
}
NAMES = {
  "synthetic": "synthetic service",
  "movietweetings": "MovieTweetings",
  "kuairand": "KuaiRand-Pure",
  "movielens_1m": "MovieLens-1M",
}
_METRICS = {
  "nll": "NLL minus the reference's, nats\n(left: better)",
  "ndcg@10": "NDCG@10 minus the reference's\n(right: better)",
}
_SLICES = ("all", "cold")
_SPREAD = 0.36  # of a row, between its data sets


def forest(arms: Arms) -> Figure:
  """Each arm minus the reference, with paired 95 % intervals over users."""
  rows = arm_order(arms)
  height = 1.9 + 0.3 * len(rows) * max(1, len(arms) ** 0.5)
  canvas, axes = panels(13, height, len(_METRICS) * len(_SLICES))
  wanted = [(metric, part) for metric in _METRICS for part in _SLICES]
  for axis, (metric, part) in zip(axes, wanted, strict=True):
    _zero(axis, rows)
    for number, (data, found) in enumerate(arms.items()):
      shift = _SPREAD * (number - (len(arms) - 1) / 2) / max(len(arms) - 1, 1)
      for row, arm in enumerate(rows):
        of_slice = found.get(arm, {}).get("slices", {}).get(part, {})
        if "to_reference" in of_slice and says(found[arm], metric):
          told = of_slice["to_reference"][metric]
          _interval(axis, row + shift, told, COLORS[data])
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel(_METRICS[metric])
    headline(axis, _title_of(arms, part))
  axes[0].set_yticks(range(len(rows)), [_plain(arm) for arm in rows])
  _legend(canvas, axes[-1], arms)
  return canvas


def gate(results: Mapping[str, Result]) -> Figure:
  """Weight of the id by age, mean over seeds; thin lines are seeds.

  The dashed line is the plain sum.
  """
  canvas, (axis,) = panels(8, 4.2)
  ticks: Sequence[int] = ()
  for data, result in results.items():
    days = result["gate"]["first_days"][1:]  # the first is of items not met
    ticks = days if len(days) > len(ticks) else ticks
    for weights in result["gate"]["id_weight_by_seed"]:
      axis.plot(
        range(len(days)), weights[1:], color=COLORS[data], linewidth=0.7
      )
    axis.plot(
      range(len(days)),
      result["gate"]["id_weight"][1:],
      color=COLORS[data],
      linewidth=2.2,
      marker="o",
      markersize=4,
      label=NAMES[data],
    )
  axis.set_xticks(range(len(ticks)), [f"{day:,}" for day in ticks])
  axis.set_ylim(0, 1)
  axis.set_xlabel("age of the item, days (bucket begins)")
  axis.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
  axis.set_ylabel("weight w: metadata + 2 · w · id")
  axis.legend(fontsize=10, frameon=False)
  headline(axis, "what the age gate has learned")
  return canvas


def arm_order(arms: Arms) -> list[str]:
  """All arms but the reference, the least NLL of the first data set first.

  The greatest NDCG where an arm has no NLL to compare; where all of them end in
  a number (id_dropout_10), they follow that.
  """
  every = [result for found in arms.values() for result in found.values()]
  by_nll = all(says(result, "nll") for result in every)

  def loss(arm: str) -> tuple[int, float]:
    for number, found in enumerate(arms.values()):
      if arm in found and "to_reference" in found[arm]["slices"]["all"]:
        told = found[arm]["slices"]["all"]["to_reference"]
        if by_nll:
          return number, told["nll"]["difference"]
        return number, -told["ndcg@10"]["difference"]
    return len(arms), 0.0

  names = {arm for found in arms.values() for arm in changed(found)}
  if all(_number(arm).isdecimal() for arm in names):
    return sorted(names, key=lambda arm: (int(_number(arm)), *loss(arm), arm))
  return sorted(names, key=lambda arm: (*loss(arm), arm))


def says(result: Result, metric: str) -> bool:
  """Whether the metric means of this arm what it means of the others.

  Scores of BCE and gBCE, and those of a softmax with less than the whole logQ,
  are not logarithms of an item's probability: an NLL of them is of nothing that
  was trained.
  """
  objective = result["config"]["objective"]
  binary = objective["type"] in ("BinaryCrossEntropy", "GeneralizedBce")
  return metric != "nll" or not (binary or objective.get("logq", 1) < 1)


def _number(arm: str) -> str:
  return arm.rpartition("_")[2]


def changed(found: Mapping[str, Result]) -> dict[str, Result]:
  """The arms of a data set that are not its reference."""
  return {
    arm: result for arm, result in found.items() if arm != result["reference"]
  }


def _zero(axis: Axes, rows: Sequence[str]) -> None:
  axis.axvline(0, color=INK, linewidth=1)
  axis.set_ylim(len(rows) - 0.5, -0.5)
  axis.set_yticks(range(len(rows)), [])
  axis.grid(False, axis="y")
  for row in range(1, len(rows)):
    axis.axhline(row - 0.5, color=PALE, linewidth=0.4)


def _interval(axis: Axes, y: float, told: Result, color: str) -> None:
  """Filled where the interval excludes 0."""
  low, high = told["interval"]
  axis.hlines(y, low, high, color=color, linewidth=1.8)
  axis.plot(
    [told["difference"]],
    [y],
    marker="o",
    markersize=5.5,
    color=color,
    markerfacecolor=color if told["separates"] else "white",
  )


def _title_of(arms: Arms, part: str) -> str:
  if part == "all":
    return "all targets"
  below = {
    result["cold_below"] for found in arms.values() for result in found.values()
  }
  return f"cold: < {'/'.join(map(str, sorted(below)))} in training"


def _legend(canvas: Figure, axis: Axes, arms: Arms) -> None:
  for data, found in arms.items():
    base = next(r for arm, r in found.items() if arm == r["reference"])
    told, seeds = base["slices"]["all"], len(base["seeds"])
    axis.plot(
      [],
      [],
      color=COLORS[data],
      marker="o",
      label=f"{NAMES[data]}: reference NLL {told['nll']:.3f}, NDCG@10"
      f" {told['ndcg@10']:.4f}; {seeds} seeds",
    )
  canvas.legend(
    loc="outside lower center", ncols=len(arms), fontsize=10, frameon=False
  )


def _plain(name: str) -> str:
  return name.replace("_", " ")

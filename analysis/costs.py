"""What attention costs and what it brings: one point an arm."""

import re

from matplotlib.figure import Figure

from analysis import arms as arms_lib
from analysis import plots
from analysis.forests import COLORS, NAMES, Arms, Result

_LOW_RANK = re.compile(r"low_rank_(\d+)")
_WINDOW = re.compile(r"window_(\d+)")
_TOLERATED = 0.02  # of the reference's NDCG@10
_MARKS = {"reference": "*", "window": "s", "low rank": "o"}


def attention(arms: Arms) -> Figure:
  """NDCG@10 against the FLOPs of attention, a panel a data set.

  Bars are paired 95 % intervals of the difference to full attention, drawn
  around each arm; the band is 2 % around full attention.
  """
  canvas, axes = plots.panels(6.5 * len(arms), 4.4, len(arms))
  for axis, (data, found) in zip(axes, arms.items(), strict=True):
    reference = found["reference"]
    whole = reference["slices"]["all"]["ndcg@10"]
    axis.axhspan(
      whole * (1 - _TOLERATED),
      whole * (1 + _TOLERATED),
      color=plots.GRID,
      zorder=0,
      label="within 2 % of full attention",
    )
    told = set()
    for arm, result in found.items():
      kind, label = _kind(arm)
      if not kind:
        continue
      value = result["slices"]["all"]["ndcg@10"]
      paired = result["slices"]["all"].get("to_reference")
      low, high = paired["ndcg@10"]["interval"] if paired else (0.0, 0.0)
      axis.errorbar(
        [_cost(result)],
        [value],
        yerr=[[value - whole - low], [high - (value - whole)]],
        fmt=_MARKS[kind],
        markersize=12 if kind == "reference" else 6,
        color=COLORS[data] if kind != "window" else plots.PALE,
        capsize=3,
        label=None if kind in told else _NAMES[kind],
      )
      told.add(kind)
      if label:
        axis.annotate(
          label + arms_lib.fewer_seeds(result),
          (_cost(result), value),
          xytext=(6, 6),
          textcoords="offset points",
          fontsize=9,
        )
    axis.set_xlabel("attention, MFLOPs a position and training step")
    axis.set_ylabel("test NDCG@10")
    plots.headline(axis, NAMES[data])
    axis.legend(fontsize=9, frameon=False, loc="lower right")
  return canvas


_NAMES = {
  "reference": "full attention",
  "window": "window of so many tokens",
  "low rank": "low rank, of so many slots a block",
}


def _kind(arm: str) -> tuple[str, str]:
  """What an arm is drawn as, and its number; of others nothing."""
  if arm == "reference":
    return "reference", ""
  if matched := _LOW_RANK.fullmatch(arm):
    return "low rank", matched[1]
  if matched := _WINDOW.fullmatch(arm):
    return "window", matched[1]
  return "", ""


def _cost(result: Result) -> float:
  """MFLOPs of attention, its projections included, a position of a step."""
  data, run = result["config"]["data"], result["config"]["run"]
  positions = run["steps"] * data["rows"] * data["window"]
  return result["flops"]["by_part"]["attention"] / positions / 1e6

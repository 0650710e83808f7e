r"""What is a longer context worth, and how should it be attended to?

  fmjax sweep experiments/context.py --jobs 2
  fmjax report experiments/context.py --reference full_256 \
    --out runs/context/report --result analysis/results/scaling/context.json

Windows of 64 to 2,048 tokens of the synthetic service, at the same compute: a
longer window is paid for with fewer tokens.

  full_N      full attention
  low_rank_N  the last 32 to 64 tokens exactly, and four summary slots of each
              block of 32 before them
"""

from experiments import parameters_data
from fmjax.config import (
  Attention,
  Experiment,
  FullAttention,
  LowRankAttention,
  Synthetic,
  override,
)
from fmjax.data.readers import synthetic
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind
from fmjax.scaling.ladder import at_compute, in_context, rung
from fmjax.scaling.reports.arms import arms

WINDOWS = (64, 128, 256, 512, 1_024, 2_048)
WIDTH, TOKENS = 64, 1_000_000  # of the arm whose compute all have
SEEDS = 2
_BLOCK, _RANK = 32, 4
# What is predicted and what items are; the other features of the service add
# the same few FLOPs to every token of every arm.
_SIZES = {"series": (22, 1), "genre": (19, 3), "language": (8, 1)}
_SPEC = DataSpec(
  items=2_001,
  features=(
    Encoded(feature=Feature(name="action", kind=Kind.BAG), size=5, values=1),
  ),
  metadata=tuple(
    Encoded(feature=feature, size=size, values=values)
    for feature in synthetic.SCHEMA.metadata
    for size, values in [_SIZES.get(feature.name, (1, 1))]
  ),
)


def experiments() -> dict[str, Experiment]:
  base = rung(
    override(
      parameters_data.base(),
      {
        # Two thousand events of a user: the longest window sees most of them.
        "data.source": Synthetic(
          events=3_000_000, users=1_500, items=2_000, days=180, profiles=1
        ),
        # A batch holds at least the longest window.
        "data.window": 256,
        "data.stride": 256,
        "data.rows": 8,
      },
    ),
    WIDTH,
  )
  entries = {
    name: at_compute(
      in_context(override(base, {"model.attention": attention}), window),
      like=base,
      tokens=TOKENS,
      spec=_SPEC,
    )
    for window in WINDOWS
    for name, attention in attentions(window).items()
  }
  return arms("synthetic", entries, seeds=SEEDS)


def attentions(window: int) -> dict[str, Attention]:
  found: dict[str, Attention] = {f"full_{window}": FullAttention()}
  if window > 2 * _BLOCK:  # else no slot is ever read
    low_rank = LowRankAttention(block=_BLOCK, rank=_RANK)
    found[f"low_rank_{window}"] = low_rank
  return found

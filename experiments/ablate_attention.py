r"""How far back must attention look, and how exactly?

  fmjax sweep experiments/ablate_attention.py --runs runs/ablations
  fmjax report experiments/ablate_attention.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_attention \
    --result analysis/results/ablate_attention

The reference attends to all of the window: 512 tokens on the synthetic service,
200 on MovieLens-1M. A quarter of what a history tells on the synthetic service
is more than a hundred tokens back.

  window_N    the last N tokens, and nothing before
  low_rank_R  the last 32 to 64 tokens exactly (MovieLens-1M: 20 to 40), and R
              summary slots of each block of 32 (20) before them
"""

from experiments import ablations
from fmjax.config import (
  Attention,
  Experiment,
  LowRankAttention,
  WindowAttention,
)

BLOCKS = {"synthetic": 32, "movielens_1m": 20}
RANKS = {"synthetic": (2, 4, 8, 16, 32), "movielens_1m": (5,)}
# Two blocks; and, on the synthetic service, the pairs of four slots.
SPANS = {"synthetic": (64, 128), "movielens_1m": (40,)}


def experiments() -> dict[str, Experiment]:
  return ablations.ablate({data: changes(data) for data in SPANS})


def changes(data: str) -> ablations.Changes:
  attentions: dict[str, Attention] = {
    f"window_{span}": WindowAttention(span=span) for span in SPANS[data]
  }
  for rank in RANKS[data]:
    attentions[f"low_rank_{rank}"] = LowRankAttention(
      block=BLOCKS[data], rank=rank
    )
  return {
    arm: {"model.attention": attention} for arm, attention in attentions.items()
  }

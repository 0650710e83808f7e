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
              summary slots of each block of 32 (20) before them; one seed of
              the ranks from 8
"""

from experiments import ablations
from fmjax.config import (
  Experiment,
  LowRankAttention,
  WindowAttention,
)

BLOCKS = {"synthetic": 32, "movielens_1m": 20}
RANKS = {"synthetic": (2, 4), "movielens_1m": (5,)}
DEAR_RANKS = (8, 32)  # of the synthetic service
# Two blocks; and, on the synthetic service, the pairs of four slots.
SPANS = {"synthetic": (64, 128), "movielens_1m": (40,)}


def experiments() -> dict[str, Experiment]:
  whole = {
    data: {**windows(data), **low_rank(data, RANKS[data])} for data in SPANS
  }
  dear = {"synthetic": low_rank("synthetic", DEAR_RANKS)}
  return {**ablations.ablate(whole), **ablations.ablate(dear, seeds=1)}


def windows(data: str) -> ablations.Changes:
  return {
    f"window_{span}": {"model.attention": WindowAttention(span=span)}
    for span in SPANS[data]
  }


def low_rank(data: str, ranks: tuple[int, ...]) -> ablations.Changes:
  return {
    f"low_rank_{rank}": {
      "model.attention": LowRankAttention(block=BLOCKS[data], rank=rank)
    }
    for rank in ranks
  }

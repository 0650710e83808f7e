"""Metrics of parts of the queries: for whom, and for which items?"""

from collections.abc import Sequence

import numpy as np

from fmjax.eval.metrics import DRAWS, seeds_of, summary
from fmjax.eval.ranked import Ranked

# First value of each slice; the last one is open.
_EDGES = (0, 1, 5, 20, 100)

BY = {
  "history": "history_length",  # tokens before the target
  "item": "train_count",  # training tokens of the target: 0 is a new item
}


def slice_names() -> list[str]:
  """`0`, `1-4`, `5-19`, `20-99`, `100+`."""
  names = []
  for low, after in zip(_EDGES, (*_EDGES[1:], None), strict=True):
    if after is None:
      names.append(f"{low}+")
    else:
      names.append(str(low) if after == low + 1 else f"{low}-{after - 1}")
  return names


def slices(
  answers: Ranked | Sequence[Ranked], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, dict[str, float | int | list[float]]]]:
  """Summaries by slice, e.g. `slices(ranked)["item"]["1-4"]["ndcg@10"]`.

  The slices of one kind part the queries: each query is in exactly one. An
  empty slice has `queries` 0 and no metric. Several seeds are averaged.
  """
  runs = seeds_of(answers)
  result = {}
  for kind, column in BY.items():
    slot = np.searchsorted(_EDGES, getattr(runs[0], column), side="right") - 1
    result[kind] = {
      name: summary(
        [run.where(slot == number) for run in runs], draws=draws, seed=seed
      )
      for number, name in enumerate(slice_names())
    }
  return result

"""The best that any model can do, where the log was generated: the oracle.

Its ranks and probabilities are given all that happened before each target, and
the rules by which it was drawn. No model has a lower expected nll.
"""

import numpy as np
import pyarrow as pa

from fmjax.data.store import Index
from fmjax.eval.timeline import Queries


def oracle(
  queries: Queries, truth: pa.Table, *, index: Index
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The oracle's answers.

  Args:
    queries: n of them.
    truth: of every token (`Prepared.truth`).
    index: of the same data.

  Returns:
    rank, int32 [n], among the whole catalog; top10_nk, int32; nll, float32 [n].
  """
  ends = np.cumsum(index.tokens, dtype=np.int64)
  place = (ends - index.tokens)[queries.user] + queries.history_length
  asked = truth.take(pa.array(place))
  top10 = asked["top10"].combine_chunks()
  return (
    asked["rank"].to_numpy().astype(np.int32),
    top10.flatten().to_numpy().reshape(len(queries), -1),
    (-asked["log_p"].to_numpy()).astype(np.float32),
  )

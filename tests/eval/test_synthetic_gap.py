"""The generated log has much to be learned, from long ago and from ages, too.

The gap is between the best that is known without users, popularity by age and
hour, and the oracle.
"""

import numpy as np
import pytest

from experiments.synthetic import CORPUS
from fmjax.config import Synthetic
from fmjax.data.prepare import prepare
from fmjax.data.store import Prepared
from fmjax.eval.baselines import baselines

_REDUCED = Synthetic(events=200_000, users=650, items=5_000)


@pytest.mark.parametrize(
  "source",
  [
    pytest.param(_REDUCED, id="reduced", marks=pytest.mark.slow),
    pytest.param(CORPUS, id="reference", marks=pytest.mark.slow),
  ],
)
def test_the_gap_is_large_and_of_many_parts(tmp_path, source):
  prepared = prepare(source, tmp_path / "synthetic")
  gap, forgotten, ageless = parts_of_the_gap(prepared)
  assert gap >= 1.0
  assert forgotten >= gap / 4
  assert ageless >= gap / 4


def parts_of_the_gap(prepared: Prepared) -> tuple[float, float, float]:
  """Mean nats over all test targets: the gap, and what the oracle loses without
  events more than 100 back, and without ages."""
  results = baselines(prepared, split="test", targets="all")
  oracle = results["oracle"]
  truth = prepared.truth()
  assert truth is not None
  tokens = prepared.index.tokens.astype(np.int64)
  place = (np.cumsum(tokens) - tokens)[oracle.user] + oracle.history_length
  log_p, recent, ageless = (
    truth[name].to_numpy()[place]
    for name in ("log_p", "log_p_recent", "log_p_ageless")
  )
  gap = results["popularity_age_hour"].nll - oracle.nll
  return gap.mean(), (log_p - recent).mean(), (log_p - ageless).mean()

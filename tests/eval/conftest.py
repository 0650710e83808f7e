"""Random prepared data for evaluations."""

import numpy as np
import pytest
from data_fixtures import make_log

from fmjax.data.prepare import prepare_log
from fmjax.data.schema import Schema

_DAY_S = 86_400
_START_S = 1_600_000_000


def make_random_log(*, events=900, users=40, items=60, **schema):
  """Views and likes of forty days; some items are much more popular."""
  random = np.random.default_rng(0)
  columns = zip(
    np.sort(random.integers(0, 40 * _DAY_S, events)).tolist(),
    random.integers(0, users, events).tolist(),
    np.minimum(random.geometric(0.06, events), items).tolist(),
    random.choice(["view", "like"], events).tolist(),
    strict=True,
  )
  rows = [
    {
      "user_id": f"u{user}",
      "item_id": f"i{item}",
      "timestamp": _START_S + second,
      "action": action,
    }
    for second, user, item, action in columns
  ]
  return make_log(rows, schema=Schema(source="random", **schema))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  log = make_random_log(target_actions=("like",))
  return prepare_log(log, tmp_path_factory.mktemp("likes") / "prepared")


@pytest.fixture
def random_log():
  """`make_random_log` as a fixture."""
  return make_random_log

"""Popularity within the genres of a user's history, by its definition."""

import collections

import numpy as np
import pytest

from fmjax.config import TemporalSplit
from fmjax.data.prepare import prepare_log
from fmjax.data.schema import Feature, Kind, Schema
from fmjax.eval.baselines import baselines
from fmjax.eval.ranked import TOP
from fmjax.eval.timeline import timeline

_DAY_S = 86_400
_GENRES = [[], ["a"], ["b"], ["a", "b"], ["c", "a", "d"]]
_NONE = "none"


def _schema(*, repeats):
  return Schema(
    source="genres",
    metadata=(
      Feature(name="year", kind=Kind.CATEGORICAL),
      Feature(name="genre", kind=Kind.BAG),
      Feature(name="tag", kind=Kind.BAG),
    ),
    repeats=repeats,
  )


@pytest.fixture(scope="module", params=[True, False], ids=["repeats", "once"])
def prepared(request, prepared_of):
  rng = np.random.default_rng(0)
  times = np.sort(rng.integers(0, 30 * _DAY_S, 700))
  return prepared_of(
    [
      {
        "user_id": f"u{int(300 * rng.random() ** 2)}",
        "item_id": f"i{min(rng.geometric(0.05), 39)}",
        "timestamp": 1_600_000_000 + int(second),
      }
      for second in times
    ],
    items=[
      {
        "item_id": f"i{n}",
        "year": "1999",
        "genre": _GENRES[n % 5],
        "tag": ["x"],
      }
      for n in range(40)
    ],
    schema=_schema(repeats=request.param),
    split=TemporalSplit(validation=0.1, test=0.3),
  )


def _parts(prepared, row):
  """How much an item belongs to each of its genres."""
  names = _GENRES[int(prepared.catalog.item_ids[row][1:]) % 5] or [_NONE]
  return {name: 1 / len(names) for name in names}


def _probability(prepared, log, history, time_s):
  """Of every row, in plain loops."""
  rows = range(1, len(prepared.catalog))
  day = time_s // _DAY_S
  popularity = collections.Counter(rows)  # plus one
  for item, second in zip(log.item, log.time_s, strict=True):
    popularity[item] += day - 7 <= second // _DAY_S < day
  mass = collections.Counter()
  for row in rows:
    for name, part in _parts(prepared, row).items():
      mass[name] += part * popularity[row]
  counted = collections.Counter()
  for item in history:
    for name, part in _parts(prepared, item).items():
      counted[name] += part
  kinds = max(len(counted), 1)
  share = {
    name: (counted[name] + kinds * mass[name] / mass.total())
    / (len(history) + kinds)
    for name in mass
  }
  probability = np.zeros(len(prepared.catalog))
  for row in rows:
    probability[row] = sum(
      share[name] * part * popularity[row] / mass[name]
      for name, part in _parts(prepared, row).items()
    )
  return probability


def test_every_answer_is_as_defined(prepared):
  log = timeline(prepared)
  answer = baselines(prepared, split="test")["popularity_genre"]
  lengths = set()
  for place in range(0, len(answer.rank), 2):
    history = prepared.history(answer.user[place])["item"]
    history = history[: answer.history_length[place]].tolist()
    lengths.add(len(history))
    probability_v = _probability(prepared, log, history, answer.time_s[place])
    assert probability_v.sum() == pytest.approx(1)
    target = answer.item[place]
    assert answer.nll[place] == pytest.approx(
      -np.log(probability_v[target]), rel=1e-5
    )
    left = np.ones(len(probability_v), bool)
    left[0] = False
    if not prepared.schema.repeats:
      left[[item for item in history if item != target]] = False
    # A hair: sums in another order differ in the last bit.
    ahead = probability_v >= probability_v[target] * (1 - 1e-9)
    assert answer.rank[place] == (ahead & left).sum()
    top = answer.top10_nk[place][answer.top10_nk[place] > 0]
    assert len(set(top)) == len(top) == min(TOP, left.sum())
    assert left[top].all()
    best = np.sort(probability_v[left])[::-1][: len(top)]
    np.testing.assert_allclose(probability_v[top], best)
  assert 0 in lengths
  assert max(lengths) > 5


def test_without_a_bag_there_is_no_genre(random_log, tmp_path):
  prepared = prepare_log(random_log(), tmp_path / "prepared")
  assert "popularity_genre" not in baselines(prepared, split="test")

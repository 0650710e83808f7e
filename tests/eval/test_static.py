"""Popularity by age and hour, against a log whose rates are known."""

import dataclasses

import numpy as np
import pytest

from fmjax.config import TemporalSplit
from fmjax.data.schema import Feature, Kind, Schema
from fmjax.eval import static
from fmjax.eval.baselines import baselines
from fmjax.eval.timeline import timeline

_DAY_S = 86_400
_DAY_0 = 18_500
_DAYS = 60
_ITEMS = 40
_SCHEMA = Schema(
  source="rates",
  metadata=(Feature(name="genre", kind=Kind.BAG),),
  repeats=True,
)
_HALVING_DAYS = 8
_EVENING = 18


def _launch_day(item):
  """The first ten were there before the log."""
  return -20 if item < 10 else 2 * (item - 10)


def _rate(item, day, hour):
  """Expected events: items of the second genre are met in the evening."""
  age = day - _launch_day(item)
  if age < 0:
    return 0.0
  liked = (hour >= _EVENING) == (item % 2 == 1)
  popular = 0.2 + item % 5
  return popular * 2 ** (-age / _HALVING_DAYS) * (0.4 if liked else 0.1)


def _events(seed=0):
  rng = np.random.default_rng(seed)
  events = []
  for day in range(_DAYS):
    for hour in range(24):
      for item in range(_ITEMS):
        for _ in range(rng.poisson(_rate(item, day, hour))):
          second = (_DAY_0 + day) * _DAY_S + hour * 3_600
          events.append(
            {
              "user_id": f"u{rng.integers(50)}",
              "item_id": f"i{item}",
              "timestamp": second + int(rng.integers(3_600)),
            }
          )
  return events


def _items():
  return [
    {
      "item_id": f"i{item}",
      "launch_time": (_DAY_0 + _launch_day(item)) * _DAY_S * 10**6,
      "genre": [["day", "evening"][item % 2], "all"],
    }
    for item in range(_ITEMS)
  ]


@pytest.fixture(scope="module")
def prepared(prepared_of):
  return prepared_of(
    _events(), items=_items(), schema=_SCHEMA, split=TemporalSplit()
  )


@pytest.fixture(scope="module")
def fitted(prepared):
  return static.fit(prepared, timeline(prepared))


def _truth(prepared, hour):
  day, hour = divmod(hour, 24)
  rate_v = np.zeros(len(prepared.catalog))
  for item in range(_ITEMS):
    row = prepared.catalog.row_of(f"i{item}")
    rate_v[row] = _rate(item, day - _DAY_0, hour)
  return rate_v / rate_v.sum()


def test_probabilities_are_a_distribution_at_any_hour(fitted):
  for day in (_DAY_0 - 3, _DAY_0, _DAY_0 + 30, _DAY_0 + _DAYS + 400):
    for hour in (0, 23):
      probability_v = fitted.probabilities(day * 24 + hour)
      assert probability_v[0] == 0
      assert (probability_v[1:] > 0).all()
      assert probability_v.sum() == pytest.approx(1, abs=1e-12)


def test_known_rates_by_item_age_and_hour_are_found(prepared, fitted):
  """Nearly the loss of the truth, of which popularity is far."""
  found = baselines(prepared, split="test", targets="all")
  answer = found["popularity_age_hour"]
  true_nll = np.mean(
    [
      -np.log(_truth(prepared, int(time_s) // 3_600)[item])
      for item, time_s in zip(answer.item, answer.time_s, strict=True)
    ]
  )
  loss = answer.nll.mean() - true_nll
  assert 0 < loss < 0.15
  for name in ("popularity_all", "popularity_3d_rolling"):
    assert found[name].nll.mean() - true_nll > 2 * loss


def test_the_aging_halves_as_it_should(fitted):
  """Bucket 2 is age 0; buckets 8 and 10 begin at 8 and 16 days."""
  assert static._EDGES_DAYS[6] == 8
  assert static._EDGES_DAYS[8] == 16
  ratio = fitted.aging_g[10] / fitted.aging_g[8]
  # Mean of 2^(-age / 8) over 16 to 23 days, against 8 to 11.
  ages = [2.0 ** (-np.arange(a, b).mean() / _HALVING_DAYS) for a, b in
          ((16, 24), (8, 12))]  # fmt: skip
  assert ratio == pytest.approx(ages[0] / ages[1], rel=0.2)


def test_an_item_that_is_not_launched_has_hardly_any_rate(prepared, fitted):
  last = prepared.catalog.row_of(f"i{_ITEMS - 1}")
  launch_day = _DAY_0 + _launch_day(_ITEMS - 1)
  before = fitted.probabilities((launch_day - 1) * 24 + 20)[last]
  after = fitted.probabilities(launch_day * 24 + 20)[last]
  assert before < 1e-3 < 0.02 < after


def test_a_title_nobody_has_met_is_like_others_of_its_genre(
  prepared_of, prepared
):
  """Known by metadata alone: an evening title is met in the evening."""
  new = {"item_id": "new", "genre": ["evening"],
         "launch_time": (_DAY_0 + _DAYS) * _DAY_S * 10**6}  # fmt: skip
  with_new = prepared_of(
    _events(), items=[*_items(), new], schema=_SCHEMA, split=TemporalSplit()
  )
  fitted = static.fit(with_new, timeline(with_new))
  row = with_new.catalog.row_of("new")
  day = _DAY_0 + _DAYS
  at_noon, at_night = (
    fitted.probabilities(day * 24 + hour)[row] for hour in (12, 21)
  )
  # Half of it is of the genre "all", which no hour prefers.
  assert at_night > 1.4 * at_noon > 0
  assert with_new.catalog.train_count_v[row] == 0


def test_only_training_tokens_are_counted(prepared_of, prepared, fitted):
  cut_s = prepared.cuts.validation_us // 10**6
  events = [
    {**event, "item_id": "i0"} if event["timestamp"] >= cut_s else event
    for event in _events()
  ]
  other = prepared_of(
    events, items=_items(), schema=_SCHEMA, split=TemporalSplit()
  )
  again = static.fit(other, timeline(other))
  rows = [
    [p.catalog.row_of(f"i{item}") for item in range(_ITEMS)]
    for p in (prepared, other)
  ]
  for hour in (_DAY_0 * 24, (_DAY_0 + 70) * 24 + 20):
    np.testing.assert_array_equal(
      fitted.probabilities(hour)[rows[0]], again.probabilities(hour)[rows[1]]
    )


def test_without_metadata_the_hour_tells_nothing_and_age_still_does(
  prepared_of,
):
  bare = [
    {"item_id": item["item_id"], "launch_time": item["launch_time"]}
    for item in _items()
  ]
  prepared = prepared_of(
    _events(),
    items=bare,
    schema=dataclasses.replace(_SCHEMA, metadata=()),
    split=TemporalSplit(),
  )
  fitted = static.fit(prepared, timeline(prepared))
  noon, night = (
    fitted.probabilities((_DAY_0 + 40) * 24 + hour) for hour in (12, 21)
  )
  np.testing.assert_allclose(noon, night)
  assert fitted.aging_g[10] < 0.7 * fitted.aging_g[8]

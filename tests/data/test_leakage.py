"""What happens at or after a prediction's time does not reach it.

Raw events are changed, the whole pipeline runs again, and what a model would be
given is compared bit by bit.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fmjax.config import EventTokens, RunTokens, TemporalSplit
from fmjax.data.schema import Kind, When
from fmjax.data.windows import evaluation_batches, training_batches

_T0 = 1_600_000_000
_N = 48  # events
_VALIDATION_FROM, _TEST_FROM = 30, 40  # of them, in time order
# A hair more than the number, so that rounding never takes one more.
_SPLIT = TemporalSplit(
  validation=(_TEST_FROM - _VALIDATION_FROM) / _N, test=1 - _TEST_FROM / _N
)
_ITEMS = [
  {
    "item_id": f"i{n}",
    "language": f"l{n % 3}",
    "genre": [f"g{n % 4}", f"g{n % 3}x"],
    "minutes": 10.0 * n,
    "uploaded": 10**6 * n,
    "text": [n / 3, 1.0],
  }
  for n in range(12)
]

# Values that differ from those of `_events`, for every declared feature.
_OTHER = {
  "action": "other",
  "duration_ms": 987_654,
  "device": "fridge",
  "position": 77.0,
  "registered": 1_500_000_123,
  "interests": ["w", "q"],
  "context": [5.0, 6.0],
  "cause": "none",
  "rating": -8.0,
  "finished": 1_500_000_321,
  "tags": ["z"],
  "mood": [7.0, 8.0, 9.0],
}

_REQUEST = ["context", "device", "interests", "position", "registered"]


def _events(seed=0):
  """Events a minute apart, of every feature, with runs on one item."""
  rng = np.random.default_rng(seed)
  events = []
  for n in range(_N):
    user = f"u{rng.integers(4)}"
    item = f"i{rng.integers(8)}"
    if n and rng.random() < 0.4:
      user, item = events[-1]["user_id"], events[-1]["item_id"]
    events.append(
      {
        "user_id": user,
        "item_id": item,
        "timestamp": _T0 + 60 * n,
        "action": str(rng.choice(["play", "like"])),
        "duration_ms": int(rng.integers(100)),
        "device": str(rng.choice(["tv", "phone"])),
        "position": float(rng.integers(9)),
        "registered": _T0 - int(rng.integers(9)),
        "interests": ["x", "y"][: rng.integers(3)],
        "context": rng.normal(size=2).tolist(),
        "cause": str(rng.choice(["a", "b"])),
        "rating": float(rng.integers(5)),
        "finished": _T0 + int(rng.integers(9)),
        "tags": ["s", "t", "u"][: rng.integers(4)],
        "mood": rng.normal(size=3).tolist(),
      }
    )
  return events


@pytest.fixture(scope="module")
def prepare(prepared_of, every_kind):
  def prepared(events, *, granularity=None, split=_SPLIT):
    return prepared_of(
      events,
      items=_ITEMS,
      schema=every_kind,
      granularity=granularity or EventTokens(),
      split=split,
    )

  return prepared


def _train_side(prepared):
  """All that training may know: statistics, codes, histories up to the cut."""
  catalog, train_end = prepared.catalog, prepared.index.train_end
  rows = 1 + int(np.flatnonzero(catalog.train_count_v).max())
  users = np.flatnonzero(train_end)
  histories = {}
  for user in users:
    history = prepared.history(user)
    histories[prepared.user_ids[user]] = {
      name: values[: train_end[user]] for name, values in history.items()
    }
  spec = prepared.spec
  return {
    "features": spec.features,
    "metadata": spec.metadata,
    "vocabularies": [e.vocabulary for e in prepared.encodings],
    "users": prepared.user_ids[users],
    "histories": histories,
    "item_ids": catalog.item_ids[:rows],
    "train_count": catalog.train_count_v[:rows],
    "first_seen": catalog.first_seen_us_v[:rows],
    "encoded": {name: v[:rows] for name, v in catalog.metadata.items()},
  }


def _batches(prepared):
  dataset = training_batches(prepared, window=8, stride=4, rows=2, seed=3)
  return [dataset[step] for step in range(4)]


def _assert_same_batches(after, before):
  """Whatever users there are after the cut."""
  for one, other in zip(_batches(before), _batches(after), strict=True):
    np.testing.assert_equal(vars(other), vars(one))


# Not shrunk: an example runs the pipeline, and is readable as it is.
_SETTINGS = {
  "deadline": None,
  "derandomize": True,
  "phases": [Phase.explicit, Phase.generate],
  "suppress_health_check": list(HealthCheck),
}

_CHANGED = st.fixed_dictionaries(
  {
    "user_id": st.sampled_from(["u0", "u1", "new"]),
    "item_id": st.sampled_from(["i0", "i5", "i10", "other"]),
  },
  optional={name: st.just(value) for name, value in _OTHER.items()},
)


@settings(max_examples=5, **_SETTINGS)
@given(
  st.lists(
    _CHANGED, min_size=_N - _VALIDATION_FROM, max_size=_N - _VALIDATION_FROM
  )
)
def test_no_change_after_the_cut_reaches_training(prepare, changes):
  events = _events()
  before = prepare(events)
  changed = events[:_VALIDATION_FROM] + [
    {**event, **change}
    for event, change in zip(events[_VALIDATION_FROM:], changes, strict=True)
  ]
  after = prepare(changed)
  assert after.cuts == before.cuts
  np.testing.assert_equal(_train_side(after), _train_side(before))
  _assert_same_batches(after, before)


@settings(max_examples=4, **_SETTINGS)
@given(st.lists(_CHANGED, min_size=1, max_size=30))
def test_no_event_added_after_the_cut_reaches_training(prepare, added):
  events = _events()
  before = prepare(events)
  later = [
    {**events[0], **change, "timestamp": _T0 + 60 * _N + n}
    for n, change in enumerate(added)
  ]
  count = _N + len(later)
  split = TemporalSplit(
    validation=(_TEST_FROM - _VALIDATION_FROM) / count,
    test=1 - _TEST_FROM / count,
  )
  after = prepare(events + later, split=split)
  assert after.cuts == before.cuts
  np.testing.assert_equal(_train_side(after), _train_side(before))
  _assert_same_batches(after, before)


def test_a_run_that_reaches_over_the_cut_teaches_nothing(prepare):
  events = _events()
  # The first event after the cut goes on with the last run before it.
  for n in (_VALIDATION_FROM - 1, _VALIDATION_FROM):
    events[n] = {**events[n], "user_id": "u0", "item_id": "i11"}
  before = prepare(events, granularity=RunTokens())
  events[_VALIDATION_FROM] = {**events[_VALIDATION_FROM], **_OTHER}
  after = prepare(events, granularity=RunTokens())
  assert before.manifest["counts"]["tokens_by_split"]["crossing"] >= 1
  assert after.catalog.train_count_v[after.catalog.row_of("i11")] == 0
  np.testing.assert_equal(_train_side(after), _train_side(before))


# ---- predictions ---------------------------------------------------------


def _inputs(prepared):
  """What each prediction of validation and test is given, by (user, index).

  All that stands in its segment up to its own position.
  """
  inputs = {}
  for split in ("validation", "test"):
    dataset = evaluation_batches(
      prepared, split=split, targets="all", window=16, rows=2
    )
    for batch in (dataset[step] for step in range(len(dataset))):
      for b, t in zip(*np.nonzero(batch.weight_bt), strict=True):
        seen = np.flatnonzero(batch.segment_bt[b] == batch.segment_bt[b, t])
        seen = seen[seen <= t]
        user_id = prepared.user_ids[batch.user_bt[b, t]]
        inputs[user_id, batch.index_bt[b, t]] = {
          "time": batch.time_bt[b, seen],
          "index": batch.index_bt[b, seen],
          "request": {k: v[b, seen] for k, v in batch.request.items()},
          "previous": {k: v[b, seen] for k, v in batch.previous.items()},
        }
  assert inputs
  return inputs


@pytest.fixture(scope="module")
def reference(prepare):
  prepared = prepare(_events())
  return prepared, _inputs(prepared)


@pytest.mark.parametrize("name", sorted(_OTHER))
def test_a_feature_reaches_predictions_only_when_it_is_known(
  prepare, reference, every_kind, name
):
  """Changed at one event: its own prediction sees it if it is request-time."""
  declared = {f.name: f for f in every_kind.token_features}[name]
  n = _TEST_FROM - 3
  events = _events()
  events[n] = {**events[n], name: _OTHER[name]}
  _, inputs_before = reference
  inputs_after = _inputs(prepare(events))
  assert inputs_after.keys() == inputs_before.keys()

  user_id = events[n]["user_id"]
  mine = [e["timestamp"] for e in events if e["user_id"] == user_id]
  index = mine.index(events[n]["timestamp"])
  first_sight = index + (declared.when is When.POST_ACTION)
  kind = "request" if declared.when is When.REQUEST else "previous"
  for (user, at), was in inputs_before.items():
    now = inputs_after[user, at]
    if user != user_id or at < first_sight:
      np.testing.assert_equal(now, was)
      continue
    place = np.flatnonzero(now["index"] == first_sight)
    seen, seen_before = (x[kind][name][place] for x in (now, was))
    assert not np.array_equal(seen, seen_before, equal_nan=True)
    # And nothing else changed.
    for other in ("request", "previous"):
      for column, values in was[other].items():
        if column.removesuffix("_count") != name:
          np.testing.assert_array_equal(now[other][column], values)


def test_an_item_reaches_no_prediction_before_the_next(prepare, reference):
  n = _TEST_FROM - 3
  events = _events()
  events[n] = {**events[n], "item_id": "i9"}
  _, inputs_before = reference
  user_id = events[n]["user_id"]
  mine = [e["timestamp"] for e in events if e["user_id"] == user_id]
  index = mine.index(events[n]["timestamp"])
  inputs_after = _inputs(prepare(events))
  for (user, at), was in inputs_before.items():
    if user != user_id or at <= index:
      np.testing.assert_equal(inputs_after[user, at], was)


@pytest.mark.parametrize("name", _REQUEST)
def test_within_a_run_later_request_features_are_never_read(prepare, name):
  """The request of a token is its first event's, whatever follows in it."""
  events = _events()
  later = next(
    n
    for n in range(_TEST_FROM, _N)
    if events[n]["item_id"] == events[n - 1]["item_id"]
    and events[n]["user_id"] == events[n - 1]["user_id"]
  )
  before = prepare(events, granularity=RunTokens())
  events[later] = {**events[later], name: _OTHER[name]}
  after = prepare(events, granularity=RunTokens())
  for user in range(len(before.index)):
    np.testing.assert_equal(after.history(user), before.history(user))


def test_every_declared_feature_is_tried(every_kind):
  assert set(_OTHER) == {f.name for f in every_kind.token_features} - {
    "event_count"
  }
  assert (
    sorted(f.name for f in every_kind.token_features if f.when is When.REQUEST)
    == _REQUEST
  )
  for when in When:
    kinds = {f.kind for f in every_kind.features if f.when is when}
    assert kinds == set(Kind)

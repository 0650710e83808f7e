"""Importance of targets, from what was logged; batches stay functions."""

import numpy as np
import pytest
from test_windows import START_S, leaves, same

from fmjax.config import (
  Completion,
  ConfigError,
  DataConfig,
  EqualWeights,
  Experiment,
  HeldOutItems,
  LogDuration,
  RecencyWeighted,
  TemporalSplit,
  override,
  validate,
)
from fmjax.data import decoded
from fmjax.data.decoded import OnDisk, histories
from fmjax.data.held_out import hold_out
from fmjax.data.schema import Feature, Kind, Schema
from fmjax.data.windows import epoch_facts, tokens_per_epoch, training_batches

SCHEMA = Schema(
  source="films",
  features=(
    Feature(name="watched", kind=Kind.NUMERIC),
    Feature(name="mood", kind=Kind.CATEGORICAL),
    Feature(name="nothing", kind=Kind.NUMERIC),
  ),
  target_actions=("click",),
)
_OPTIONS = {"window": 8, "stride": 5, "rows": 4, "seed": 7}


def make_events():
  """Values are missing, 0 or off their range here and there."""
  rng = np.random.default_rng(2)
  return [
    {
      "user_id": f"u{user}",
      "item_id": f"i{rng.integers(20)}",
      "timestamp": START_S + 1_000 * (100 * user + place),
      "action": "click" if rng.random() < 0.7 else "view",
      "duration_ms": [None, 0, 1, 90_000, 10_000_000][rng.integers(5)],
      "watched": [None, 0.0, 0.25, 1.0, 1.5, -0.5][rng.integers(6)],
    }
    for user in range(12)
    for place in range(int(rng.integers(4, 30)))
  ]


EVENTS = make_events()


@pytest.fixture(scope="module")
def prepared(prepared_of):
  split = TemporalSplit(validation=0.1, test=0.1)
  return prepared_of(EVENTS, schema=SCHEMA, split=split)


def an_epoch(prepared, weighting, **options):
  rows = epoch_facts(prepared, window=8, stride=5, seed=7).rows
  dataset = training_batches(
    prepared, weighting=weighting, **{**_OPTIONS, **options}
  )
  return [dataset[t] for t in range(-(-rows // 4))]


def logged(prepared):
  """The event of (user, index): times give the order, all of them differ."""
  row_of = {user_id: row for row, user_id in enumerate(prepared.user_ids)}
  found, index = {}, {}
  for event in sorted(EVENTS, key=lambda event: event["timestamp"]):
    user = row_of[event["user_id"]]
    index[user] = index.get(user, -1) + 1
    found[user, index[user]] = event
  return found


def by_hand(weighting, event):
  match weighting:
    case LogDuration(cap_s=cap_s):
      return np.log1p(min((event["duration_ms"] or 0) / 1_000, cap_s))
    case Completion():
      return min(max(event["watched"] or 0.0, 0.0), 1.0)


WEIGHTINGS = (
  LogDuration(),
  LogDuration(cap_s=30.0),
  Completion(feature="watched"),
)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
def test_a_target_weighs_what_was_logged_and_the_mean_of_targets_is_one(
  prepared, weighting
):
  plain = an_epoch(prepared, EqualWeights())
  weighed = an_epoch(prepared, weighting)
  event_of = logged(prepared)
  weights, wanted = {}, {}
  for one, other in zip(plain, weighed, strict=True):
    assert other.weight_bt.dtype == np.float32
    arrays, changed = leaves(one), leaves(other)
    # What is of no importance is context as before.
    for name in arrays.keys() - {"weight_bt"}:
      np.testing.assert_array_equal(arrays[name], changed[name])
    assert not other.weight_bt[one.weight_bt == 0].any()
    for b, t in np.argwhere(one.weight_bt > 0):
      key = int(one.user_bt[b, t]), int(one.index_bt[b, t])
      weights[key] = float(other.weight_bt[b, t])
      wanted[key] = by_hand(weighting, event_of[key])
  got, want = (np.array([d[key] for key in weights]) for d in (weights, wanted))
  np.testing.assert_array_equal(got > 0, want > 0)
  assert (want == 0).any()
  np.testing.assert_allclose(got, want / want[want > 0].mean(), rtol=1e-4)
  assert len(got) == tokens_per_epoch(prepared)
  targets = np.count_nonzero(want)
  assert tokens_per_epoch(prepared, weighting) == targets
  facts = epoch_facts(prepared, window=8, stride=5, seed=7, weighting=weighting)
  assert facts.tokens == targets


def test_weights_multiply_those_of_recency_and_of_held_out_items(prepared):
  recency = RecencyWeighted(half_life_days=5.0)
  held = hold_out(prepared, HeldOutItems(share=0.3))
  weighting = LogDuration()
  alone = an_epoch(held, weighting)
  old = an_epoch(held, EqualWeights(), recency=recency)
  for one, other, both in zip(
    alone, old, an_epoch(held, weighting, recency=recency), strict=True
  ):
    np.testing.assert_allclose(
      both.weight_bt, one.weight_bt * other.weight_bt, rtol=1e-6
    )
    out = held.held_out_v[one.item_bt]
    assert not both.weight_bt[out].any()


def test_a_log_read_from_disk_gives_the_same_weights(prepared, monkeypatch):
  in_memory = an_epoch(prepared, LogDuration())
  monkeypatch.setattr(decoded, "_MEMORY_LIMIT", 0)
  monkeypatch.setattr(decoded, "_USERS_AT_ONCE", 5)
  assert isinstance(histories(prepared), OnDisk)
  on_disk = an_epoch(prepared, LogDuration())
  assert all(map(same, on_disk, in_memory))


@pytest.mark.parametrize(
  "feature,reason",
  [
    ("watchd", "no numeric feature of films; did you mean 'watched'"),
    ("mood", "no numeric feature of films; known: duration_ms, event_count"),
    ("nothing", r"unimportant: nothing is missing in 100% .* EqualWeights\(\)"),
    ("duration_ms", r"share, .* duration_ms above .* use LogDuration\(\)"),
  ],
)
def test_what_the_log_cannot_weigh_is_refused(prepared, feature, reason):
  with pytest.raises(ConfigError, match=reason):
    training_batches(
      prepared, weighting=Completion(feature=feature), **_OPTIONS
    )


def test_a_cap_of_nothing_is_refused():
  experiment = Experiment(data=DataConfig(weighting=LogDuration()))
  validate(experiment)
  with pytest.raises(ConfigError, match=r"data.weighting.cap_s=0.0"):
    validate(override(experiment, {"data.weighting.cap_s": 0.0}))

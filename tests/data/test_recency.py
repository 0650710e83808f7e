"""Recent tokens count more by weight or by order; batches stay functions."""

import numpy as np
import pytest
from test_windows import SCHEMA, START_S, leaves, random_events, same

from fmjax.config import (
  ChronologicalLast,
  ConfigError,
  DataConfig,
  Experiment,
  LeaveLastOut,
  RecencyWeighted,
  TemporalSplit,
  UniformRecency,
  override,
  validate,
)
from fmjax.data import decoded
from fmjax.data.decoded import OnDisk, histories, token_times
from fmjax.data.recency import in_time_order
from fmjax.data.schema import Schema
from fmjax.data.windows import epoch_facts, training_batches

_DAY_S = 86_400
_OPTIONS = {"window": 8, "stride": 5, "rows": 4, "seed": 7}


@pytest.fixture(scope="module")
def prepared(prepared_of):
  return prepared_of(
    random_events(),
    schema=SCHEMA,
    split=TemporalSplit(validation=0.1, test=0.1),
  )


def _batches(prepared, recency, *, steps, count=None, **options):
  dataset = training_batches(
    prepared, recency=recency, steps=steps, **{**_OPTIONS, **options}
  )
  return [dataset[t] for t in range(count or steps)]


def _epoch_steps(prepared):
  facts = epoch_facts(prepared, window=8, stride=5, seed=7)
  return -(-facts.rows // 4)


@pytest.mark.parametrize("half_life_days", [0.5, 10.0])
def test_a_weight_halves_with_every_half_life_and_their_mean_is_one(
  prepared, half_life_days
):
  recency = RecencyWeighted(half_life_days=half_life_days)
  steps = _epoch_steps(prepared)
  plain = _batches(prepared, UniformRecency(), steps=steps)
  weighted = _batches(prepared, recency, steps=steps)
  times, weights = {}, {}
  for one, other in zip(plain, weighted, strict=True):
    assert other.weight_bt.dtype == np.float32
    arrays, changed = leaves(one), leaves(other)
    for name in arrays.keys() - {"weight_bt"}:
      np.testing.assert_array_equal(arrays[name], changed[name])
    np.testing.assert_array_equal(one.weight_bt > 0, other.weight_bt > 0)
    for b, t in np.argwhere(one.weight_bt > 0):
      key = (int(one.user_bt[b, t]), int(one.index_bt[b, t]))
      times[key] = int(one.time_bt[b, t])
      weights[key] = float(other.weight_bt[b, t])
  facts = epoch_facts(prepared, window=8, stride=5, seed=7)
  assert len(weights) == facts.tokens
  assert np.mean(list(weights.values())) == pytest.approx(1, rel=1e-5)
  newest = max(times, key=lambda key: times[key])
  for key, time_s in times.items():
    lives = (times[newest] - time_s) / (half_life_days * _DAY_S)
    expected = weights[newest] * 2.0 ** -min(lives, 100)
    assert weights[key] == pytest.approx(expected, rel=1e-5)


def test_no_event_after_the_cut_changes_a_weight(prepared_of, prepared):
  """Not even how many of them there are."""
  cut_s = prepared.cuts.validation_us // 10**6
  events = [
    {**event, "user_id": "someone", "item_id": "else"}
    if event["timestamp"] >= cut_s
    else event
    for event in random_events()
  ]
  after = prepared_of(
    events, schema=SCHEMA, split=TemporalSplit(validation=0.1, test=0.1)
  )
  for recency in (
    RecencyWeighted(half_life_days=20),
    ChronologicalLast(share=0.5),
  ):
    for one, other in zip(
      _batches(prepared, recency, steps=20),
      _batches(after, recency, steps=20),
      strict=True,
    ):
      np.testing.assert_array_equal(one.weight_bt, other.weight_bt)
      np.testing.assert_array_equal(one.time_bt, other.time_bt)


def _last_times(batch):
  """Time of the last token of each filled row."""
  return [
    int(time_t[segment_t > 0].max())
    for time_t, segment_t in zip(batch.time_bt, batch.segment_bt, strict=True)
  ]


def test_the_last_steps_are_an_epoch_in_order_of_time(prepared):
  steps = 2 * _epoch_steps(prepared)
  plan = in_time_order(
    prepared, prepared.index.train_end, window=8, stride=5, seed=7
  )
  ordered = plan.rows // 4  # whole steps
  share = ordered / steps
  batches = _batches(prepared, ChronologicalLast(share=share), steps=steps)
  plain = _batches(prepared, UniformRecency(), steps=steps)
  for one, other in zip(
    plain[: steps - ordered], batches[: steps - ordered], strict=True
  ):
    assert same(one, other)
  times = [time for batch in batches[-ordered:] for time in _last_times(batch)]
  assert len(times) == 4 * ordered
  assert times == sorted(times)
  # The last of all is the last training token there is.
  log = histories(prepared)
  end = prepared.index.train_end
  users = np.flatnonzero(end)
  assert times[-1] == token_times(log, users, end[users] - 1).max()


def test_an_ordered_epoch_asks_for_every_training_token_once(prepared):
  end = prepared.index.train_end
  plan = in_time_order(prepared, end, window=8, stride=5, seed=3)
  asked = [
    (int(user), token)
    for user, first, stop in zip(
      plan.windows.user,
      plan.windows.first_target,
      plan.windows.end,
      strict=True,
    )
    for token in range(first, stop)
  ]
  assert sorted(asked) == [(u, t) for u, n in enumerate(end) for t in range(n)]
  # Rows are numbered in order, their windows side by side and in order.
  assert (np.diff(plan.row) >= 0).all()
  for row in range(plan.rows):
    here = plan.row == row
    ends = np.cumsum(plan.windows.length[here])
    assert plan.offset[here].tolist() == [0, *ends[:-1]]
    assert plan.segment[here].tolist() == list(range(1, 1 + here.sum()))
    assert ends[-1] <= 8


def test_a_phase_longer_than_an_epoch_repeats_it_and_ends_at_the_cut(prepared):
  plan = in_time_order(
    prepared, prepared.index.train_end, window=8, stride=5, seed=7
  )
  steps = 3 + 2 * plan.rows // 4
  batches = _batches(prepared, ChronologicalLast(share=1), steps=steps)
  times = [time for batch in batches for time in _last_times(batch)]
  last = times[-plan.rows :]
  assert last == sorted(last)
  assert times[-2 * plan.rows : -plan.rows] == last


def test_the_ordered_steps_are_a_function_of_seed_and_step(prepared):
  recency = ChronologicalLast(share=0.5)
  once = _batches(prepared, recency, steps=12, count=14)
  again = training_batches(prepared, recency=recency, steps=12, **_OPTIONS)
  for t in (13, 6, 0, 11):
    assert same(again[t], once[t])
  other = _batches(prepared, recency, steps=12, seed=8)
  assert not same(other[8], once[8])


def test_processes_share_the_ordered_steps(prepared):
  recency = ChronologicalLast(share=0.5)
  whole = _batches(prepared, recency, steps=10)
  halves = [
    _batches(prepared, recency, steps=10, process_index=p, process_count=2)
    for p in range(2)
  ]
  for t, batch in enumerate(whole):
    for name, array in leaves(batch).items():
      parts = [leaves(half[t])[name] for half in halves]
      np.testing.assert_array_equal(array, np.concatenate(parts))


@pytest.mark.parametrize("recency", [RecencyWeighted(), ChronologicalLast()])
def test_recency_without_real_times_is_refused(prepared_of, recency):
  events = [
    {"user_id": f"u{n % 5}", "item_id": f"i{n % 7}", "timestamp": START_S + n}
    for n in range(60)
  ]
  prepared = prepared_of(
    events, schema=Schema(source="order", timed=False), split=LeaveLastOut()
  )
  with pytest.raises(ConfigError, match=r"order has only an order; use Unif"):
    training_batches(prepared, recency=recency, steps=10, **_OPTIONS)


def test_leave_last_out_can_weigh_by_recency(prepared_of):
  prepared = prepared_of(random_events(), schema=SCHEMA, split=LeaveLastOut())
  for recency in (RecencyWeighted(half_life_days=9), ChronologicalLast()):
    batch = _batches(prepared, recency, steps=10)[-1]
    assert (batch.weight_bt > 0).any()


@pytest.mark.parametrize(
  "recency, message",
  [
    (RecencyWeighted(half_life_days=0.0), "half_life_days=0.0 is not positive"),
    (ChronologicalLast(share=0.0), r"share=0.0 is not in \(0, 1\]"),
    (ChronologicalLast(share=1.1), r"share=1.1 is not in \(0, 1\]"),
    (ChronologicalLast(share=float("nan")), "share=nan"),
  ],
)
def test_a_recency_that_means_nothing_is_refused(recency, message):
  config = override(Experiment(data=DataConfig()), {"data.recency": recency})
  with pytest.raises(ConfigError, match=message):
    validate(config)


def test_a_last_phase_of_no_step_is_refused():
  changes = {"data.recency": ChronologicalLast(share=0.001), "run.steps": 400}
  with pytest.raises(ConfigError, match=r"of run\.steps=400 is not one"):
    validate(override(Experiment(data=DataConfig()), changes))


def test_a_log_read_from_disk_gives_the_same_steps(prepared, monkeypatch):
  recencies = (RecencyWeighted(half_life_days=9), ChronologicalLast(share=0.5))
  held = [_batches(prepared, recency, steps=8) for recency in recencies]
  monkeypatch.setattr(decoded, "_MEMORY_LIMIT", 0)
  monkeypatch.setattr(decoded, "_USERS_AT_ONCE", 5)
  assert isinstance(histories(prepared), OnDisk)
  for recency, batches in zip(recencies, held, strict=True):
    read = _batches(prepared, recency, steps=8)
    assert all(same(a, b) for a, b in zip(batches, read, strict=True))

"""Ages and counts of candidates: what is known when."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from item_world import age_at_event

from fmjax.config import EventTokens, RunTokens, TemporalSplit
from fmjax.data.catalog import NEVER_US, Catalog, Daily
from fmjax.data.dynamic import NOT_SEEN, dated, launch_seconds
from fmjax.data.schema import DataError, Schema

_DAY_S = 86_400
_DAY_0 = 18_519  # of the first event, days since 1970
_START_S = _DAY_0 * _DAY_S
_DAYS = 40
_ITEMS = 9
_SPLIT = TemporalSplit(validation=0.2, test=0.2)
_SCHEMA = Schema(source="tiny", target_actions=("play",))


def _launch_s(number):
  """Declared of the first three items: before, within and after the log."""
  return [-500, 3 * _DAY_S + 77, 10**7][number] + _START_S


_DESCRIBED = [
  {
    "item_id": f"i{n}",
    "launch_time": _launch_s(n) * 10**6 if n < 3 else None,
  }
  for n in range(_ITEMS)
]


def _events(seed=0, count=150):
  """Plays and trailers; the higher an item's number, the later it starts."""
  rng = np.random.default_rng(seed)
  seconds = np.sort(rng.choice(_DAYS * _DAY_S, count, replace=False))
  items = rng.integers(0, 2 + (_ITEMS - 2) * seconds // (_DAYS * _DAY_S))
  return [
    {
      "user_id": f"u{rng.integers(3)}",
      "item_id": f"i{item}",
      "timestamp": _START_S + int(second),
      "action": str(rng.choice(["play", "trailer"])),
    }
    for item, second in zip(items, seconds, strict=True)
  ]


@pytest.fixture(scope="module")
def catalog_of(prepared_of):
  def catalog(events, *, granularity=None):
    prepared = prepared_of(
      events,
      items=_DESCRIBED,
      schema=_SCHEMA,
      granularity=granularity or EventTokens(),
      split=_SPLIT,
    )
    return prepared.catalog

  return catalog


# ---- by definition -------------------------------------------------------


def _expected_age(events, number, at_s):
  """Age of an item at a time, from the raw events."""
  if number < 3:
    return max(0, (at_s - _launch_s(number)) // _DAY_S)
  times = [e["timestamp"] for e in events if e["item_id"] == f"i{number}"]
  if not times or min(times) >= at_s:
    return NOT_SEEN
  return (at_s - min(times)) // _DAY_S


def _expected_age_on(events, number, day):
  """Whole days between dates: a launch at noon is a day old at midnight."""
  if number < 3:
    return max(NOT_SEEN, day - _launch_s(number) // _DAY_S)
  times = [e["timestamp"] for e in events if e["item_id"] == f"i{number}"]
  if not times or min(times) >= day * _DAY_S:
    return NOT_SEEN
  return day - min(times) // _DAY_S


def test_ages_and_counts_are_as_defined(catalog_of):
  events = _events()
  catalog = catalog_of(events)
  tables = dated(catalog)
  assert tables.first_day == _DAY_0
  last_day = events[-1]["timestamp"] // _DAY_S
  assert len(tables.age_dv) == last_day + 2 - _DAY_0
  assert tables.count_fdv.dtype == np.int32
  assert not tables.count_fdv[:, :, 0].any()
  assert (tables.age_dv[:, 0] == NOT_SEEN).all()
  for number in range(_ITEMS):
    row = catalog.row_of(f"i{number}")
    played = [
      event["timestamp"]
      for event in events
      if event["item_id"] == f"i{number}" and event["action"] == "play"
    ]
    for d in range(len(tables.age_dv)):
      start = (_DAY_0 + d) * _DAY_S
      assert tables.age_dv[d, row] == _expected_age_on(
        events, number, _DAY_0 + d
      )
      for count_dv, days in zip(tables.count_fdv, (1, 3, 7, 30), strict=True):
        recent = [s for s in played if start - days * _DAY_S <= s < start]
        assert count_dv[d, row] == len(recent)


def test_the_age_at_an_event_is_as_defined(catalog_of):
  events = _events()
  catalog = catalog_of(events)
  times = [e["timestamp"] + late for e in events for late in (0, 1)]
  for number in range(_ITEMS):
    item_n = np.full(len(times), catalog.row_of(f"i{number}"))
    ages = age_at_event(catalog, item_n, np.array(times, np.int32))
    assert ages.dtype == np.int32
    expected = [_expected_age(events, number, s) for s in times]
    assert ages.tolist() == expected


def test_the_first_event_of_an_item_does_not_know_its_age(catalog_of):
  """Else age 0 would name the target of every first event."""
  events = _events()
  catalog = catalog_of(events)
  first = {}
  for event in events:
    first.setdefault(event["item_id"], event["timestamp"])
  undeclared = [item for item in first if int(item[1:]) >= 3]
  rows = np.array([catalog.row_of(item) for item in undeclared])
  times = np.array([first[item] for item in undeclared])
  assert (age_at_event(catalog, rows, times) == NOT_SEEN).all()
  tables = dated(catalog)
  on_day_v = tables.age_dv[times // _DAY_S - tables.first_day, rows]
  assert (on_day_v == NOT_SEEN).all()


def _small_catalog(items=4, *, day=(100,), launch_us=NEVER_US):
  return Catalog(
    item_ids=np.array([str(v) for v in range(items)], object),
    titles=np.array([str(v) for v in range(items)], object),
    launch_us_v=np.full(items, launch_us),
    launch_declared_v=np.full(items, launch_us != NEVER_US),
    first_seen_us_v=np.full(items, NEVER_US),
    train_count_v=np.zeros(items, np.int32),
    metadata={},
    daily=Daily(
      day=np.array(day, np.int32),
      item=np.ones(len(day), np.int32),
      events=np.ones(len(day), np.int32),
    ),
  )


def test_items_of_a_launch_nobody_knows_are_never_seen():
  tables = dated(_small_catalog())
  assert (tables.age_dv == NOT_SEEN).all()
  assert tables.first_day == 100


def test_tables_that_would_fill_the_memory_are_refused():
  catalog = _small_catalog(50_000, day=(0, 20_000))
  with pytest.raises(DataError) as error:
    dated(catalog)
  for word in ("50000 items", "20002 days", "20002000000 bytes", "NoDynamics"):
    assert word in str(error.value)
  with pytest.raises(DataError, match=r"^ages of .* 4000400000 .* NoAge\(\)"):
    dated(catalog, counts=False)


def test_counts_that_nobody_reads_are_not_made(catalog_of):
  catalog = catalog_of(_events())
  tables = dated(catalog, counts=False)
  assert tables.count_fdv.shape[0] == 0
  assert np.array_equal(tables.age_dv, dated(catalog).age_dv)


def test_launch_seconds_fit_in_an_int32():
  limits = {
    10**18: 2**31 - 1,
    NEVER_US: 2**31 - 1,
    -(10**18): -(2**31),
    -1: -1,
    1_999_999: 1,
  }
  for us, seconds in limits.items():
    launch_v = launch_seconds(_small_catalog(launch_us=us))
    assert launch_v.dtype == np.int32
    assert (launch_v == seconds).all()


def test_a_launch_before_1970_has_its_age():
  film = _small_catalog(launch_us=-(10**9) * 10**6)  # 1938
  age = age_at_event(film, np.array([1]), np.array([2 * 10**9], np.int32))
  assert age.tolist() == [3 * 10**9 // _DAY_S]


# ---- nothing that happens at or after t changes what is known at t --------

# Not shrunk: an example runs the pipeline, and is readable as it is.
_SETTINGS = {
  "deadline": None,
  "derandomize": True,
  "phases": [Phase.explicit, Phase.generate],
  "suppress_health_check": list(HealthCheck),
}

_CHANGES = st.lists(
  st.fixed_dictionaries(
    {},
    optional={
      "user_id": st.sampled_from(["u0", "u1", "new"]),
      "item_id": st.sampled_from([f"i{n}" for n in range(_ITEMS)]),
      "action": st.sampled_from(["play", "trailer"]),
      "timestamp": st.integers(0, 3 * _DAY_S),  # seconds later
    },
  ),
  min_size=5,
  max_size=60,
)


def _changed(events, changes, *, since_s):
  """Every event at or after a time is another one, none of them earlier."""
  kept = [e for e in events if e["timestamp"] < since_s]
  later = [e for e in events if e["timestamp"] >= since_s]
  for number, event in enumerate(later):
    change = dict(changes[number % len(changes)])
    delay = change.pop("timestamp", 0)
    kept.append({**event, **change, "timestamp": event["timestamp"] + delay})
  return sorted(kept, key=lambda event: event["timestamp"])


@pytest.mark.parametrize(
  "granularity",
  [
    pytest.param(EventTokens(), marks=pytest.mark.slow),
    RunTokens(max_gap_s=_DAY_S),  # the harder: a run may reach over midnight
  ],
)
@settings(max_examples=6, **_SETTINGS)
@given(
  changes=_CHANGES, day=st.integers(15, _DAYS - 2), seed=st.integers(0, 99)
)
def test_candidates_of_a_day_know_nothing_that_happens_from_its_start(
  catalog_of, granularity, changes, day, seed
):
  events = _events(seed)
  now = _DAY_0 + day
  before = catalog_of(events, granularity=granularity)
  after = catalog_of(
    _changed(events, changes, since_s=now * _DAY_S), granularity=granularity
  )
  known, other = dated(before), dated(after)
  assert known.first_day == other.first_day
  days = slice(0, now - _DAY_0 + 1)
  for item in (f"i{n}" for n in range(_ITEMS)):
    row, row_after = before.row_of(item), after.row_of(item)
    np.testing.assert_array_equal(
      known.age_dv[days, row], other.age_dv[days, row_after]
    )
    np.testing.assert_array_equal(
      known.count_fdv[:, days, row], other.count_fdv[:, days, row_after]
    )


@settings(max_examples=6, **_SETTINGS)
@given(changes=_CHANGES, place=st.integers(60, 140), seed=st.integers(0, 99))
def test_the_age_at_a_time_knows_nothing_that_happens_from_then_on(
  catalog_of, changes, place, seed
):
  events = _events(seed)
  now = events[place]["timestamp"]
  before = catalog_of(events)
  after = catalog_of(_changed(events, changes, since_s=now))
  times = [e["timestamp"] for e in events[: place + 1]]
  for item in (f"i{n}" for n in range(_ITEMS)):
    ages = [
      age_at_event(
        catalog, np.full(len(times), catalog.row_of(item)), np.array(times)
      ).tolist()
      for catalog in (before, after)
    ]
    assert ages[0] == ages[1]


def test_a_run_that_goes_on_after_midnight_counts_when_it_became_a_target(
  catalog_of,
):
  """A trailer today and the film tomorrow are one token, of tomorrow."""
  events = _events()
  midnight = (_DAY_0 + 20) * _DAY_S
  run = [
    {"user_id": "late", "item_id": "i8", "timestamp": midnight + late}
    for late in (-60, 60)
  ]
  events += [
    {**event, "action": action}
    for event, action in zip(run, ("trailer", "play"), strict=True)
  ]
  events.sort(key=lambda event: event["timestamp"])
  granularity = RunTokens(max_gap_s=_DAY_S)
  with_run = catalog_of(events, granularity=granularity)
  without = catalog_of(
    [e for e in events if e["user_id"] != "late"], granularity=granularity
  )
  extra = {
    day: _counted(with_run, "i8", day) - _counted(without, "i8", day)
    for day in (_DAY_0 + 19, _DAY_0 + 20)
  }
  assert extra == {_DAY_0 + 19: 0, _DAY_0 + 20: 1}


def _counted(catalog, item, day):
  daily = catalog.daily
  here = (daily.item == catalog.row_of(item)) & (daily.day == day)
  return int(daily.events[here].sum())

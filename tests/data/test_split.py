"""Which part a token belongs to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import EventTokens, LeaveLastOut, RunTokens, TemporalSplit
from fmjax.data.clean import clean
from fmjax.data.schema import DataError, Schema
from fmjax.data.split import Cuts, assign, find_cuts
from fmjax.data.tokenize import tokenize

_T0 = 1_600_000_000
_US = 1_000_000


def _event(user, item, second):
  return {"user_id": user, "item_id": item, "timestamp": _T0 + second}


@pytest.fixture(scope="module")
def split_of(log_of):
  """Tokens with their part, in the order of (user, start, row), and cuts."""

  def split(events, how, *, granularity=None, schema=None):
    log = log_of(events, schema=schema)
    connection = log.events.get_backend()
    cleaned = clean(log).events
    cuts = None
    if isinstance(how, TemporalSplit):
      cuts = find_cuts(cleaned, how, schema=log.schema, connection=connection)
    tokens = tokenize(cleaned, log.schema, granularity or EventTokens())
    table = assign(tokens, how, cuts).order_by("user_id", "start_us", "row")
    found = connection.to_pyarrow(table).to_pylist()
    connection.disconnect()
    return found, cuts

  return split


def test_the_cuts_hold_out_the_stated_shares_of_the_events(split_of):
  events = [_event("uv"[n % 2], f"i{n}", n) for n in range(20)]
  tokens, cuts = split_of(events, TemporalSplit(validation=0.2, test=0.1))
  assert cuts == Cuts(validation_us=(_T0 + 14) * _US, test_us=(_T0 + 18) * _US)
  parts = [token["split"] for token in tokens]
  counts = {part: parts.count(part) for part in set(parts)}
  assert counts == {"train": 14, "validation": 4, "test": 2}


@settings(max_examples=10, deadline=None)
@given(
  st.lists(st.integers(0, 60), min_size=10, max_size=40, unique=True),
  st.integers(1, 20),
)
def test_no_part_holds_what_begins_before_or_ends_after_its_cuts(
  split_of, seconds, max_gap_s
):
  tokens, cuts = split_of(
    [_event("uv"[n % 2], "ab"[n % 3 // 2], s) for n, s in enumerate(seconds)],
    TemporalSplit(validation=0.3, test=0.3),
    granularity=RunTokens(max_gap_s=max_gap_s),
  )
  t1, t2 = cuts.validation_us, cuts.test_us
  for token in tokens:
    expected = "crossing"
    if token["end_us"] < t1:
      expected = "train"
    elif token["start_us"] >= t2:
      expected = "test"
    elif token["start_us"] >= t1 and token["end_us"] < t2:
      expected = "validation"
    assert token["split"] == expected


def test_a_run_over_a_cut_is_in_neither_part(split_of):
  events = [_event("u", "a", n) for n in range(10)] + [_event("v", "b", 0)]
  tokens, _ = split_of(
    events,
    TemporalSplit(validation=0.2, test=0.2),
    granularity=RunTokens(),
  )
  assert [t["split"] for t in tokens] == ["crossing", "train"]


def test_leave_last_out_takes_the_last_two_tokens_of_longer_histories(split_of):
  events = [
    *(_event("long", f"i{n}", n) for n in (3, 1, 0, 2)),
    *(_event("short", f"i{n}", n) for n in (0, 1)),
  ]
  tokens, cuts = split_of(events, LeaveLastOut())
  assert cuts is None
  assert [t["split"] for t in tokens] == [
    "train",
    "train",
    "validation",
    "test",
    "train",
    "train",
  ]


def test_leave_last_out_keeps_the_order_of_the_file_in_ties(split_of):
  events = [_event("u", item, 0) for item in "dbca"]
  tokens, _ = split_of(events, LeaveLastOut())
  parts = {t["item_id"]: t["split"] for t in tokens}
  assert parts == {
    "d": "train",
    "b": "train",
    "c": "validation",
    "a": "test",
  }


def test_a_log_without_times_has_no_temporal_split(split_of):
  events = [_event("u", f"i{n}", n) for n in range(10)]
  with pytest.raises(DataError, match=r"no timestamps.*LeaveLastOut"):
    split_of(events, TemporalSplit(), schema=Schema(source="x", timed=False))


def test_a_log_of_one_moment_cannot_be_cut(split_of):
  events = [_event("u", f"i{n}", 0) for n in range(10)]
  with pytest.raises(DataError, match="share a timestamp"):
    split_of(events, TemporalSplit())


def test_a_temporal_split_needs_its_cuts(log_of):
  log = log_of([_event("u", "a", 0), _event("u", "b", 1)])
  tokens = tokenize(clean(log).events, log.schema, EventTokens())
  with pytest.raises(ValueError, match="find_cuts"):
    assign(tokens, TemporalSplit(), None)


def test_leave_last_out_holds_out_targets(split_of):
  actions = ["buy", "view", "buy", "view", "buy", "view", "buy", "view"]
  events = [
    {**_event(user, f"i{n}", n), "action": action}
    for user, skip in (("long", 0), ("short", 3))
    for n, action in enumerate(actions[skip:])
  ]
  schema = Schema(source="x", target_actions=("buy",))
  tokens, _ = split_of(events, LeaveLastOut(), schema=schema)
  assert [t["split"] for t in tokens] == [
    *(["train"] * 4),
    "validation",
    "crossing",
    "test",
    "test",  # no target: asked by nobody
    *(["train"] * 5),  # two targets only
  ]

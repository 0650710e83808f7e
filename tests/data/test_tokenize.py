"""What becomes one token, and what a token keeps of its events."""

import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import EventTokens, RunTokens
from fmjax.data.clean import clean
from fmjax.data.schema import Feature, Kind, Schema, When
from fmjax.data.tokenize import tokenize

_T0 = 1_600_000_000
_US = 1_000_000


@pytest.fixture(scope="module")
def tokens_of(log_of):
  """Tokens as dictionaries, in the order of (user, start, row)."""

  def tokens(events, *, schema=None, granularity):
    log = log_of(events, schema=schema)
    connection = log.events.get_backend()
    table = tokenize(clean(log, max_rejects=1).events, log.schema, granularity)
    rows = table.order_by("user_id", "start_us", "row")
    found = connection.to_pyarrow(rows).to_pylist()
    connection.disconnect()
    return found

  return tokens


def _event(item, second, *, user="u", **features):
  return {
    "user_id": user,
    "item_id": item,
    "timestamp": _T0 + second,
    **features,
  }


def test_an_event_token_is_one_event(tokens_of):
  events = [_event("a", 0, duration_ms=5), _event("a", 1, action="skip")]
  schema = Schema(source="tiny", target_actions=("rate",))
  first, second = tokens_of(events, schema=schema, granularity=EventTokens())
  assert first == {
    "user_id": "u",
    "item_id": "a",
    "row": 1,
    "start_us": _T0 * _US,
    "end_us": _T0 * _US,
    "duration_ms": 5.0,
    "event_count": 1,
    "action": ["rate"],
    "action_count": [1],
    "target": True,
    "target_us": _T0 * _US,
  }
  assert (second["action"], second["target"]) == (["skip"], False)
  assert second["target_us"] is None
  assert second["duration_ms"] is None


def test_a_run_is_broken_by_another_item_and_by_a_long_gap(tokens_of):
  seconds = [("a", 0), ("a", 10), ("a", 21), ("b", 22), ("a", 23)]
  tokens = tokens_of(
    [_event(item, second) for item, second in seconds],
    granularity=RunTokens(max_gap_s=10),
  )
  assert [(t["item_id"], t["event_count"]) for t in tokens] == [
    ("a", 2),
    ("a", 1),
    ("b", 1),
    ("a", 1),
  ]
  assert tokens[0]["end_us"] - tokens[0]["start_us"] == 10 * _US


def test_a_run_of_one_user_is_not_broken_by_another_user(tokens_of):
  events = [
    _event("a", 0),
    _event("b", 1, user="v"),
    _event("a", 2),
    _event("b", 3, user="v"),
  ]
  tokens = tokens_of(events, granularity=RunTokens())
  assert [(t["user_id"], t["event_count"]) for t in tokens] == [
    ("u", 2),
    ("v", 2),
  ]


def test_a_run_sums_durations_and_counts_each_action(tokens_of):
  events = [
    _event("a", 0, action="play", duration_ms=100),
    _event("a", 1, action="like", duration_ms=None),
    _event("a", 2, action="play", duration_ms=50),
  ]
  schema = Schema(source="tiny", target_actions=("like",))
  (token,) = tokens_of(events, schema=schema, granularity=RunTokens())
  assert token["duration_ms"] == 150
  assert (token["action"], token["action_count"]) == (["like", "play"], [1, 2])
  assert token["target"]
  assert token["target_us"] == (_T0 + 1) * _US


def test_request_features_are_the_first_events_even_where_it_has_none(
  tokens_of,
):
  schema = Schema(
    source="tiny",
    features=(
      Feature(name="device", kind=Kind.CATEGORICAL, when=When.REQUEST),
      Feature(name="position", kind=Kind.NUMERIC, when=When.REQUEST),
      Feature(name="vector", kind=Kind.VECTOR, when=When.REQUEST, width=2),
    ),
  )
  later = {"device": "tv", "position": 3.0, "vector": [1.0, 2.0]}
  events = [_event("a", 0), _event("a", 1, **later), _event("b", 2, **later)]
  first, second = tokens_of(events, schema=schema, granularity=RunTokens())
  assert {name: first[name] for name in later} == dict.fromkeys(later)
  assert {name: second[name] for name in later} == later


def test_post_action_features_are_the_mean_or_the_last(tokens_of):
  schema = Schema(
    source="tiny",
    features=(
      Feature(name="rating", kind=Kind.NUMERIC),
      Feature(name="unrated", kind=Kind.NUMERIC),
      Feature(name="cause", kind=Kind.CATEGORICAL),
      Feature(name="tags", kind=Kind.BAG),
    ),
  )
  events = [
    _event("a", 0, rating=1.0, cause="x", tags=["s"], action="p"),
    _event("a", 1, rating=None, cause="y", tags=["t", "u"], action="q"),
    _event("a", 2, rating=4.0, cause=None, tags=["v"], action="p"),
  ]
  (token,) = tokens_of(events, schema=schema, granularity=RunTokens())
  assert token["rating"] == 2.5
  assert token["unrated"] is None
  assert token["cause"] is None
  assert token["tags"] == ["v"]


def test_ties_in_time_keep_the_order_of_the_file(tokens_of):
  # The durations keep the two "a" from being exact duplicates.
  events = [
    _event(item, 0, duration_ms=n) for n, item in enumerate("caab", start=1)
  ]
  tokens = tokens_of(events, granularity=EventTokens())
  assert [t["item_id"] for t in tokens] == list("caab")
  tokens = tokens_of(events, granularity=RunTokens())
  assert [t["item_id"] for t in tokens] == list("cab")


@settings(max_examples=12, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.sampled_from("uv"),
      st.sampled_from("ab"),
      st.integers(0, 40),
      st.sampled_from(["play", "like"]),
      st.none() | st.integers(0, 9),
    ),
    min_size=2,
    max_size=30,
    unique=True,
  ).filter(lambda rows: len({r[0] for r in rows}) < len(rows))
)
def test_runs_equal_a_plain_loop(tokens_of, rows):
  events = [
    _event(item, second, user=user, action=action, duration_ms=duration)
    for user, item, second, action, duration in rows
  ]
  expected = []
  numbered = [{"row": n, **event} for n, event in enumerate(events, start=1)]
  for user in "uv":
    mine = [event for event in numbered if event["user_id"] == user]
    mine.sort(key=lambda event: (event["timestamp"], event["row"]))
    runs: list[list[dict]] = []
    for event in mine:
      last = runs[-1][-1] if runs else None
      if (
        last
        and last["item_id"] == event["item_id"]
        and event["timestamp"] - last["timestamp"] <= 5
      ):
        runs[-1].append(event)
      else:
        runs.append([event])
    for run in runs:
      known = [e["duration_ms"] for e in run if e["duration_ms"] is not None]
      counts = sorted(collections.Counter(e["action"] for e in run).items())
      expected.append(
        {
          "user_id": user,
          "item_id": run[0]["item_id"],
          "row": run[0]["row"],
          "start_us": run[0]["timestamp"] * _US,
          "end_us": run[-1]["timestamp"] * _US,
          "duration_ms": float(sum(known)) if known else None,
          "event_count": len(run),
          "action": [action for action, _ in counts],
          "action_count": [count for _, count in counts],
          "target": True,
          "target_us": run[0]["timestamp"] * _US,
        }
      )
  expected.sort(key=lambda t: (t["user_id"], t["start_us"], t["row"]))
  tokens = tokens_of(events, granularity=RunTokens(max_gap_s=5))
  assert tokens == expected
  for before, after in itertools.pairwise(tokens):
    if before["user_id"] == after["user_id"]:
      assert before["end_us"] <= after["start_us"]

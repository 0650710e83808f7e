"""Of every data set: what happens at or after t reaches nothing before it.

From a time t on, every event is given another one's item, action, duration and
declared features, all at once. What a model would be given for predictions up
to t must stay as it was, bit by bit, and every one of the features must show
somewhere later, so that the test could have seen it.
"""

import dataclasses
import os
import pathlib

import ibis
import numpy as np
import pytest
from data_fixtures import make_log
from item_world import age_at_event

from fmjax.config import (
  EventTokens,
  Globo,
  KuaiRandPure,
  MovieLens,
  MovieTweetings,
  RunTokens,
  Synthetic,
  Table,
  TemporalSplit,
)
from fmjax.data.clean import clean
from fmjax.data.decoded import histories
from fmjax.data.dynamic import dated
from fmjax.data.packing import pack, training_windows
from fmjax.data.prepare import prepare_log, read_source
from fmjax.data.schema import Kind, When
from fmjax.data.windows import assemble

_USERS = 40
_DAY_US = 86_400_000_000
_SPLIT = TemporalSplit(validation=0.2, test=0.2)

_MAPPING = """\
[events]
file = "events.csv"
user = "user"
item = "item"
timestamp = "time"
time_unit = "s"
action = "action"
duration = "dwell"
duration_unit = "s"
target_actions = ["play", "like"]
"""
_FEATURES = {
  "device": 'kind = "categorical"\nwhen = "request"',
  "place": 'kind = "numeric"\nwhen = "request"\nlog = true',
  "joined": 'kind = "timestamp"\nwhen = "request"',
  "likes": 'kind = "bag"\nwhen = "request"\nseparator = "|"',
  "context": 'kind = "vector"\nwhen = "request"\nwidth = 2\nseparator = "|"',
  "cause": 'kind = "categorical"\nwhen = "post_action"',
  "rating": 'kind = "numeric"\nwhen = "post_action"',
  "ended": 'kind = "timestamp"\nwhen = "post_action"',
  "tags": 'kind = "bag"\nwhen = "post_action"\nseparator = "|"',
  "mood": 'kind = "vector"\nwhen = "post_action"\nwidth = 3\nseparator = "|"',
}
_METADATA = {
  "language": 'kind = "categorical"',
  "genre": 'kind = "bag"\nseparator = "|"',
  "minutes": 'kind = "numeric"\nlog = true',
  "uploaded": 'kind = "timestamp"',
  "text": 'kind = "vector"\nwidth = 2\nseparator = "|"',
}


def _table(folder: pathlib.Path) -> Table:
  """A CSV log with a feature of every kind on either side."""
  rng = np.random.default_rng(0)

  def bag(letters):
    return "|".join(letters[: rng.integers(1, len(letters) + 1)])

  def vector(width):
    return "|".join(f"{x:.3f}" for x in rng.normal(size=width))

  names = ["user", "item", "time", "action", "dwell", *_FEATURES]
  lines = [",".join(names)]
  time = 1_600_000_000
  for _ in range(1_500):
    time += int(rng.integers(1, 900))
    cells = [
      f"u{rng.integers(_USERS)}",
      f"i{min(rng.geometric(0.02), 99)}",
      time,
      rng.choice(["play", "like", "trailer"]),
      rng.integers(1, 5_000),
      rng.choice(["tv", "phone"]),
      rng.integers(9),
      time - int(rng.integers(10**6)),
      bag("xyz"),
      vector(2),
      rng.choice(["a", "b"]),
      rng.integers(5),
      time + int(rng.integers(10**4)),
      bag("stu"),
      vector(3),
    ]
    lines.append(",".join(str(cell) for cell in cells))
  (folder / "events.csv").write_text("\n".join(lines) + "\n")
  lines = [",".join(["item", "launched", *_METADATA])]
  for n in range(1, 100):
    launched = 1_599_000_000 + 10**4 * n if n % 3 else ""
    cells = [f"i{n}", launched, f"l{n % 4}", bag("gh"), 10 * n, 10**6 * n]
    lines.append(",".join(str(cell) for cell in [*cells, vector(2)]))
  (folder / "items.csv").write_text("\n".join(lines) + "\n")
  parts = [_MAPPING]
  parts += [f"[features.{name}]\n{text}" for name, text in _FEATURES.items()]
  parts.append(
    '[items]\nfile = "items.csv"\nitem = "item"\nlaunch_time = "launched"\n'
    'launch_unit = "s"'
  )
  parts += [
    f"[items.features.{name}]\n{text}" for name, text in _METADATA.items()
  ]
  (folder / "map.toml").write_text("\n\n".join(parts) + "\n")
  return Table(mapping=str(folder / "map.toml"))


def _source(name: str, folder: pathlib.Path):
  match name:
    case "movietweetings":
      return MovieTweetings()
    case "kuairand-pure":
      return KuaiRandPure()
    case "synthetic":
      return Synthetic(events=3_000, users=80, items=60)
    case "table":
      return _table(folder)
  raw = pathlib.Path(os.environ.get("FMJAX_DATA", "")) / name
  if "FMJAX_DATA" not in os.environ or not raw.exists():
    pytest.skip(f"FMJAX_DATA holds no {name}")
  kinds = {"movielens-1m": MovieLens, "globo": Globo}
  return kinds[name](raw=str(raw))


@dataclasses.dataclass(frozen=True)
class _Case:
  """A log of the users with most events, none at the same time as another."""

  schema: object
  events: list
  items: list | None

  def prepare(self, out, granularity):
    log = make_log(self.events, items=self.items, schema=self.schema)
    log = dataclasses.replace(log, time_unit="us")
    try:
      return prepare_log(log, out, granularity=granularity, split=_SPLIT)
    finally:
      log.events.get_backend().disconnect()


@pytest.fixture(
  scope="module",
  params=[
    "movietweetings",
    "kuairand-pure",
    "synthetic",
    "table",
    "movielens-1m",
    pytest.param("globo", marks=pytest.mark.slow),
  ],
)
def case(request, tmp_path_factory):
  source = _source(request.param, tmp_path_factory.mktemp("source"))
  connection = ibis.duckdb.connect()
  try:
    log = read_source(source, connection)
    events = clean(log).events
    most = (
      events.group_by("user_id")
      .aggregate(events=ibis._.count())
      .order_by(ibis.desc("events"), "user_id")
      .limit(_USERS)
    )
    events = events.semi_join(most, "user_id").order_by("row")
    # One event a user and moment: no change makes or unmakes a duplicate, which
    # would move the cuts.
    once = {}
    for event in events.to_pyarrow().to_pylist():
      once.setdefault((event["user_id"], event["timestamp"]), event)
    items = None
    if log.items is not None:
      items = log.items.to_pyarrow().to_pylist()
    return _Case(schema=log.schema, events=list(once.values()), items=items)
  finally:
    connection.disconnect()


def _changed(case, *, since_us):
  """From a time on, every column of an event is that of some other event."""
  rng = np.random.default_rng(1)
  names = ["item_id", "action", "duration_ms"]
  names += [feature.name for feature in case.schema.features]
  events = [dict(event) for event in case.events]
  later = [n for n, e in enumerate(events) if e["timestamp"] >= since_us]
  for name in names:
    others = rng.integers(len(events), size=len(later))
    for n, other in zip(later, others, strict=True):
      events[n][name] = case.events[other][name]
  return dataclasses.replace(case, events=events)


def _cells(prepared):
  """What stands at every token of the log, in (user, index) order.

  A prediction is given the cells of its history and its own.
  """
  lengths = prepared.index.tokens
  longest = int(lengths.max())
  windows = training_windows(
    lengths, window=longest, stride=longest, phases=np.zeros_like(lengths)
  )
  batch = assemble(
    pack(windows, capacity=longest, rng=None),
    histories=histories(prepared),
    spec=prepared.spec,
    window=longest,
  )
  held = batch.segment_bt > 0
  order = np.lexsort((batch.index_bt[held], batch.user_bt[held]))
  columns, _ = prepared.histories()

  def flat(array_bt):
    return array_bt[held][order]

  return {
    "key": list(
      zip(
        prepared.user_ids[flat(batch.user_bt)],
        flat(batch.index_bt).tolist(),
        strict=True,
      )
    ),
    "start_us": columns["start_us"],
    "time": flat(batch.time_bt),
    "request": {name: flat(a) for name, a in batch.request.items()},
    "previous": {
      **{name: flat(a) for name, a in batch.previous.items()},
      "age": age_at_event(
        prepared.catalog,
        flat(batch.previous["item"]),
        flat(batch.previous["time"]),
      ),
    },
  }


def _take(cells, chosen):
  return {
    "time": cells["time"][chosen],
    **{
      kind: {name: array[chosen] for name, array in cells[kind].items()}
      for kind in ("request", "previous")
    },
  }


@pytest.fixture(
  scope="module", params=[EventTokens(), RunTokens()], ids=["event", "run"]
)
def before_and_after(request, case, tmp_path_factory):
  """(t, the log as it was, the log changed from t on), both prepared."""
  times = sorted(event["timestamp"] for event in case.events)
  now = times[int(0.8 * len(times))]
  folder = tmp_path_factory.mktemp("prepared")
  return (
    now,
    case.prepare(folder / "before", request.param),
    _changed(case, since_us=now).prepare(folder / "after", request.param),
  )


def test_no_later_event_reaches_the_input_of_a_prediction(before_and_after):
  now, before, after = before_and_after
  assert after.cuts == before.cuts
  cells, others = _cells(before), _cells(after)
  earlier, earlier_after = (
    np.flatnonzero(c["start_us"] < now) for c in (cells, others)
  )
  assert [cells["key"][n] for n in earlier] == [
    others["key"][n] for n in earlier_after
  ]
  assert len(earlier) > 1_000
  np.testing.assert_equal(_take(others, earlier_after), _take(cells, earlier))
  # The prediction at t itself knows its own request, and no more of t.
  place = {key: n for n, key in enumerate(others["key"])}
  at_now = [
    (n, place[cells["key"][n]])
    for n in np.flatnonzero(cells["start_us"] == now)
    if cells["key"][n] in place
    and others["start_us"][place[cells["key"][n]]] == now
  ]
  for n, other in at_now:
    np.testing.assert_equal(
      _take(others, [other])["previous"], _take(cells, [n])["previous"]
    )


def test_no_later_event_reaches_what_candidates_look_like(before_and_after):
  now, before, after = before_and_after
  known, other = dated(before.catalog), dated(after.catalog)
  days = now // _DAY_US - known.first_day + 1
  assert known.first_day == other.first_day
  row_after = {
    item: row for row, item in enumerate(after.catalog.item_ids.tolist())
  }
  rows = np.arange(len(before.catalog))
  there = np.array([i in row_after for i in before.catalog.item_ids.tolist()])
  rows_after = np.array(
    [row_after[i] for i in before.catalog.item_ids[there].tolist()]
  )
  np.testing.assert_array_equal(
    other.age_dv[:days, rows_after], known.age_dv[:days, rows[there]]
  )
  np.testing.assert_array_equal(
    other.count_fdv[:, :days, rows_after],
    known.count_fdv[:, :days, rows[there]],
  )
  for name, values in before.catalog.metadata.items():
    np.testing.assert_array_equal(
      after.catalog.metadata[name][rows_after], values[there]
    )
  # An undescribed item that nobody meets any more was not seen before either.
  assert not known.count_fdv[:, :days, rows[~there]].any()
  assert (known.age_dv[:days, rows[~there]] < 0).all()


def test_no_later_event_reaches_a_vocabulary_or_a_mean(before_and_after):
  _, before, after = before_and_after
  assert after.encodings == before.encodings
  assert after.metadata_encodings == before.metadata_encodings
  counts = [
    {
      item: count
      for item, count in zip(
        p.catalog.item_ids, p.catalog.train_count_v, strict=True
      )
      if count
    }
    for p in (before, after)
  ]
  assert counts[0] == counts[1]


def test_every_declared_feature_was_changed_where_it_may_be_seen(
  case, before_and_after
):
  """Else the tests above would hold of a feature that nobody looks at."""
  now, before, after = before_and_after
  cells, others = _cells(before), _cells(after)
  later, later_after = (c["start_us"] >= now for c in (cells, others))
  for feature in before.schema.token_features:
    name = feature.name
    if name == "event_count":
      same_everywhere = before.manifest["counts"]["compression"] == 1
    else:  # such as the action of a log that has one
      same_everywhere = len({str(e[name]) for e in case.events}) == 1
    if same_everywhere:
      continue
    kind = "request" if feature.when is When.REQUEST else "previous"
    array, other = cells[kind][name], others[kind][name]
    nan = array.dtype.kind == "f"
    assert not np.array_equal(
      array[later], other[later_after], equal_nan=nan
    ), name


def test_the_mapped_table_has_every_kind_on_either_side(tmp_path):
  connection = ibis.duckdb.connect()
  schema = read_source(_table(tmp_path), connection).schema
  connection.disconnect()
  for when in When:
    kinds = {f.kind for f in schema.features if f.when is when}
    assert kinds == set(Kind)
  assert {f.kind for f in schema.metadata} == set(Kind)

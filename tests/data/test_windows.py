"""Batches against the raw log they were made from."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from data_fixtures import EVERY_KIND, make_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmjax.config import LeaveLastOut, RunTokens, TemporalSplit
from fmjax.data import decoded
from fmjax.data.decoded import OnDisk, histories
from fmjax.data.packing import Packed, query_windows
from fmjax.data.prepare import prepare_log
from fmjax.data.row_stream import RowStream
from fmjax.data.schema import DataError, Kind, When
from fmjax.data.windows import (
  assemble,
  batch_iterator,
  epoch_facts,
  evaluation_batches,
  tokens_per_epoch,
  training_batches,
)

START_S = 1_600_000_000
SCHEMA = dataclasses.replace(EVERY_KIND, target_actions=("click",))
ITEMS = [{"item_id": "i1", "genre": ["comedy", "drama"]}]
TEMPORAL = TemporalSplit(validation=0.2, test=0.2)


def random_events(seed: int = 0, users: int = 24, longest: int = 60):
  """Events in file order; values are missing here and there."""
  rng = np.random.default_rng(seed)

  def maybe(value):
    return None if rng.random() < 0.1 else value

  events = []
  for user in range(users):
    for _ in range(int(rng.integers(1, longest))):
      time = START_S + int(rng.integers(8_000_000))
      events.append(
        {
          "user_id": f"u{user}",
          "item_id": f"i{rng.integers(30)}",
          "timestamp": time,
          "action": "click" if rng.random() < 0.7 else "view",
          "duration_ms": maybe(int(rng.integers(1, 100_000))),
          "device": maybe(f"d{rng.integers(3)}"),
          "position": maybe(float(rng.integers(50))),
          "registered": maybe(time - int(rng.integers(1_000))),
          "interests": [f"s{i}" for i in range(rng.integers(4))],
          "context": rng.normal(size=2).tolist(),
          "cause": maybe(f"r{rng.integers(4)}"),
          "rating": maybe(float(rng.integers(1, 6))),
          "finished": maybe(time + int(rng.integers(1_000))),
          "tags": [f"t{i}" for i in range(rng.integers(4))],
          "mood": rng.normal(size=3).tolist(),
        }
      )
  rng.shuffle(events)
  return events


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
  """Prepares events, each call in a directory of its own."""

  def prepare(events, *, schema=SCHEMA, **options):
    out = tmp_path_factory.mktemp("windows") / "prepared"
    log = make_log(events, items=ITEMS, schema=schema)
    return prepare_log(log, out, **options)

  return prepare


@pytest.fixture(scope="module")
def events():
  return random_events()


@pytest.fixture(scope="module")
def prepared(events, prepare):
  return prepare(events, split=TEMPORAL)


@pytest.fixture(scope="module")
def by_user(events, prepared):
  """Each user's events in the order of the history."""
  found = {user: [] for user in range(len(prepared.index))}
  row_of = {user_id: row for row, user_id in enumerate(prepared.user_ids)}
  for event in sorted(events, key=lambda event: event["timestamp"]):
    found[row_of[event["user_id"]]].append(event)
  return found


def batches_of(
  prepared, *, steps: int = 12, window=8, stride=5, rows=4, seed=0
):
  dataset = training_batches(
    prepared, window=window, stride=stride, rows=rows, seed=seed
  )
  return [dataset[t] for t in range(steps)]


def positions(batch):
  """(row, position) of every token."""
  return np.argwhere(np.asarray(batch.segment_bt) > 0).tolist()


FEATURES = ("request", "previous", "outcome")


def leaves(batch):
  fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
  groups = {name: fields.pop(name) for name in FEATURES}
  return {
    **fields,
    **{
      f"{group}/{name}": array
      for group, arrays in groups.items()
      for name, array in arrays.items()
    },
  }


def same(a, b) -> bool:
  a, b = leaves(a), leaves(b)
  return a.keys() == b.keys() and all(
    a[name].dtype == b[name].dtype
    and np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f")
    for name in a
  )


def expected_value(event, encoding):
  """What a feature of an event is in a batch; a bag: {code: count}."""
  encoded = encoding.encoded
  feature = encoded.feature
  codes = {value: 2 + i for i, value in enumerate(encoding.vocabulary)}
  if feature.name == "action":
    return {codes.get(event["action"], 1): 1.0}
  value = 1 if feature.name == "event_count" else event[feature.name]
  match feature.kind:
    case Kind.CATEGORICAL:
      return 0 if value is None else codes.get(value, 1)
    case Kind.BAG:
      return {codes.get(v, 1): 1.0 for v in value}
    case Kind.NUMERIC:
      value = np.nan if value is None else value
      value = np.log1p(value) if feature.log else value
      return (value - encoded.mean) / encoded.std
    case Kind.TIMESTAMP:
      return 0 if value is None else value
    case Kind.VECTOR:
      return np.array(value) / encoded.std


def assert_says(arrays, row, t, event, encoding):
  """The arrays hold the feature of the event (None: nothing) at (row, t)."""
  name = encoding.encoded.feature.name
  actual = arrays[name][row, t]
  if event is None:
    assert not actual.any()
    if f"{name}_count" in arrays:
      assert not arrays[f"{name}_count"][row, t].any()
    return
  expected = expected_value(event, encoding)
  if isinstance(expected, dict):
    held = actual[actual > 0].tolist()
    assert sorted(held) == sorted(expected)
    if f"{name}_count" in arrays:
      counts = arrays[f"{name}_count"][row, t]
      assert counts[actual > 0].tolist() == [expected[code] for code in held]
      assert not counts[actual == 0].any()
  else:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def assert_matches_the_log(batch, prepared, by_user):
  """Every array at every position, from the raw events."""
  catalog = prepared.catalog.item_ids
  seen = set()
  for row, t in positions(batch):
    user, index = int(batch.user_bt[row, t]), int(batch.index_bt[row, t])
    event = by_user[user][index]
    before = by_user[user][index - 1] if index else None
    assert catalog[batch.item_bt[row, t]] == event["item_id"]
    assert batch.time_bt[row, t] == event["timestamp"]
    previous = batch.previous["item"][row, t]
    assert catalog[previous] == (before["item_id"] if before else "")
    began = batch.previous["time"][row, t]
    assert began == (before["timestamp"] if before else 0)
    for encoding in prepared.encodings:
      name, when = encoding.encoded.feature.name, encoding.encoded.feature.when
      if when is When.REQUEST:
        assert_says(batch.request, row, t, event, encoding)
      else:
        assert_says(batch.previous, row, t, before, encoding)
      seen.add(name)
  assert seen >= {f.name for f in SCHEMA.token_features}


# ---- what a batch holds --------------------------------------------------


def test_every_position_says_what_the_log_says(prepared, by_user):
  for batch in batches_of(prepared, steps=6):
    assert_matches_the_log(batch, prepared, by_user)


def test_previous_is_the_token_before_also_where_a_window_begins(
  prepared, by_user
):
  begins = 0
  for batch in batches_of(prepared, steps=20, window=8, stride=3):
    first = (batch.position_bt == 0) & (batch.index_bt > 0)
    for row, t in np.argwhere(first & (batch.segment_bt > 0)).tolist():
      user, index = batch.user_bt[row, t], batch.index_bt[row, t]
      before = by_user[int(user)][int(index) - 1]
      begins += 1
      for encoding in prepared.encodings:
        if encoding.encoded.feature.when is When.POST_ACTION:
          assert_says(batch.previous, row, t, before, encoding)
      assert (
        prepared.catalog.item_ids[batch.previous["item"][row, t]]
        == before["item_id"]
      )
  assert begins > 20


def test_outcomes_are_those_of_the_token_and_are_there_if_asked_for(
  prepared, by_user
):
  plain, *_ = batches_of(prepared)
  assert plain.outcome == {}
  asked = [
    encoding
    for encoding in prepared.encodings
    if encoding.encoded.feature.when is When.POST_ACTION
  ][::2]
  names = tuple(encoding.encoded.feature.name for encoding in asked)
  batch = training_batches(
    prepared, window=8, stride=5, rows=4, seed=0, outcomes=names
  )[0]
  assert same(dataclasses.replace(batch, outcome={}), plain)
  for row, t in positions(batch):
    user, index = int(batch.user_bt[row, t]), int(batch.index_bt[row, t])
    for encoding in asked:
      assert_says(batch.outcome, row, t, by_user[user][index], encoding)


def test_arrays_have_the_declared_names_shapes_and_types(prepared):
  batch = batches_of(prepared, steps=1)[0]
  width = {e.feature.name: e.values for e in prepared.spec.features}
  kinds = {
    Kind.CATEGORICAL: (np.int32, lambda f: ()),
    Kind.TIMESTAMP: (np.int32, lambda f: ()),
    Kind.NUMERIC: (np.float32, lambda f: ()),
    Kind.BAG: (np.int32, lambda f: (width[f.name],)),
    Kind.VECTOR: (np.float32, lambda f: (f.width,)),
  }
  expected = {}
  for feature in SCHEMA.token_features:
    dtype, inner = kinds[feature.kind]
    request = feature.when is When.REQUEST
    place = f"{'request' if request else 'previous'}/{feature.name}"
    expected[place] = (dtype, (4, 8, *inner(feature)))
    if feature.kind is Kind.BAG and not request:
      expected[f"{place}_count"] = (np.float32, (4, 8, *inner(feature)))
  expected["previous/item"] = (np.int32, (4, 8))
  expected["previous/time"] = (np.int32, (4, 8))
  for name in ("item", "segment", "position", "time", "user", "index"):
    expected[f"{name}_bt"] = (np.int32, (4, 8))
  expected["weight_bt"] = (np.float32, (4, 8))
  actual = {
    name: (array.dtype.type, array.shape)
    for name, array in leaves(batch).items()
  }
  assert actual == expected


def test_padding_is_zero_everywhere(prepared):
  padded = 0
  for batch in batches_of(prepared, steps=30, window=16):
    empty = batch.segment_bt == 0
    padded += empty.sum()
    for array in leaves(batch).values():
      assert not array[empty].any()
  assert padded


def test_a_segment_is_consecutive_tokens_of_one_user(prepared):
  packed_rows = 0
  for batch in batches_of(prepared, steps=20, window=16, stride=8):
    for row in range(4):
      segments = np.unique(batch.segment_bt[row])
      segments = segments[segments > 0]
      packed_rows += len(segments) > 1
      for segment in segments:
        here = np.flatnonzero(batch.segment_bt[row] == segment)
        assert (np.diff(here) == 1).all()
        assert len(np.unique(batch.user_bt[row, here])) == 1
        index = batch.index_bt[row, here]
        assert (np.diff(index) == 1).all()
        assert (batch.position_bt[row, here] == np.arange(len(here))).all()
  assert packed_rows


# ---- targets -------------------------------------------------------------


@pytest.mark.parametrize("window, stride", [(8, 8), (8, 3), (64, 64), (5, 1)])
def test_every_training_target_is_weighted_exactly_once_an_epoch(
  prepared, by_user, window, stride
):
  facts = epoch_facts(prepared, window=window, stride=stride, seed=0)
  dataset = training_batches(
    prepared, window=window, stride=stride, rows=1, seed=0
  )
  weighted = []
  for t in range(facts.rows):
    batch = dataset[t]
    asked = batch.weight_bt > 0
    assert (batch.weight_bt[asked] == 1).all()
    weighted += list(
      zip(
        batch.user_bt[asked].tolist(),
        batch.index_bt[asked].tolist(),
        strict=True,
      )
    )
  clicks = [
    (user, index)
    for user, mine in by_user.items()
    for index, event in enumerate(mine)
    if event["timestamp"] * 1_000_000 < prepared.cuts.validation_us
    and event["action"] == "click"
  ]
  assert sorted(weighted) == clicks
  assert len(clicks) == facts.tokens == tokens_per_epoch(prepared)


def test_actions_that_are_no_targets_stay_as_context(prepared, by_user):
  views = 0
  for batch in batches_of(prepared, steps=10):
    for row, t in positions(batch):
      user, index = int(batch.user_bt[row, t]), int(batch.index_bt[row, t])
      if by_user[user][index]["action"] == "view":
        views += 1
        assert batch.weight_bt[row, t] == 0
        assert batch.item_bt[row, t] > 0
  assert views > 20


def test_training_never_reads_a_token_at_or_after_the_cut(prepared):
  cut_s = prepared.cuts.validation_us // 1_000_000
  for batch in batches_of(prepared, steps=60):
    assert batch.time_bt.max() < cut_s
    inside = batch.segment_bt > 0
    user = batch.user_bt[inside]
    assert (batch.index_bt[inside] < prepared.index.train_end[user]).all()


def queries(dataset):
  found = []
  for t in range(len(dataset)):
    batch = dataset[t]
    assert set(np.unique(batch.weight_bt)) <= {0.0, 1.0}
    for row, p in np.argwhere(batch.weight_bt > 0).tolist():
      found.append((int(batch.user_bt[row, p]), int(batch.index_bt[row, p])))
  return found


def wanted_queries(prepared, by_user, *, split, targets):
  cuts = prepared.cuts
  inside = {
    "validation": lambda s: cuts.validation_us <= s * 1_000_000 < cuts.test_us,
    "test": lambda s: s * 1_000_000 >= cuts.test_us,
  }[split]
  wanted = []
  for user, mine in by_user.items():
    clicks = [
      (user, index)
      for index, event in enumerate(mine)
      if event["action"] == "click" and inside(event["timestamp"])
    ]
    wanted += clicks[:1] if targets == "first" else clicks
  return wanted


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("targets", ["first", "all"])
@pytest.mark.parametrize("window, rows", [(6, 3), (64, 2), (1, 50)])
def test_evaluation_asks_for_every_wanted_target_exactly_once(
  prepared, by_user, split, targets, window, rows
):
  dataset = evaluation_batches(
    prepared, split=split, targets=targets, window=window, rows=rows
  )
  wanted = wanted_queries(prepared, by_user, split=split, targets=targets)
  assert sorted(queries(dataset)) == wanted
  assert len(wanted) > 10
  assert all(dataset[t].item_bt.shape == (rows, window) for t in range(3))


@pytest.mark.parametrize("targets", ["first", "all"])
def test_a_query_sees_the_history_strictly_before_it(
  prepared, by_user, targets
):
  window = 10
  dataset = evaluation_batches(
    prepared, split="test", targets=targets, window=window, rows=3
  )
  for t in range(len(dataset)):
    batch = dataset[t]
    assert_matches_the_log(batch, prepared, by_user)
    for row, p in np.argwhere(batch.weight_bt > 0).tolist():
      index, position = batch.index_bt[row, p], batch.position_bt[row, p]
      assert position == np.sum(
        batch.segment_bt[row, :p] == batch.segment_bt[row, p]
      )
      if targets == "first":  # as much as fits, and nothing after the query
        assert position == min(index, window - 1)
        after = batch.segment_bt[row, p + 1 : p + 2]
        assert (after != batch.segment_bt[row, p]).all()
      else:
        assert position >= min(index, window - window // 2)


def test_leave_last_out_asks_for_the_last_two_tokens(events, prepare):
  schema = dataclasses.replace(SCHEMA, target_actions=())
  prepared = prepare(events, schema=schema, split=LeaveLastOut())
  tokens = prepared.index.tokens
  for split, back in (("validation", 2), ("test", 1)):
    for targets in ("first", "all"):
      dataset = evaluation_batches(
        prepared, split=split, targets=targets, window=16, rows=4
      )
      assert sorted(queries(dataset)) == [
        (user, n - back) for user, n in enumerate(tokens.tolist()) if n >= 3
      ]
  facts = epoch_facts(prepared, window=16, stride=16, seed=0)
  assert facts.tokens == tokens.sum() - 2 * (tokens >= 3).sum()


def test_a_token_that_crosses_the_cut_is_context_but_no_target(events, prepare):
  # The user meets one item from before the first cut until after it.
  times = sorted(event["timestamp"] for event in events)
  cut = times[int(len(times) * 0.6)]
  mine = [
    {**event, "user_id": "crosser", "item_id": item, "timestamp": time}
    for event, (item, time) in zip(
      events,
      [
        ("i1", cut - 900),
        ("i2", cut - 600),
        *[("i2", cut + s) for s in range(-300, 400, 100)],
        ("i3", times[-1] + 1),
      ],
      strict=False,
    )
  ]
  mine[-1]["action"] = "click"
  prepared = prepare(
    events + mine,
    granularity=RunTokens(max_gap_s=1_000),
    split=TEMPORAL,
  )
  user = prepared.user_ids.tolist().index("crosser")
  assert prepared.index.tokens[user] == 3
  assert prepared.index.train_end[user] == 1
  assert prepared.index.test_start[user] == 2
  for batch in batches_of(prepared, steps=60):
    inside = (batch.segment_bt > 0) & (batch.user_bt == user)
    assert (batch.index_bt[inside] == 0).all()
  dataset = evaluation_batches(
    prepared, split="test", targets="all", window=8, rows=4
  )
  assert (user, 2) in queries(dataset)
  for t in range(len(dataset)):
    batch = dataset[t]
    crossed = (batch.user_bt == user) & (batch.index_bt == 1)
    assert not batch.weight_bt[crossed & (batch.segment_bt > 0)].any()
    for row, p in np.argwhere(
      (batch.user_bt == user) & (batch.weight_bt > 0)
    ).tolist():
      before = prepared.catalog.item_ids[batch.previous["item"][row, p]]
      assert before == "i2"
      assert batch.position_bt[row, p] == 2


def test_a_split_without_targets_is_refused_in_one_sentence(events, prepare):
  cut = sorted(event["timestamp"] for event in events)[len(events) // 2]
  late_views = [
    {**e, "action": "view" if e["timestamp"] >= cut else e["action"]}
    for e in events
  ]
  prepared = prepare(
    late_views,
    split=TEMPORAL,
  )
  with pytest.raises(DataError, match="test split holds no target"):
    evaluation_batches(
      prepared, split="test", targets="first", window=8, rows=2
    )


# ---- access --------------------------------------------------------------


@given(seed=st.integers(0, 1_000), order=st.permutations(range(8)))
@settings(max_examples=15)
def test_a_batch_is_a_function_of_seed_and_step(prepared, seed, order):
  expected = batches_of(prepared, steps=8, seed=seed)
  dataset = training_batches(prepared, window=8, stride=5, rows=4, seed=seed)
  for t in order:
    assert same(dataset[t], expected[t])


@given(start=st.integers(0, 40), steps=st.integers(1, 6))
@settings(max_examples=15)
def test_an_iterator_may_start_anywhere(prepared, start, steps):
  dataset = training_batches(prepared, window=8, stride=5, rows=4, seed=3)
  iterator = batch_iterator(dataset, start=start)
  for t in range(start, start + steps):
    assert same(next(iterator), dataset[t])
  iterator.close()


def test_resuming_from_an_integer_equals_going_on(prepared):
  dataset = training_batches(prepared, window=8, stride=5, rows=4, seed=3)
  iterator = batch_iterator(dataset)
  uninterrupted = list(itertools.islice(iterator, 12))
  assert iterator.get_state() == {"next_index": 12}
  iterator.set_state({"next_index": 5})
  assert same(next(iterator), uninterrupted[5])
  iterator.close()

  again = training_batches(prepared, window=8, stride=5, rows=4, seed=3)
  resumed = batch_iterator(again, start=7)
  for expected in uninterrupted[7:]:
    assert same(next(resumed), expected)
  assert resumed.get_state() == {"next_index": 12}
  resumed.close()


def test_an_evaluation_iterator_ends(prepared):
  dataset = evaluation_batches(
    prepared, split="test", targets="all", window=8, rows=4
  )
  batches = list(batch_iterator(dataset))
  assert len(batches) == len(dataset)
  assert all(same(batches[t], dataset[t]) for t in range(len(dataset)))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_partition_each_step(prepared, processes):
  options = {"window": 8, "stride": 5, "rows": 4, "seed": 1}
  whole = training_batches(prepared, **options)
  parts = [
    training_batches(
      prepared, **options, process_index=p, process_count=processes
    )
    for p in range(processes)
  ]
  for t in range(15):
    expected = leaves(whole[t])
    shares = [leaves(part[t]) for part in parts]
    for name, array in expected.items():
      joined = np.concatenate([share[name] for share in shares])
      np.testing.assert_array_equal(joined, array)


def test_a_log_read_from_disk_gives_the_same_batches(prepared, monkeypatch):
  options = {"window": 8, "stride": 5, "rows": 4, "seed": 1}
  asked = {"split": "test", "targets": "all", "window": 8, "rows": 4}
  in_memory = training_batches(prepared, **options)
  evaluated = evaluation_batches(prepared, **asked)
  tokens = tokens_per_epoch(prepared)
  monkeypatch.setattr(decoded, "_MEMORY_LIMIT", 0)
  monkeypatch.setattr(decoded, "_USERS_AT_ONCE", 5)
  assert isinstance(histories(prepared), OnDisk)
  on_disk = training_batches(prepared, **options)
  assert all(same(on_disk[t], in_memory[t]) for t in range(15))
  again = evaluation_batches(prepared, **asked)
  assert len(again) == len(evaluated)
  assert all(same(again[t], evaluated[t]) for t in range(len(again)))
  assert tokens_per_epoch(prepared) == tokens


def test_training_and_evaluation_share_one_decoded_log(prepared):
  assert histories(prepared) is histories(prepared)


def test_the_facts_of_an_epoch_add_up(prepared):
  for stride in (8, 3):
    facts = epoch_facts(prepared, window=8, stride=stride, seed=0)
    stream = RowStream(
      prepared.index.train_end, window=8, stride=stride, rows=1, seed=0
    )
    tokens = int(prepared.index.train_end.sum())
    assert facts.rows == stream.epoch(0).rows
    assert facts.positions == 8 * facts.rows
    assert tokens <= facts.filled <= facts.positions
    assert facts.tokens <= tokens
    assert 0.8 < facts.packing_efficiency <= 1
  unlapped = epoch_facts(prepared, window=64, stride=64, seed=0)
  assert unlapped.filled == tokens


# ---- leakage -------------------------------------------------------------


@given(place=st.floats(0, 1), stride=st.integers(1, 8), step=st.integers(0, 9))
@settings(max_examples=40)
def test_a_position_depends_on_nothing_from_its_own_action_on(
  prepared, place, stride, step
):
  stream = RowStream(
    prepared.index.train_end, window=8, stride=stride, rows=4, seed=0
  )
  packed = stream[step]
  log = histories(prepared)
  put = functools.partial(assemble, spec=prepared.spec, window=8)
  original = put(packed, histories=log)
  # Of the first window's user, everything from one of its tokens on changes,
  # but for what is known when that token is asked for.
  user, start, end = (
    int(array[0])
    for array in (
      packed.windows.user,
      packed.windows.start,
      packed.windows.end,
    )
  )
  token = start + int(place * (end - 1 - start))
  known_first = {f.name for f in SCHEMA.features if f.when is When.REQUEST}

  class Altered:
    def read(self, users):
      columns, first = log.read(users)
      here = int(first[users == user][0])
      changed = {}
      for name, values in columns.items():
        at_request = name in known_first | {"start_s"}
        begin = here + token + at_request
        values = values.copy()
        stop = here + int(prepared.index.tokens[user])
        values[begin:stop] = values[begin:stop] == 0
        changed[name] = values
      return changed, first

  altered = put(packed, histories=Altered())
  mine = (original.segment_bt > 0) & (original.user_bt == user)
  outcome = mine & (original.index_bt == token)
  assert (altered.item_bt != original.item_bt)[outcome].all()
  unaffected = ~mine | (original.index_bt <= token)
  before, after = leaves(original), leaves(altered)
  for name in before:
    if name.startswith(("request/", "previous/")) or name == "time_bt":
      np.testing.assert_array_equal(
        before[name][unaffected], after[name][unaffected]
      )


def _changed(event, rng):
  """Another event at the same time; its request-time features are its own."""
  other = random_events(int(rng.integers(2**31)), users=1, longest=2)[0]
  return {**other, "user_id": event["user_id"], "timestamp": event["timestamp"]}


def _whole_histories(prepared):
  """One row a user, unpacked."""
  tokens = prepared.index.tokens.astype(np.int64)
  user = np.arange(len(tokens))
  width = int(tokens.max())
  windows = query_windows(user, 0 * tokens, tokens, window=width)
  packed = Packed(
    windows=windows,
    row=user,
    offset=0 * user,
    segment=1 + 0 * user,
    rows=len(user),
  )
  return assemble(
    packed, histories=histories(prepared), spec=prepared.spec, window=width
  )


@given(seed=st.integers(0, 2**31), place=st.floats(0, 1))
@settings(
  max_examples=5,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_at_or_after_a_query_reaches_it(
  events, prepared, prepare, seed, place
):
  # A query at or after the training cut, since what training learns from its
  # own tokens (vocabularies, means) is allowed to depend on all of them.
  rng = np.random.default_rng(seed)
  later = sorted(
    e["timestamp"]
    for e in events
    if e["timestamp"] * 1_000_000 >= prepared.cuts.validation_us
  )
  now = later[int(place * (len(later) - 1))]
  changed = [
    _changed(event, rng) if event["timestamp"] >= now else event
    for event in events
  ]
  asked = [event for event in changed if event["timestamp"] == now]
  for event in asked:  # what is known when it is asked stays
    original = next(
      e
      for e in events
      if e["timestamp"] == now and e["user_id"] == event["user_id"]
    )
    for feature in SCHEMA.features:
      if feature.when is When.REQUEST:
        event[feature.name] = original[feature.name]
  again = prepare(
    changed,
    split=TEMPORAL,
  )
  before, after = _whole_histories(prepared), _whole_histories(again)
  known = (before.segment_bt > 0) & (before.time_bt <= now)
  assert (before.time_bt[known] == now).any()

  def ids(items, prepared):
    return prepared.catalog.item_ids[items]

  np.testing.assert_array_equal(
    ids(before.previous["item"], prepared)[known],
    ids(after.previous["item"], again)[known],
  )
  users = [
    p.user_ids[b.user_bt] for p, b in ((prepared, before), (again, after))
  ]
  np.testing.assert_array_equal(users[0][known], users[1][known])
  for name, array in leaves(before).items():
    if name.startswith(("request/", "previous/")) and name != "previous/item":
      other = leaves(after)[name]
      width = min(array[known].shape[-1], other[known].shape[-1])
      if array.ndim > 2:  # a bag's padded width may differ
        np.testing.assert_array_equal(
          array[known][:, :width], other[known][:, :width]
        )
        assert not array[known][:, width:].any()
        assert not other[known][:, width:].any()
      else:
        np.testing.assert_array_equal(array[known], other[known])


def test_leave_last_out_asks_for_the_last_two_targets(events, prepare):
  prepared = prepare(events, split=LeaveLastOut())
  for user in range(len(prepared.index)):
    (targets,) = np.nonzero(prepared.history(user)["target"])
    held_out = targets[-2:].tolist() if len(targets) >= 3 else []
    asked = [
      token
      for split in ("validation", "test")
      for u, token in queries(
        evaluation_batches(
          prepared, split=split, targets="all", window=16, rows=4
        )
      )
      if u == user
    ]
    assert asked == held_out
    if held_out:
      assert prepared.index.train_end[user] == held_out[0]

"""Prepared directories: what is read back, and what is refused."""

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import RunTokens, TemporalSplit
from fmjax.data.encode import Encoding, encode
from fmjax.data.history import Bags, Column, layout, pack, unpack
from fmjax.data.schema import DataError, Encoded, Feature, Kind
from fmjax.data.store import open_prepared, verify
from fmjax.data.write import HistoryWriter

_T0 = 1_600_000_000
_US = 1_000_000
_DAY_S = 86_400


def _events(every=60):
  """Ninety events of three users, with features of every kind."""
  return [
    {
      "user_id": f"u{n % 3}",
      "item_id": f"i{n * n % 7}",
      "timestamp": _T0 + every * n,
      "duration_ms": 1_000 * n if n % 4 else None,
      "device": "tv" if n % 2 else None,
      "position": float(n % 5),
      "registered": 1_500_000_000 + n,
      "interests": ["x", "y"][: n % 3],
      "context": [n / 7, -1.0],
      "cause": f"r{n % 2}",
      "rating": float(n % 3) if n % 5 else None,
      "finished": None,
      "tags": ["a", "b", "c"][n % 3 :],
      "mood": [0.0, 1.0, 2.0],
    }
    for n in range(90)
  ]


@pytest.fixture(scope="module")
def prepared(prepared_of, every_kind):
  return prepared_of(_events(), schema=every_kind)


@pytest.fixture
def copy(prepared, tmp_path):
  return shutil.copytree(prepared.path, tmp_path / "copy")


def test_a_history_is_the_users_events_in_time_order(prepared):
  for user, user_id in enumerate(prepared.user_ids):
    history = prepared.history(user)
    mine = [event for event in _events() if event["user_id"] == user_id]
    item_ids = prepared.catalog.item_ids[history["item"]]
    assert item_ids.tolist() == [event["item_id"] for event in mine]
    times = [event["timestamp"] * _US for event in mine]
    assert history["start_us"].tolist() == times
    assert history["end_us"].tolist() == times
    assert history["target"].all()


def test_every_kind_of_feature_is_read_back_in_its_type(prepared):
  history = prepared.history(0)
  n = 30
  expected = {
    "device": ("int32", (n,)),
    "position": ("float32", (n,)),
    "registered": ("int32", (n,)),
    "interests": ("int32", (n, 2)),
    "interests_count": ("float32", (n, 2)),
    "context": ("float32", (n, 2)),
    "cause": ("int32", (n,)),
    "rating": ("float32", (n,)),
    "finished": ("int32", (n,)),
    "tags": ("int32", (n, 3)),
    "tags_count": ("float32", (n, 3)),
    "mood": ("float32", (n, 3)),
    "action": ("int32", (n, 1)),
    "action_count": ("float32", (n, 1)),
    "duration_ms": ("float32", (n,)),
    "event_count": ("float32", (n,)),
    "item": ("int32", (n,)),
    "start_us": ("int64", (n,)),
    "end_us": ("int64", (n,)),
    "target": ("bool", (n,)),
  }
  found = {k: (str(v.dtype), v.shape) for k, v in history.items()}
  assert found == expected
  assert {e.feature.name for e in prepared.spec.features} <= set(history)


def test_a_missing_value_is_zero_or_nan(prepared):
  mine = [e for e in _events() if e["user_id"] == prepared.user_ids[0]]
  history = prepared.history(0)
  for n, event in enumerate(mine):
    assert (history["device"][n] == 0) == (event["device"] is None)
    assert np.isnan(history["rating"][n]) == (event["rating"] is None)
    assert (history["tags"][n] > 0).sum() == len(event["tags"])
  assert not history["finished"].any()
  assert history["registered"][0] == mine[0]["registered"]
  encoded = {e.feature.name: e for e in prepared.spec.features}
  np.testing.assert_allclose(
    history["context"][1],
    np.array(mine[1]["context"]) / encoded["context"].std,
    rtol=1e-6,
  )


def test_numbers_are_standardized_over_the_training_tokens(prepared):
  columns, offset_u = prepared.histories()
  train = np.concatenate(
    [
      np.arange(begin, begin + end)
      for begin, end in zip(
        offset_u[:-1], prepared.index.train_end, strict=True
      )
    ]
  )
  for name in ("rating", "position", "duration_ms"):
    values = columns[name][train]
    assert abs(np.nanmean(values)) < 1e-5
    assert abs(np.nanstd(values) - 1) < 1e-5
  trained = [e for e in _events() if e["timestamp"] < _T0 + 60 * 72]
  position = np.log1p([event["position"] for event in trained])
  encoded = {e.feature.name: e for e in prepared.spec.features}["position"]
  assert encoded.mean == pytest.approx(position.mean(), rel=1e-7)
  assert encoded.std == pytest.approx(position.std(), rel=1e-7)


def test_a_run_keeps_counts_of_its_actions(prepared_of):
  events = [
    {
      "user_id": "u",
      "item_id": f"i{n // 3}",
      "timestamp": _T0 + n,
      "action": "like" if n % 3 == 2 else "play",
    }
    for n in range(30)
  ]
  history = prepared_of(events, granularity=RunTokens()).history(0)
  # As frequent as each other, so "like" comes before "play".
  assert history["action"][0].tolist() == [2, 3]
  assert history["action_count"][0].tolist() == [1.0, 2.0]


def test_parts_of_a_history_are_what_the_cuts_say(prepared_of):
  # One run a minute of three events; both cuts lie within one.
  events = [
    {
      "user_id": "u",
      "item_id": f"i{n // 3}",
      "timestamp": _T0 + 60 * (n // 3) + n % 3,
    }
    for n in range(30)
  ]
  events += [{"user_id": "late", "item_id": "i0", "timestamp": _T0 + 900}]
  prepared = prepared_of(
    events,
    granularity=RunTokens(),
    split=TemporalSplit(validation=0.3, test=0.32),
  )
  index = {
    name: getattr(prepared.index, name).tolist()
    for name in type(prepared.index).__dataclass_fields__
  }
  assert prepared.user_ids.tolist() == ["u", "late"]
  assert index == {
    "train_end": [3, 0],
    "validation_start": [4, 0],
    "validation_end": [7, 0],
    "test_start": [7, 0],
    "tokens": [10, 1],
  }
  assert prepared.manifest["counts"]["tokens_by_split"] == {
    "train": 3,
    "validation": 3,
    "test": 4,
    "crossing": 1,
  }


def test_items_of_all_and_of_some_users(prepared):
  item_n, offset_u = prepared.items_of()
  assert offset_u.tolist() == [0, 30, 60, 90]
  some, some_offset = prepared.items_of(np.array([2, 0]))
  assert some.tolist() == [*item_n[60:], *item_n[:30]]
  assert some_offset.tolist() == [0, 30, 60]
  none, none_offset = prepared.items_of(np.array([], int))
  assert (none.tolist(), none_offset.tolist()) == ([], [0])


def test_daily_counts_targets_by_item_and_day(prepared_of, every_kind):
  schema = type(every_kind)(source="x", target_actions=("rate",))
  events = _events(every=7_200)
  bare = [
    {k: e[k] for k in ("user_id", "item_id", "timestamp")} for e in events
  ]
  bare += [{**e, "timestamp": e["timestamp"] + 1, "action": "x"} for e in bare]
  prepared = prepared_of(bare, schema=schema)
  daily = prepared.catalog.daily
  assert (np.diff(daily.day) >= 0).all()
  counted = {
    (day, prepared.catalog.item_ids[item]): count
    for day, item, count in zip(
      daily.day, daily.item, daily.events, strict=True
    )
  }
  expected: dict[tuple[int, str], int] = {}
  for event in events:
    key = (event["timestamp"] // _DAY_S, event["item_id"])
    expected[key] = expected.get(key, 0) + 1
  assert counted == expected


def test_a_prepared_directory_travels_between_processes(prepared):
  again = pickle.loads(pickle.dumps(prepared))
  np.testing.assert_equal(again.history(1), prepared.history(1))


# ---- records -------------------------------------------------------------

_LAYOUT = (
  Column(name="item", stored="<u2", decoded="<i4"),
  Column(name="tags", stored="u1", decoded="<i4", width=3, bag=True),
  Column(name="mood", stored="<f4", decoded="<f4", width=2),
)
_TOKEN = st.tuples(
  st.integers(0, 65_535),
  st.lists(st.tuples(st.integers(1, 255), st.integers(1, 65_535)), max_size=3),
  st.tuples(*[st.floats(width=32, allow_nan=False)] * 2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_TOKEN, min_size=1, max_size=5), max_size=4))
def test_records_are_read_back_as_written(histories):
  tokens = [token for history in histories for token in history]
  values = [value for _, bag, _ in tokens for value in bag]
  columns = {
    "item": np.array([item for item, _, _ in tokens], np.int32),
    "tags": Bags(
      length_n=np.array([len(bag) for _, bag, _ in tokens], np.uint8),
      value_n=np.array([code for code, _ in values], np.int32),
      count_n=np.array([count for _, count in values], np.int32),
    ),
    "mood": np.array([m for _, _, m in tokens], np.float32).reshape(-1, 2),
  }
  offsets = np.cumsum([0, *map(len, histories)])
  records = pack(columns, offsets, _LAYOUT)
  assert len(records) == len(histories)
  read, offset_u = unpack(records, _LAYOUT, place="here")
  assert offset_u.tolist() == offsets.tolist()
  assert read["item"].tolist() == columns["item"].tolist()
  np.testing.assert_array_equal(read["mood"], columns["mood"])
  for n, (_, bag, _) in enumerate(tokens):
    blank = [0] * (3 - len(bag))
    assert read["tags"][n].tolist() == [code for code, _ in bag] + blank
    assert read["tags_count"][n].tolist() == [c for _, c in bag] + blank


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_record_of_the_wrong_size_is_refused(change):
  columns = {"item": np.arange(5), "mood": np.ones((5, 2), np.float32)}
  some = (_LAYOUT[0], _LAYOUT[2])
  (record,) = pack(columns, np.array([0, 5]), some)
  record = record[:change] if change < 0 else record + b"\0" * change
  with pytest.raises(DataError, match=r"here cannot be decoded .*prepare"):
    unpack([record], some, place="here")


def test_codes_take_the_smallest_type_that_holds_them():
  features = [
    Encoded(feature=Feature(name=str(size), kind=Kind.CATEGORICAL), size=size)
    for size in (256, 257, 65_536, 65_537)
  ]
  columns = layout(features, items=3)
  assert [c.stored for c in columns[4:]] == ["u1", "<u2", "<u2", "<i4"]


def test_users_cut_over_batches_and_shards_stay_whole(tmp_path):
  user = np.repeat(np.arange(40, dtype=np.int32), np.arange(1, 41))
  n = len(user)
  tokens = pa.table(
    {
      "user": user,
      "item": np.arange(n, dtype=np.int32) % 250,
      "start_us": np.arange(n),
      "end_us": np.arange(n),
      "target": np.ones(n, bool),
      "event_count": np.ones(n, np.int64),
      "split": np.zeros(n, np.int8),
    }
  )
  columns = layout([], items=250)
  whole, cut = (
    HistoryWriter(tmp_path / name, encodings=[], layout=columns, **options)
    for name, options in (("whole", {}), ("cut", {"shard_bytes": 2_000}))
  )
  for writer, step in ((whole, n), (cut, 7)):
    writer._folder.mkdir()
    for begin in range(0, n, step):
      writer.write(tokens.slice(begin, step))
  index = whole.close()
  assert index.tokens.tolist() == list(range(1, 41))
  assert cut.close().tokens.tolist() == index.tokens.tolist()
  assert len(whole.shards) == 1
  assert len(cut.shards) > 3
  assert cut.digest == whole.digest


# ---- encoding ------------------------------------------------------------


def test_a_full_bag_keeps_the_most_frequent_values():
  bag = Feature(name="tags", kind=Kind.BAG)
  encoding = Encoding(
    encoded=Encoded(feature=bag, size=5, values=2), vocabulary=("a", "b", "c")
  )
  column = pa.array([["new", "c", "b", "a"], None, [], ["new", None, "c"]])
  codes, counts = encode(column, encoding).padded(2)
  assert codes.tolist() == [[2, 3], [0, 0], [0, 0], [4, 1]]
  assert counts.tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_a_vector_of_another_width_is_refused():
  feature = Feature(name="mood", kind=Kind.VECTOR, width=2)
  encoding = Encoding(encoded=Encoded(feature=feature, size=2))
  with pytest.raises(DataError, match=r"'mood' has 3 numbers.*width = 2"):
    encode(pa.array([[1.0, 2.0], [1.0, 2.0, 3.0]]), encoding)


# ---- damage --------------------------------------------------------------


def test_an_absent_directory_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"not a prepared directory.*prepare"):
    open_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize(
  "name",
  [
    "catalog.parquet",
    "daily.parquet",
    "histories-00000.arrayrecord",
    "index.npz",
    "rejects.parquet",
    "users.parquet",
  ],
)
def test_a_missing_or_truncated_file_is_refused(copy, name):
  content = (copy / name).read_bytes()
  (copy / name).write_bytes(content[:-7])
  with pytest.raises(DataError, match=f"{name} has .* bytes where"):
    open_prepared(copy)
  (copy / name).unlink()
  with pytest.raises(DataError, match=f"{name} is missing.*prepare"):
    open_prepared(copy)


@pytest.mark.parametrize(
  "name", ["catalog.parquet", "daily.parquet", "index.npz", "users.parquet"]
)
def test_a_changed_byte_is_found_at_opening(copy, name):
  content = bytearray((copy / name).read_bytes())
  content[len(content) // 2] ^= 1
  (copy / name).write_bytes(content)
  with pytest.raises(DataError, match=f"{name} differs from its checksum"):
    open_prepared(copy)


def test_damaged_histories_are_found_when_read_or_verified(copy):
  file = copy / "histories-00000.arrayrecord"
  whole = file.read_bytes()
  found = set()
  filled = np.flatnonzero(np.frombuffer(whole, np.uint8))
  for at in filled[:: len(filled) // 25]:
    content = bytearray(whole)
    content[at] ^= 0xFF
    file.write_bytes(content)
    try:
      prepared = open_prepared(copy)
      with pytest.raises(DataError, match="differs from its checksum"):
        verify(prepared)
      prepared.histories()
      found.add("harmless")  # between the records
    except DataError as error:
      found.add(str(error).partition(": ")[0].partition(" (")[0])
  assert found <= {
    "harmless",
    f"{copy} is damaged",
    f"a history in {copy} cannot be read",
  }
  assert f"a history in {copy} cannot be read" in found


def test_a_changed_manifest_is_refused(copy):
  file = copy / "manifest.json"
  manifest = json.loads(file.read_text())
  text = json.dumps({**manifest, "shards": []})
  file.write_text(text)
  with pytest.raises(DataError, match=r"manifest.json differs from its"):
    open_prepared(copy)
  file.write_text(json.dumps({**manifest, "format_version": 0}))
  with pytest.raises(DataError, match="format version 0, this fmjax reads 1"):
    open_prepared(copy)
  for text in ("", "{}", "[1]", "{not json"):
    file.write_text(text)
    with pytest.raises(DataError, match="not the JSON that was written"):
      open_prepared(copy)


def test_a_whole_directory_verifies(prepared):
  verify(open_prepared(prepared.path))

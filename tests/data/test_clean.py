"""Rows that cannot be used are told apart, kept, and explained."""

import dataclasses
import datetime
import pathlib
import time

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmjax.data.clean import Cleaned, clean
from fmjax.data.log import Log
from fmjax.data.readers import plain
from fmjax.data.schema import DataError, Feature, Kind, Schema, When

_2020_S = 1_577_836_800
_SCHEMA = Schema(
  source="test",
  features=(
    Feature(name="device", kind=Kind.CATEGORICAL, when=When.REQUEST),
    Feature(name="price", kind=Kind.NUMERIC),
    Feature(name="seen", kind=Kind.TIMESTAMP),
    Feature(name="tags", kind=Kind.BAG),
    Feature(name="image", kind=Kind.VECTOR, width=2),
  ),
)


def _row(**changes):
  row = {
    "user_id": "u",
    "item_id": "i",
    "timestamp": str(_2020_S),
    "action": "click",
    "duration_ms": "5",
    "device": "tv",
    "price": "1.5",
    "seen": str(_2020_S),
    "tags": ["a"],
    "image": [1.0, 2.0],
  }
  return {**row, **changes}


_TYPES = {"tags": pa.list_(pa.string()), "image": pa.list_(pa.float64())}


def _log(folder: pathlib.Path, rows, *, unit="s", **columns) -> Log:
  """A log of the rows, distinct by item unless they say otherwise."""
  names = list(_row()) + sorted(columns)
  rows = [{**columns, **row} for row in rows]
  table = pa.table(
    {
      name: pa.array([row[name] for row in rows], _TYPES.get(name, pa.string()))
      for name in names
    }
  )
  path = folder / "events.parquet"
  pq.write_table(table, path)
  connection = ibis.duckdb.connect()
  return Log(
    schema=_SCHEMA,
    events=plain.read_parquet(connection, path, place="events.parquet"),
    items=None,
    time_unit=unit,
    files=(path,),
    place="events.parquet",
  )


def _good(count: int):
  return [_row(item_id=f"i{place}") for place in range(count)]


def _events(cleaned: Cleaned):
  return cleaned.events.order_by("row").to_pyarrow().to_pylist()


def _rejects(cleaned: Cleaned):
  return cleaned.rejects.order_by("row").to_pyarrow().to_pylist()


def test_clean_types_every_kind_of_feature(tmp_path):
  cleaned = clean(_log(tmp_path, _good(2)))
  assert _events(cleaned)[0] == {
    "row": 1,
    "user_id": "u",
    "item_id": "i0",
    "timestamp": _2020_S * 1_000_000,
    "action": "click",
    "duration_ms": 5,
    "device": "tv",
    "price": 1.5,
    "seen": _2020_S * 1_000_000,
    "tags": ["a"],
    "image": [1.0, 2.0],
  }


def test_missing_optional_values_are_null_and_no_reason_to_reject(tmp_path):
  blank = _row(
    duration_ms=None, device="", price=None, seen=None, tags=None, image=None
  )
  cleaned = clean(_log(tmp_path, [*_good(2), blank]))
  event = _events(cleaned)[2]
  assert event["tags"] == []
  for name in ("duration_ms", "device", "price", "seen", "image"):
    assert event[name] is None


_BAD = {
  "missing user_id": {"user_id": None},
  "missing item_id": {"item_id": " "},
  "missing action": {"action": ""},
  "missing timestamp": {"timestamp": None},
  "unparsable timestamp": {"timestamp": "yesterday"},
  "timestamp before 1990": {"timestamp": "12"},
  "timestamp in the future": {"timestamp": str(_2020_S * 1000)},
  "unparsable duration_ms": {"duration_ms": "long"},
  "negative duration_ms": {"duration_ms": "-1"},
  "unparsable price": {"price": "cheap"},
  "unparsable seen": {"seen": "never"},
  "wrong width of image": {"image": [1.0, 2.0, 3.0]},
  "unparsable image": {"image": [1.0, None]},
}


def test_unusable_rows_are_rejected_with_their_original_values(tmp_path):
  bad = [_row(**changes) for changes in _BAD.values()]
  cleaned = clean(_log(tmp_path, [*_good(3), *bad]), max_rejects=1)
  assert _rejects(cleaned) == [
    {"row": 4 + place, "reason": reason, **row}
    for place, (reason, row) in enumerate(zip(_BAD, bad, strict=True))
  ]
  assert cleaned.rejected == dict.fromkeys(sorted(_BAD), 1)
  assert [event["row"] for event in _events(cleaned)] == [1, 2, 3]


@pytest.mark.parametrize("reason", _BAD)
def test_too_many_unusable_rows_raise_naming_value_row_and_file(
  tmp_path, reason
):
  changes = _BAD[reason]
  log = _log(tmp_path, [*_good(3), _row(**changes)])
  with pytest.raises(DataError) as error:
    clean(log)
  message = str(error.value)
  assert message.startswith("events.parquet, row 4: ")
  (column,) = changes
  assert column in message
  assert "1 of 4 rows are unusable" in message
  assert "\n" not in message


@pytest.mark.parametrize(
  "value, unit, remedy",
  [
    (_2020_S * 1_000, "s", "time_unit = 'ms'"),
    (_2020_S * 1_000_000, "s", "time_unit = 'us'"),
    (_2020_S, "ms", "time_unit = 's'"),
    (_2020_S, "us", "time_unit = 's'"),
    (_2020_S * 1_000, "us", "time_unit = 'ms'"),
    (_2020_S, "iso", "time_unit = 's'"),
    ("2020-01-01T00:00:00Z", "s", "time_unit = 'iso'"),
    ("2020-01-01 00:00:00", "ms", "time_unit = 'iso'"),
  ],
)
def test_a_wrong_unit_is_named_with_the_right_one(
  tmp_path, value, unit, remedy
):
  rows = [_row(timestamp=str(value), seen=None, item_id=c) for c in "ab"]
  with pytest.raises(DataError, match=remedy) as error:
    clean(_log(tmp_path, rows, unit=unit))
  assert str(value) in str(error.value)
  assert "2020-01-01" in str(error.value)


@pytest.mark.parametrize(
  "unit, good",
  [
    ("s", str(_2020_S)),
    ("ms", str(_2020_S * 1_000)),
    ("us", str(_2020_S * 1_000_000)),
    ("iso", "2020-01-01"),
  ],
)
def test_no_value_overflows(tmp_path, unit, good):
  wild = ["1e400", "nan", "inf", "-9e18", "9" * 20, "0x10", "infinity"]
  wild += ["9999999-01-01", "2020-13-01", "2020-01-01 00:00:00 Mars"]
  times = [good, good, good, *wild]
  rows = [
    _row(timestamp=text, seen=None, item_id=str(place))
    for place, text in enumerate(times)
  ]
  cleaned = clean(_log(tmp_path, rows, unit=unit), max_rejects=1)
  assert [event["row"] for event in _events(cleaned)] == [1, 2, 3]
  assert cleaned.events_in == len(rows)


def test_exact_duplicates_keep_the_first_and_never_stop_the_run(tmp_path):
  rows = [*_good(2), _row(item_id="i0"), _row(item_id="i0"), _row(price="9")]
  cleaned = clean(_log(tmp_path, rows))
  assert cleaned.rejected == {"exact duplicate": 2}
  assert [reject["row"] for reject in _rejects(cleaned)] == [3, 4]


def test_duplicates_are_seen_through_missing_values(tmp_path):
  row = _row(price=None, tags=None, image=None, device=None)
  cleaned = clean(_log(tmp_path, [*_good(2), row, row]))
  assert cleaned.rejected == {"exact duplicate": 1}


def test_an_event_logged_twice_is_told_from_an_exact_duplicate(tmp_path):
  rows = [_row(logged="1"), _row(logged="2"), _row(logged="2"), *_good(1)]
  log = _log(tmp_path, rows, logged="0")
  cleaned = clean(dataclasses.replace(log, logging=("logged",)))
  assert cleaned.rejected == {"exact duplicate": 1, "logged again": 1}
  # Any other column may be what makes them two events.
  assert clean(log).rejected == {"exact duplicate": 1}
  assert "logged" not in cleaned.events.columns
  assert [reject["logged"] for reject in _rejects(cleaned)] == ["2", "2"]


def test_a_rare_unusable_row_is_tolerated_and_counted(tmp_path):
  rows = [*_good(1_999), _row(user_id="")]
  cleaned = clean(_log(tmp_path, rows))
  assert cleaned.events_in == 2_000
  assert cleaned.rejected == {"missing user_id": 1}


def test_an_empty_log_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"events\.parquet holds no events"):
    clean(_log(tmp_path, []))


def test_a_log_without_any_sequence_is_refused(tmp_path):
  rows = [_row(user_id=user) for user in "abc"]
  with pytest.raises(DataError, match="none of the users has two events"):
    clean(_log(tmp_path, rows))


def test_the_clock_decides_what_is_the_future(tmp_path):
  now = int(time.time())
  rows = [*_good(2), _row(timestamp=str(now)), _row(timestamp=str(now + 10**6))]
  cleaned = clean(_log(tmp_path, rows), max_rejects=0.5)
  assert cleaned.rejected == {"timestamp in the future": 1}


def test_an_unknown_time_unit_is_refused(tmp_path):
  with pytest.raises(DataError, match="'minutes' is none of s, ms, us, iso"):
    clean(_log(tmp_path, _good(2), unit="minutes"))


def test_dates_are_read_as_utc_unless_they_name_a_zone(tmp_path):
  texts = [
    "2020-01-01 00:00:00.25",
    "2020-01-01T00:00:00.25Z",
    "2020-01-01 00:00:00.25 UTC",
    "2020-01-01 01:00:00.25+01",
    "2019-12-31T18:30:00.25-0530",
    "2020-01-01T05:30:00.250+05:30",
  ]
  rows = [
    _row(timestamp=text, seen=text, item_id=str(place))
    for place, text in enumerate(texts)
  ]
  for event in _events(clean(_log(tmp_path, rows, unit="iso"))):
    assert event["timestamp"] == _2020_S * 1_000_000 + 250_000
    assert event["seen"] == event["timestamp"]


_NOW_US = int(datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC).timestamp())
_NOW_US *= 1_000_000


@settings(
  max_examples=6,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  moments=st.lists(
    st.integers(700_000_000_000_000, _NOW_US), min_size=2, max_size=50
  ),
  unit=st.sampled_from(["s", "ms", "us"]),
)
def test_times_are_exact_to_the_microsecond(tmp_path, moments, unit):
  digits = {"s": 6, "ms": 3, "us": 0}[unit]
  texts = []
  for moment in moments:
    text = str(moment)
    whole, fraction = text[: len(text) - digits], text[len(text) - digits :]
    texts.append(f"{whole}.{fraction}" if digits else whole)
  rows = [
    _row(timestamp=text, seen=None, item_id=str(place))
    for place, text in enumerate(texts)
  ]
  cleaned = clean(_log(tmp_path, rows, unit=unit))
  assert [event["timestamp"] for event in _events(cleaned)] == moments


_TEXTS = st.sampled_from([None, "", "a", "-1", "7", "nan", str(_2020_S)])


@settings(
  max_examples=8,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  st.lists(
    st.fixed_dictionaries(
      dict.fromkeys(
        ["user_id", "item_id", "timestamp", "duration_ms", "price"], _TEXTS
      )
    ),
    max_size=40,
  )
)
def test_every_row_is_either_an_event_or_a_reject(tmp_path, changes):
  rows = [*_good(2), *(_row(**change) for change in changes)]
  cleaned = clean(_log(tmp_path, rows), max_rejects=1)
  events = [event["row"] for event in _events(cleaned)]
  rejects = [reject["row"] for reject in _rejects(cleaned)]
  assert sorted(events + rejects) == list(range(1, len(rows) + 1))
  assert sum(cleaned.rejected.values()) == len(rejects)
  assert cleaned.events_in == len(rows)


def test_an_impossible_duration_is_a_reject(tmp_path):
  rows = [*_good(2), _row(duration_ms="1e30")]
  cleaned = clean(_log(tmp_path, rows), max_rejects=0.5)
  assert cleaned.rejected == {"implausible duration_ms": 1}


def test_a_time_in_the_wrong_unit_is_refused_and_not_clipped(tmp_path):
  rows = [*_good(2), _row(seen=f"{_2020_S}000")]
  with pytest.raises(DataError, match=r"row 3: seen = .*check its unit"):
    clean(_log(tmp_path, rows))


def test_a_log_without_a_usable_row_is_refused_whatever_is_tolerated(tmp_path):
  rows = [_row(user_id=""), _row(user_id="")]
  with pytest.raises(DataError, match="2 of 2 rows are unusable"):
    clean(_log(tmp_path, rows), max_rejects=1)


def test_a_log_of_another_length_than_published_is_refused(tmp_path):
  log = _log(tmp_path, _good(2))
  with pytest.raises(DataError, match="2 events where 3 are published"):
    clean(dataclasses.replace(log, published_events=3))

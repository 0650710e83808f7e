"""Any CSV or Parquet log is read as its mapping says."""

import datetime
import pathlib
import re
import zipfile

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmjax.config import DataConfig, Table
from fmjax.data.clean import clean
from fmjax.data.prepare import prepared_dir
from fmjax.data.readers import mapping, table
from fmjax.data.schema import DataError, Feature, Kind, When

_CLICKS = """\
visitor,product,time,event,dwell,device_type,price,coupons
a,1,1577836800,buy,1500,phone,9.5,x|y
a,2,1577836801,,,tv,,
b,1,1577836802,view,20,phone,3,y
b,2,1577836803,view,20,phone,3,y|y
"""
_PRODUCTS = """\
product,name,listed,brand,image_0,image_1
1,Kettle,2019-12-31,acme,0.5,-1
2,"Cup, blue",,,0,1e-3
3,Never seen,2020-01-02T03:04:05Z,acme,0,0
"""
_MINIMAL = """\
[events]
user = "visitor"
item = "product"
timestamp = "time"
time_unit = "s"
"""


def _example() -> str:
  """The mapping in the docstring."""
  found = re.search(r"```toml\n(.*?)```", mapping.__doc__ or "", re.DOTALL)
  assert found
  return found.group(1)


def _read(
  folder: pathlib.Path, mapping: str, *, raw: str = "clicks.csv", **files
):
  for name, text in {
    "clicks.csv": _CLICKS,
    "products.csv": _PRODUCTS,
    **files,
  }.items():
    (folder / name).write_text(text)
  (folder / "map.toml").write_text(mapping)
  source = Table(
    raw=str(folder / raw) if raw else "", mapping=str(folder / "map.toml")
  )
  return table.read(source, ibis.duckdb.connect())


def _events(log):
  return clean(log).events.order_by("row").to_pyarrow().to_pylist()


def test_the_documented_example_works(tmp_path):
  log = _read(tmp_path, _example(), raw="")
  assert log.schema.target_actions == ("buy",)
  assert log.schema.repeats
  assert log.schema.features == (
    Feature(name="device", kind=Kind.CATEGORICAL, when=When.REQUEST),
    Feature(name="price", kind=Kind.NUMERIC, when=When.REQUEST, log=True),
    Feature(name="coupons", kind=Kind.BAG, when=When.POST_ACTION),
  )
  events = _events(log)
  assert events[0] == {
    "row": 1,
    "user_id": "a",
    "item_id": "1",
    "timestamp": 1_577_836_800_000_000,
    "action": "buy",
    "duration_ms": 1_500,
    "device": "phone",
    "price": 9.5,
    "coupons": ["x", "y"],
  }
  assert events[1]["action"] == "click"
  assert events[1]["duration_ms"] is None
  assert events[1]["coupons"] == []
  assert events[3]["coupons"] == ["y"]

  assert log.schema.metadata == (
    Feature(name="brand", kind=Kind.CATEGORICAL),
    Feature(name="image", kind=Kind.VECTOR, width=2),
  )
  items = log.items.order_by("item_id").to_pyarrow().to_pylist()
  midnight = datetime.datetime(2019, 12, 31, tzinfo=datetime.UTC)
  assert items[0] == {
    "item_id": "1",
    "title": "Kettle",
    "launch_time": int(midnight.timestamp()) * 1_000_000,
    "brand": "acme",
    "image": [0.5, -1.0],
  }
  assert items[1] == {
    "item_id": "2",
    "title": "Cup, blue",
    "launch_time": None,
    "brand": None,
    "image": [0.0, 0.001],
  }
  assert {file.name for file in log.files} == {
    "clicks.csv",
    "products.csv",
    "map.toml",
  }


def test_four_lines_are_enough(tmp_path):
  log = _read(tmp_path, _MINIMAL)
  events = _events(log)
  assert len(events) == 4
  assert {event["action"] for event in events} == {"interact"}
  assert log.schema.target_actions == ()
  assert log.items is None


def test_durations_in_seconds_become_milliseconds(tmp_path):
  mapping = _MINIMAL + 'duration = "dwell"\nduration_unit = "s"\n'
  durations = [e["duration_ms"] for e in _events(_read(tmp_path, mapping))]
  assert durations == [1_500_000, None, 20_000, 20_000]


def test_an_unparsable_duration_in_seconds_keeps_its_value(tmp_path):
  mapping = _MINIMAL + 'duration = "dwell"\nduration_unit = "s"\n'
  clicks = _CLICKS + "a,3,1577836804,view,long,tv,1,\n"
  log = _read(tmp_path, mapping, **{"clicks.csv": clicks})
  rejects = clean(log, max_rejects=1).rejects.to_pyarrow().to_pylist()
  assert [reject["duration_ms"] for reject in rejects] == ["long"]
  assert [reject["reason"] for reject in rejects] == ["unparsable duration_ms"]


def test_parquet_keeps_its_types_and_lists(tmp_path):
  moment = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
  columns = pa.table(
    {
      "visitor": [1, 1],
      "product": [7, 8],
      "time": pa.array([moment, moment], pa.timestamp("us", tz="Europe/Paris")),
      "tags": [["x"], None],
      "image": [[1.0, 2.0], [3.0, 4.0]],
      "seen": pa.array([moment, None], pa.timestamp("ms")),
    }
  )
  pq.write_table(columns, tmp_path / "clicks.parquet")
  mapping = _MINIMAL.replace('"s"', '"iso"') + (
    '[features.tags]\nkind = "bag"\nwhen = "request"\n'
    '[features.image]\nkind = "vector"\nwidth = 2\nwhen = "request"\n'
    '[features.seen]\nkind = "timestamp"\nwhen = "request"\n'
  )
  events = _events(_read(tmp_path, mapping, raw="clicks.parquet"))
  time_us = int(moment.timestamp()) * 1_000_000
  assert [event["timestamp"] for event in events] == [time_us, time_us]
  assert events[0]["user_id"] == "1"
  assert [event["tags"] for event in events] == [["x"], []]
  assert events[1]["image"] == [3.0, 4.0]
  assert [event["seen"] for event in events] == [time_us, None]


def test_a_zip_of_one_file_is_read(tmp_path):
  with zipfile.ZipFile(tmp_path / "clicks.zip", "w") as archive:
    archive.writestr("clicks.csv", _CLICKS)
  assert len(_events(_read(tmp_path, _MINIMAL, raw="clicks.zip"))) == 4


def test_a_folder_holds_the_file_that_the_mapping_names(tmp_path):
  mapping = _MINIMAL.replace("[events]", '[events]\nfile = "clicks.csv"')
  assert len(_events(_read(tmp_path, mapping, raw=""))) == 4
  assert len(_events(_read(tmp_path, mapping, raw="."))) == 4


def test_a_vector_in_one_text_column_is_split(tmp_path):
  mapping = _MINIMAL + (
    '[features.v]\nkind = "vector"\nwidth = 2\nwhen = "request"\n'
    'separator = " "\n'
  )
  text = "visitor,product,time,v\na,1,1577836800,1 2.5\na,2,1577836801,\n"
  events = _events(_read(tmp_path, mapping, **{"clicks.csv": text}))
  assert events[0]["v"] == [1.0, 2.5]
  assert events[1]["v"] is None


_BAG = '[features.coupons]\nkind = "bag"\nwhen = "post_action"\n'
_ITEMS = '[items]\nfile = "products.csv"\nitem = "product"\n'
_IMAGE = '[items.features.image]\nkind = "vector"\nwidth = 3\n'


@pytest.mark.parametrize(
  "mapping, message",
  [
    (_MINIMAL + 'durations = "x"\n', "did you mean 'duration'"),
    (_MINIMAL + "[feature.x]\n", "did you mean 'features'"),
    (_MINIMAL + _BAG.replace("kind", "king"), "did you mean 'kind'"),
    (_MINIMAL + _BAG.replace('"bag"', '"bags"'), "did you mean 'bag'"),
    (_MINIMAL + _BAG.replace("post_action", "post"), "'post' is unknown"),
    (_MINIMAL + _BAG, "needs a separator"),
    (_MINIMAL + '[features.x]\nkind = "numeric"\n', "does not say when"),
    (_MINIMAL + "[features]\nx = 1\n", "'x' is no table"),
    (
      _MINIMAL + '[features.action]\nkind = "bag"\nwhen = "request"\n',
      "a name that is taken",
    ),
    (_MINIMAL.replace('"s"', '"seconds"'), "'seconds' is unknown"),
    (_MINIMAL.replace('"s"', "1"), "time_unit = 1 is no str"),
    (_MINIMAL.replace('user = "visitor"', ""), "does not say user"),
    (_MINIMAL.replace('"visitor"', '"visitors"'), "did you mean 'visitor'"),
    (_MINIMAL + _ITEMS.replace("product", "prod"), "does not exist"),
    (
      _MINIMAL + _ITEMS + 'launch_time = "listed"\n',
      "does not say launch_unit",
    ),
    (
      _MINIMAL + _ITEMS + 'launch_time = "name"\nlaunch_unit = "iso"\n',
      r"products\.csv, row 1: unparsable launch_time",
    ),
    (
      _MINIMAL + _ITEMS + _IMAGE + 'columns = ["image_0", "image_1"]\n',
      r"products\.csv, row 1: wrong width of image; it has 2 numbers where"
      r" width = 3 is declared, correct one of the two",
    ),
    (_MINIMAL + _ITEMS + _IMAGE.replace("3", "0"), "width = 0 must be"),
    (
      _MINIMAL + _ITEMS + '[items.features.x]\nkind="bag"\nwhen="request"\n',
      "metadata has no `when`",
    ),
    ("[events", r"map\.toml is no TOML"),
    ("", "does not say events"),
  ],
)
def test_a_wrong_mapping_is_refused_in_one_sentence(tmp_path, mapping, message):
  with pytest.raises(DataError, match=message) as error:
    _read(tmp_path, mapping)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"raw": "nothing.csv"}, r"nothing\.csv does not exist"),
    ({"clicks.csv": ""}, r"clicks\.csv is empty"),
    ({"clicks.csv": "a,a\n1,2\n"}, "names the column 'a' twice"),
    ({"clicks.csv": "visitor,product\na,1\n"}, "has no column 'time'"),
  ],
)
def test_a_wrong_file_is_refused(tmp_path, changes, message):
  with pytest.raises(DataError, match=message):
    _read(tmp_path, _MINIMAL, **changes)


def test_an_item_listed_twice_is_refused(tmp_path):
  products = _PRODUCTS + "1,Kettle,,,1,1\n"
  with pytest.raises(DataError, match="lists the item '1' 2 times"):
    _read(tmp_path, _MINIMAL + _ITEMS, **{"products.csv": products})


def test_an_item_without_an_id_is_refused(tmp_path):
  products = _PRODUCTS + ",Kettle,,,1,1\n"
  with pytest.raises(DataError, match="row 4: missing product"):
    _read(tmp_path, _MINIMAL + _ITEMS, **{"products.csv": products})


def test_bytes_that_are_no_utf8_are_refused(tmp_path):
  (tmp_path / "log.csv").write_bytes(_CLICKS.encode() + b"\xe9,1,2\n")
  with pytest.raises(DataError, match=r"log\.csv, line 6: byte 0xe9"):
    _read(tmp_path, _MINIMAL, raw="log.csv")


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
  (tmp_path / "log.parquet").write_bytes(b"PAR1 and no more")
  with pytest.raises(DataError, match=r"log\.parquet is no Parquet file"):
    _read(tmp_path, _MINIMAL, raw="log.parquet")


def test_parquet_rows_are_numbered_as_they_lie_in_the_file(tmp_path):
  # More rows than DuckDB reads at once, in groups that threads share.
  count = 300_000
  columns = {"visitor": [n % 5 for n in range(count)], "product": range(count)}
  columns = pa.table({**columns, "time": [1_577_836_800] * count})
  pq.write_table(columns, tmp_path / "clicks.parquet", row_group_size=10_000)
  log = _read(tmp_path, _MINIMAL, raw="clicks.parquet")
  rows = log.events.select("row", "item_id").to_pyarrow()
  assert rows.num_rows == count
  assert rows["row"].to_pylist() == [
    item + 1 for item in rows["item_id"].to_pylist()
  ]


def test_a_parquet_column_of_duckdbs_own_name_is_refused(tmp_path):
  columns = {
    "visitor": [1],
    "product": [1],
    "time": [1],
    "File_Row_Number": [7],
  }
  pq.write_table(pa.table(columns), tmp_path / "clicks.parquet")
  with pytest.raises(DataError, match="'File_Row_Number', which is DuckDB's"):
    _read(tmp_path, _MINIMAL, raw="clicks.parquet")


def test_a_missing_mapping_is_explained(tmp_path):
  with pytest.raises(DataError, match="needs --mapping"):
    table.read(Table(raw="x.csv"), ibis.duckdb.connect())
  with pytest.raises(DataError, match="check --mapping"):
    table.read(Table(mapping=str(tmp_path / "no.toml")), ibis.duckdb.connect())


@pytest.mark.parametrize(
  "name",
  [
    *("copy", "in_history", "from_end", "start_s", "_value", "_first", "_row"),
    *("by", "having", "described", "split", "target", "run", "seq", "Item"),
    *("user", "reason", "action_count", "Timestamp", "two words", "é", "1st"),
    "published_x",
  ],
)
def test_a_name_that_is_taken_or_no_name_is_refused(tmp_path, name):
  feature = f'[features."{name}"]\nkind = "bag"\nwhen = "request"\n'
  with pytest.raises(DataError, match="declares a feature"):
    _read(tmp_path, _MINIMAL + feature)


def test_names_that_differ_in_case_alone_are_one_name(tmp_path):
  kind = 'kind = "categorical"\nwhen = "request"\ncolumn = "event"\n'
  mapping = _MINIMAL + f"[features.tag]\n{kind}[features.Tag]\n{kind}"
  with pytest.raises(DataError, match="'Tag', a name that is taken"):
    _read(tmp_path, mapping)


def test_ids_that_pandas_made_floats_are_integers_again(tmp_path):
  events = pa.table(
    {
      "visitor": [1.0, 1.0, 2.0],
      "product": [3.0, 4.5, float("nan")],
      "time": [1_577_836_800, 1_577_836_801, 1_577_836_802],
      "shop": [7.0, float("nan"), None],
    }
  )
  pq.write_table(events, tmp_path / "clicks.parquet")
  items = pa.table({"product": [3.0, 4.5]})
  pq.write_table(items, tmp_path / "products.parquet")
  mapping = _MINIMAL + (
    '[features.shop]\nkind = "categorical"\nwhen = "request"\n'
  )
  mapping += _ITEMS.replace("csv", "parquet")
  log = _read(tmp_path, mapping, raw="clicks.parquet")
  cleaned = clean(log, max_rejects=0.5)
  events = cleaned.events.order_by("row").to_pyarrow().to_pylist()
  assert [(e["user_id"], e["item_id"]) for e in events] == [
    ("1", "3"),
    ("1", "4.5"),
  ]
  assert [e["shop"] for e in events] == ["7", None]
  assert cleaned.rejected == {"missing item_id": 1}
  ids = log.items.order_by("item_id").to_pyarrow()["item_id"].to_pylist()
  assert ids == ["3", "4.5"]


def test_only_rows_that_are_alike_in_every_column_are_duplicates(tmp_path):
  clicks = _CLICKS + "a,1,1577836800,buy,1500,phone,9.5,x|z\n"
  clicks += "b,3,bad,view,20,phone,3,y\n"
  clicks += "b,1,1577836802,view,20,phone,3,y\n"
  log = _read(tmp_path, _MINIMAL, **{"clicks.csv": clicks})
  cleaned = clean(log, max_rejects=0.5)
  rejects = cleaned.rejects.order_by("row").to_pyarrow().to_pylist()
  assert cleaned.rejected == {"exact duplicate": 1, "unparsable timestamp": 1}
  assert rejects[0]["timestamp"] == "bad"
  assert rejects[0]["published_device_type"] == "phone"


def test_columns_without_a_name_are_numbered(tmp_path):
  clicks = ",visitor,product,time\n0,a,1,1577836800\n1,a,2,1577836801\n"
  log = _read(tmp_path, _MINIMAL, **{"clicks.csv": clicks})
  assert len(_events(log)) == 2
  assert "published_column_1" in log.events.columns


@pytest.mark.parametrize("column", ["row", "Row"])
def test_a_column_may_be_called_row(tmp_path, column):
  clicks = (
    f"{column},visitor,product,time\n5,a,1,1577836800\n6,a,2,1577836801\n"
  )
  log = _read(tmp_path, _MINIMAL, **{"clicks.csv": clicks})
  assert [event["row"] for event in _events(log)] == [1, 2]


def test_columns_that_differ_in_case_alone_are_refused(tmp_path):
  with pytest.raises(DataError, match=r"names the column 'a' twice"):
    _read(tmp_path, _MINIMAL, **{"clicks.csv": "a,A\n1,2\n"})


def test_vectors_of_integers_are_vectors(tmp_path):
  columns = {
    "visitor": ["a", "a"],
    "product": [1, 2],
    "time": [1_577_836_800, 1_577_836_801],
    "v": [[1, 2], [3, 4]],
    "w": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
  }
  pq.write_table(pa.table(columns), tmp_path / "clicks.parquet")
  mapping = _MINIMAL + "".join(
    f'[features.{name}]\nkind = "vector"\nwidth = 2\nwhen = "request"\n'
    for name in "vw"
  )
  events = _events(_read(tmp_path, mapping, raw="clicks.parquet"))
  assert [e["v"] for e in events] == [[1.0, 2.0], [3.0, 4.0]]
  assert [e["w"] for e in events] == [[1.0, 2.0], [3.0, 4.0]]


def test_a_mapping_may_lie_in_the_home_folder(tmp_path, monkeypatch):
  _read(tmp_path, _MINIMAL)
  monkeypatch.setenv("HOME", str(tmp_path))
  source = Table(raw="~/clicks.csv", mapping="~/map.toml")
  assert prepared_dir(DataConfig(source=source)).name.startswith("table-")


def test_a_launch_in_the_wrong_unit_is_refused(tmp_path):
  products = "product,listed\n1,1577836800000\n"
  mapping = _ITEMS + 'launch_time = "listed"\nlaunch_unit = "s"\n'
  with pytest.raises(DataError, match=r"implausible launch_time.*launch_unit"):
    _read(tmp_path, _MINIMAL + mapping, **{"products.csv": products})


def test_a_malformed_items_file_is_blamed(tmp_path):
  products = _PRODUCTS + "9,x,,,1,1,1,1\n"
  with pytest.raises(DataError, match=r"products\.csv cannot be read") as error:
    _read(tmp_path, _MINIMAL + _ITEMS, **{"products.csv": products})
  assert "\n" not in str(error.value)

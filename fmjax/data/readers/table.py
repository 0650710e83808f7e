"""Any CSV or Parquet log, through a small TOML mapping (see mapping.py)."""

import pathlib
from typing import Any

import ibis

from fmjax.config import Table
from fmjax.data import parse
from fmjax.data.log import TIME_UNITS, Log, compute
from fmjax.data.readers import plain, raw
from fmjax.data.readers.mapping import (
  EVENT_KEYS,
  ITEM_KEYS,
  Mapping,
  parse_features,
  parse_mapping,
)
from fmjax.data.schema import DataError, Feature, Kind, Schema

_DURATION_MS = {"ms": 1, "s": 1_000}
_DEFAULT_ACTION = "interact"
_LAUNCH = Feature(name="launch_time", kind=Kind.TIMESTAMP)


def read(source: Table, connection: ibis.BaseBackend) -> Log:
  if not source.mapping:
    raise DataError(
      "source 'table' needs --mapping MAP.toml, which names the columns;"
      " fmjax/data/readers/mapping.py shows a complete one"
    )
  path = pathlib.Path(source.mapping).expanduser()
  tree = parse_mapping(path)
  place = f"[events] in {path.name}"
  events = Mapping(tree["events"], EVENT_KEYS, place)
  unit = events.choice("time_unit", TIME_UNITS, events.require("time_unit"))
  declared = parse_features(
    tree.get("features", {}), f"[features] in {path.name}"
  )

  file = path.parent / (source.raw or events.require("file"))
  if source.raw:
    file = pathlib.Path(source.raw).expanduser()
  if file.is_dir():
    file = file / events.require("file")
  files, table, named = _open(
    connection, file, delimiter=events.get("delimiter", ",")
  )
  used = [*files.used]
  columns = _event_columns(events, declared, table, place=named)

  items, metadata = None, ()
  if "items" in tree:
    items, metadata, item_files = _read_items(connection, tree["items"], path)
    used += item_files
  return Log(
    schema=Schema(
      source="table",
      features=tuple(feature for feature, _ in declared),
      metadata=metadata,
      target_actions=tuple(map(str, events.get("target_actions", []))),
      repeats=events.get("repeats", False),
    ),
    events=table.select(**columns),
    items=items,
    time_unit=unit,
    files=(*used, path),
    place=named,
  )


def _open(
  connection: ibis.BaseBackend, file: pathlib.Path, *, delimiter: str
) -> tuple[raw.RawFiles, ibis.Table, str]:
  if not file.is_file():
    raise DataError(
      f"{file} does not exist; give the file with --raw or as `file` in the"
      " mapping"
    )
  files, name = raw.one_file(file, connection)
  path, place = files.open(name), files.place(name)
  if path.suffix == ".parquet":
    return files, plain.read_parquet(connection, [path], place=place), place
  if len(delimiter) != 1:
    raise DataError(f"delimiter = {delimiter!r} is not one character")
  table = plain.read_csv(connection, [path], place=place, delimiter=delimiter)
  return files, table, place


def _event_columns(
  events: Mapping,
  declared: list[tuple[Feature, Mapping]],
  table: ibis.Table,
  *,
  place: str,
) -> dict[str, Any]:
  def column(key: str) -> Any:
    return _column(table, events.require(key), place)

  action = ibis.literal(events.get("default_action", _DEFAULT_ACTION))
  if "action" in events.tree:
    action = column("action").cast("string").nullif("")
    if "default_action" in events.tree:
      action = action.fill_null(events.get("default_action"))
  duration = ibis.null("int64")
  scale = _DURATION_MS[events.choice("duration_unit", [*_DURATION_MS], "ms")]
  if "duration" in events.tree:
    duration = column("duration")
    if scale != 1:
      # What is no number stays as it is, for `clean` to reject.
      scaled = (parse.number(duration) * scale).cast("string")
      duration = scaled.fill_null(duration.cast("string"))
  return {
    "row": table.row,
    "user_id": column("user"),
    "item_id": column("item"),
    "timestamp": column("timestamp"),
    "action": action,
    "duration_ms": duration,
    **{
      feature.name: _value(table, feature, keys, place)
      for feature, keys in declared
    },
  }


def _read_items(
  connection: ibis.BaseBackend, tree: dict[str, Any], mapping: pathlib.Path
) -> tuple[ibis.Table, tuple[Feature, ...], list[pathlib.Path]]:
  keys = Mapping(tree, ITEM_KEYS, f"[items] in {mapping.name}")
  declared = parse_features(
    keys.get("features", {}), f"[items.features] in {mapping.name}", items=True
  )
  files, table, place = _open(
    connection,
    mapping.parent / keys.require("file"),
    delimiter=keys.get("delimiter", ","),
  )
  unit = "iso"
  published = {
    feature: _value(table, feature, entry, place) for feature, entry in declared
  }
  launch = ibis.null("int64")
  if "launch_time" in keys.tree:
    unit = keys.choice("launch_unit", TIME_UNITS, keys.require("launch_unit"))
    launch = _column(table, keys.get("launch_time"), place)
    published[_LAUNCH] = launch
    launch = parse.microseconds(launch, unit)
  title = ibis.null("string")
  if "title" in keys.tree:
    title = _column(table, keys.get("title"), place).cast("string").nullif("")
  item = _column(table, keys.require("item"), place)
  checks = [(parse.is_missing(item), f"missing {keys.get('item')}")]
  for feature, value in published.items():
    checks += parse.faults(value, feature, unit)
  items = compute(
    table.select(
      _row=table.row,
      _fault=parse.first_fault(checks),
      item_id=item.cast("string"),
      title=title,
      launch_time=launch,
      **{
        feature.name: parse.typed(published[feature], feature, unit)
        for feature, _ in declared
      },
    ),
    place=place,
  )
  _validate_items(items, place)
  metadata = tuple(feature for feature, _ in declared)
  return items.drop("_row", "_fault"), metadata, files.used


def _validate_items(items: Any, place: str) -> None:
  wrong = items.filter(items._fault.notnull()).order_by("_row").limit(1)
  for row in wrong.select("_row", "_fault").to_pyarrow().to_pylist():
    raise DataError(f"{place}, row {row['_row']}: {row['_fault']}; repair it")
  twice: Any = items.group_by("item_id").agg(rows=lambda t: t.count())
  twice = twice.filter(twice.rows > 1).order_by("item_id").limit(1)
  for row in twice.to_pyarrow().to_pylist():
    raise DataError(
      f"{place} lists the item {row['item_id']!r} {row['rows']} times; keep one"
    )


def _column(table: ibis.Table, name: str, place: str) -> Any:
  plain.require_columns(table, [name], place=place)
  return table[name]


def _value(
  table: ibis.Table, feature: Feature, keys: Mapping, place: str
) -> Any:
  """The published value, as a list if the feature is a bag or a vector."""
  many = feature.kind in (Kind.BAG, Kind.VECTOR)
  if "columns" in keys.tree:
    if feature.kind != Kind.VECTOR or "column" in keys.tree:
      raise DataError(
        f"{keys.place}: columns = [...] is for vectors, instead of column"
      )
    parts = [_column(table, name, place) for name in keys.get("columns")]
    return ibis.array([part.try_cast("float64") for part in parts])
  value = _column(table, keys.get("column", feature.name), place)
  if not many or value.type().is_array():
    return value
  if not keys.get("separator"):
    raise DataError(
      f"{keys.place}: a {feature.kind} in one column needs a separator"
    )
  split = parse.bag if feature.kind == Kind.BAG else parse.vector
  return split(value.cast("string"), keys.get("separator"))

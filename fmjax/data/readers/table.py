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


def files(source: Table) -> tuple[pathlib.Path, ...]:
  """What is read: the events, the items if there are any, the mapping."""
  path, tree = _mapping(source)
  found = [_events_file(source, path, tree)]
  if "items" in tree:
    found.append(_items_file(path, tree))
  return (*found, path)


def read(source: Table, connection: ibis.BaseBackend) -> Log:
  path, tree = _mapping(source)
  events = Mapping(tree["events"], EVENT_KEYS, f"[events] in {path.name}")
  unit = events.choice("time_unit", TIME_UNITS, events.require("time_unit"))
  declared = parse_features(
    tree.get("features", {}), f"[features] in {path.name}"
  )
  table, place = _open(
    connection,
    _events_file(source, path, tree),
    delimiter=events.get("delimiter", ","),
  )
  columns = _event_columns(events, declared, table, place=place)
  # What is not delivered as published tells duplicates apart, and is shown.
  further = {
    f"published_{name}": table[name]
    for name in table.columns
    if not any(value.equals(table[name]) for value in columns.values())
  }
  items, metadata = None, ()
  if "items" in tree:
    items, metadata = _read_items(connection, tree, path)
  return Log(
    schema=Schema(
      source="table",
      features=tuple(feature for feature, _ in declared),
      metadata=metadata,
      target_actions=tuple(map(str, events.get("target_actions", []))),
      repeats=events.get("repeats", False),
    ),
    events=table.select(**columns, **further),
    items=items,
    time_unit=unit,
    files=files(source),
    place=place,
  )


def _mapping(source: Table) -> tuple[pathlib.Path, dict[str, Any]]:
  if not source.mapping:
    raise DataError(
      "source 'table' needs --mapping MAP.toml, which names the columns;"
      " fmjax/data/readers/mapping.py shows a complete one"
    )
  path = pathlib.Path(source.mapping).expanduser()
  return path, parse_mapping(path)


def _events_file(
  source: Table, path: pathlib.Path, tree: dict[str, Any]
) -> pathlib.Path:
  events = Mapping(tree["events"], EVENT_KEYS, f"[events] in {path.name}")
  if not source.raw:
    return _present(path.parent / events.require("file"))
  file = pathlib.Path(source.raw).expanduser()
  return _present(file / events.require("file") if file.is_dir() else file)


def _items_file(path: pathlib.Path, tree: dict[str, Any]) -> pathlib.Path:
  items = Mapping(tree["items"], ITEM_KEYS, f"[items] in {path.name}")
  return _present(path.parent / items.require("file"))


def _present(file: pathlib.Path) -> pathlib.Path:
  if not file.is_file():
    raise DataError(
      f"{file} does not exist; give the file with --raw or as `file` in the"
      " mapping"
    )
  return file


def _open(
  connection: ibis.BaseBackend, file: pathlib.Path, *, delimiter: str
) -> tuple[ibis.Table, str]:
  """The table of a file, and how an error names it."""
  located, name = raw.one_file(file)
  path, place = located.open(name, connection), located.place(name)
  if path.suffix == ".parquet":
    return plain.read_parquet(connection, path, place=place), place
  if len(delimiter) != 1:
    raise DataError(f"delimiter = {delimiter!r} is not one character")
  table = plain.read_csv(connection, [path], place=place, delimiter=delimiter)
  return table, place


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
    action = parse.text(column("action")).nullif("")
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
) -> tuple[ibis.Table, tuple[Feature, ...]]:
  keys = Mapping(tree["items"], ITEM_KEYS, f"[items] in {mapping.name}")
  declared = parse_features(
    keys.get("features", {}), f"[items.features] in {mapping.name}", items=True
  )
  table, place = _open(
    connection,
    _items_file(mapping, tree),
    delimiter=keys.get("delimiter", ","),
  )
  unit = "iso"
  values = {
    feature: _value(table, feature, entry, place) for feature, entry in declared
  }
  launch = ibis.null("int64")
  if "launch_time" in keys.tree:
    unit = keys.choice("launch_unit", TIME_UNITS, keys.require("launch_unit"))
    values[_LAUNCH] = _column(table, keys.get("launch_time"), place)
    launch = parse.microseconds(values[_LAUNCH], unit)
  title = ibis.null("string")
  if "title" in keys.tree:
    title = _column(table, keys.get("title"), place).cast("string").nullif("")
  item = _column(table, keys.require("item"), place)
  checks = [(parse.is_missing(item), f"missing {keys.get('item')}")]
  typed = {f: parse.typed(value, f, unit) for f, value in values.items()}
  for feature, value in values.items():
    checks += parse.faults(value, typed[feature], feature)
  items = compute(
    table.select(
      _row=table.row,
      _fault=parse.first_fault(checks),
      item_id=parse.text(item),
      title=title,
      launch_time=launch,
      **{feature.name: typed[feature] for feature, _ in declared},
    ),
    place=place,
  )
  metadata = tuple(feature for feature, _ in declared)
  _validate_items(items, metadata, place)
  return items.drop("_row", "_fault"), metadata


def _validate_items(
  items: Any, metadata: tuple[Feature, ...], place: str
) -> None:
  wrong = items.filter(items._fault.notnull()).order_by("_row").limit(1)
  for row in wrong.to_pyarrow().to_pylist():
    remedy = "repair it"
    if row["_fault"].startswith("implausible"):
      remedy = "a time is from 1902 to 2037, check launch_unit"
    for feature in metadata:
      if row["_fault"] == f"wrong width of {feature.name}":
        remedy = (
          f"it has {len(row[feature.name])} numbers where width ="
          f" {feature.width} is declared, correct one of the two"
        )
    raise DataError(f"{place}, row {row['_row']}: {row['_fault']}; {remedy}")
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
  if not many:
    return value
  if value.type().is_array():
    if feature.kind == Kind.BAG:
      return value
    return value.map(lambda one: one.try_cast("float64"))
  if not keys.get("separator"):
    raise DataError(
      f"{keys.place}: a {feature.kind} in one column needs a separator"
    )
  split = parse.bag if feature.kind == Kind.BAG else parse.vector
  return split(value.cast("string"), keys.get("separator"))

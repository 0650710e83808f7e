"""Plain files as tables: `row`, the place in the file, then the columns.

DuckDB reads the files itself, out of core. The tables are `Any` to the type
checker: which columns they have, and of which types, only the files know.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import ibis
import pyarrow.parquet as pq

from fmjax.config import suggest
from fmjax.data.schema import DataError

# A delimiter that no published text contains, so that a line stays whole.
_NO_DELIMITER = "\x01"

# The column that DuckDB adds to a Parquet file, if asked.
_PLACE = "file_row_number"


def read_csv(
  connection: Any,
  paths: Sequence[pathlib.Path],
  *,
  place: str,
  delimiter: str = ",",
  columns: Sequence[str] = (),
) -> ibis.Table:
  """`row`, then every column as text; `columns` names them if no header does.

  Text, because a rejected row must show what was published.
  """
  header = not columns
  if header:
    columns = _header(paths[0], delimiter=delimiter, place=place)
    for path in paths[1:]:
      other = _header(path, delimiter=delimiter, place=path.name)
      if other != list(columns):
        raise DataError(
          f"{path.name} has the columns {', '.join(other)} but {place} has"
          f" {', '.join(columns)}; the files of a log must agree"
        )
  table = connection.read_csv(
    [str(path) for path in paths],
    auto_detect=False,
    header=header,
    delim=delimiter,
    quote='"',
    escape='"',
    columns=dict.fromkeys(columns, "VARCHAR"),
  )
  return _numbered(table, ibis.row_number())


def read_lines(connection: Any, path: pathlib.Path) -> ibis.Table:
  """`row` and the whole `line`, empty lines left out."""
  table = connection.read_csv(
    str(path),
    auto_detect=False,
    header=False,
    delim=_NO_DELIMITER,
    quote="",
    escape="",
    columns={"line": "VARCHAR"},
  )
  table = _numbered(table, ibis.row_number())
  return table.filter(table.line.notnull())


def split_lines(
  lines: Any, *, separator: str, columns: Sequence[str], place: str
) -> ibis.Table:
  """`row` and the parts of each line as text; a missing part is null.

  A line of too many parts raises: nobody knows which of them belongs where.

  DuckDB's CSV reader took delimiters of several characters late and with limits
  of its own; splitting the line works on every version, and out of core.
  """
  parts = lines.line.split(separator)
  longer = lines.filter(parts.length() > len(columns)).limit(1)
  for row in longer.select("row", "line").to_pyarrow().to_pylist():
    raise DataError(
      f"{place}, line {row['row']}: {row['line']!r} has more than"
      f" {len(columns)} fields ({', '.join(columns)}); repair that line"
    )
  return lines.select(
    "row",
    **{column: parts[place] for place, column in enumerate(columns)},
  )


def read_parquet(
  connection: Any, path: pathlib.Path, *, place: str
) -> ibis.Table:
  """`row`, then the columns as stored."""
  with path.open("rb") as stream:
    start = stream.read(4)
    stream.seek(-min(4, path.stat().st_size), io.SEEK_END)
    if start != b"PAR1" or stream.read(4) != b"PAR1":
      raise DataError(
        f"{place} is no Parquet file, or is truncated; download it again"
      )
  for name in pq.read_schema(path).names:
    if name.lower() == _PLACE:
      raise DataError(
        f"{place} names a column {name!r}, which is DuckDB's own; rename it"
      )
  # Times with a zone would else be shown in the zone of the machine.
  connection.raw_sql("SET TimeZone = 'UTC'")
  # The file's own numbers, because counting rows takes them one after the
  # other: a single core would read the file.
  table = connection.read_parquet(str(path), file_row_number=True)
  return _numbered(table, table[_PLACE])


def as_text(table: ibis.Table) -> ibis.Table:
  """Every column but `row` as text, as a CSV file would have given it."""
  return table.mutate(
    **{
      name: table[name].cast("string")
      for name in table.columns
      if name != "row"
    }
  )


def require_columns(
  table: ibis.Table, columns: Sequence[str], *, place: str
) -> ibis.Table:
  """`row` and the named columns; a missing one raises with the nearest name."""
  present = [name for name in table.columns if name != "row"]
  for column in columns:
    if column not in present:
      raise DataError(
        f"{place} has no column {column!r}" + suggest(column, present)
      )
  return table.select("row", *columns)


def first_of_each(table: Any, key: str) -> ibis.Table:
  """The first row of each non-null key, so that a join adds no rows."""
  table = table.filter(table[key].notnull())
  place = ibis.row_number().over(group_by=key, order_by="row")
  return (
    table.mutate(_place=place).filter(lambda t: t._place == 0).drop("_place")
  )


def with_users(events: Any, users: Any) -> ibis.Table:
  """Events with what a table of one row a `user_id` says of their user."""
  users = users.drop("row").rename(_user="user_id")
  return events.left_join(users, events.user_id == users._user).drop("_user")


def _numbered(table: ibis.Table, place: Any) -> ibis.Table:
  """`row`, which is `place` counted from 1, then the other columns."""
  published = {
    # DuckDB ignores case.
    "published_row" if name.lower() == "row" else name: table[name]
    for name in table.columns
    if not table[name].equals(place)
  }
  return table.select(row=(place + 1).cast("int64"), **published)


def _header(path: pathlib.Path, *, delimiter: str, place: str) -> list[str]:
  with path.open(encoding="utf-8-sig", newline="") as stream:
    header = next(csv.reader(stream, delimiter=delimiter), None)
  # pandas leaves the index without a name.
  header = [n or f"column_{i}" for i, n in enumerate(header or (), start=1)]
  if not header:
    raise DataError(f"{place} is empty; its first line must name the columns")
  lower = [name.lower() for name in header]
  for name in header:
    if lower.count(name.lower()) > 1:
      raise DataError(
        f"{place} names the column {name!r} twice (in any case); rename one"
      )
  return header

"""What a reader delivers: one log, as published, on one engine."""

import dataclasses
import pathlib

import duckdb
import ibis

from fmjax.data.schema import DataError, Schema

TIME_UNITS = ("s", "ms", "us", "iso")

# In this order, then `schema.features` by name.
EVENT_COLUMNS = (
  "row",
  "user_id",
  "item_id",
  "timestamp",
  "action",
  "duration_ms",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
  """Expressions on one DuckDB connection; nothing is computed yet.

  Attributes:
    schema: what the columns mean.
    events: `EVENT_COLUMNS`, then the declared features. `row` is the 1-based
      place in the file, so that ties in time keep the file's order. Scalars may
      still be text as published: `clean` casts, so that a rejected row keeps
      its original values. Further columns are only compared and shown: they
      tell exact duplicates apart and end in the rejects.
    items: item_id, title, launch_time (int64 microseconds, null if not
      declared), then the declared metadata, typed; None if the log has none.
    time_unit: of `timestamp`, one of `TIME_UNITS`.
    files: what was read, for the checksum.
    place: names the events in an error, e.g. the file.
    logging: further columns of `events` that tell of the logging alone: rows
      that differ in nothing else are one event, logged again.
    published_events: rows of the published log, if it is known; a log of fewer
      or more is refused. 0: unknown.
    truth: of a generated log, what is true of each event: user_id, timestamp
      (microseconds; no user has two events at one), numbers of any name,
      `rank` and `top10` (item_ids of the likeliest items, null where there are
      fewer). None: unknown.
  """

  schema: Schema
  events: ibis.Table
  items: ibis.Table | None
  time_unit: str
  files: tuple[pathlib.Path, ...]
  place: str
  logging: tuple[str, ...] = ()
  published_events: int = 0
  truth: ibis.Table | None = None


def compute(table: ibis.Table, *, place: str) -> ibis.Table:
  """The table, computed once and kept by its engine.

  DuckDB spills what memory does not hold. Files are read here for the first
  time, so this is where a malformed line shows.
  """
  try:
    return table.get_backend().create_table(
      ibis.util.gen_name("fmjax"), table, temp=True
    )
  except duckdb.Error as error:
    if "CSV Error" not in str(error):
      raise
    raise DataError(_csv_sentence(place, str(error))) from None


def _csv_sentence(place: str, message: str) -> str:
  """DuckDB's report on a malformed file, less its own settings."""
  kept: list[str] = []
  for line in map(str.strip, message.splitlines()):
    if line.startswith(("Possible", "*", "file =", "delimiter")):
      break
    if line:
      kept.append(line.removeprefix("Invalid Input Error: ").rstrip("."))
  return f"{place} cannot be read ({'; '.join(kept)}); repair that line"

"""Events with types, and the rows that cannot be used with the reason.

Ibis expressions over a `Log`: one definition for every engine. Nothing is
dropped silently: a row is in `events` or, with its original values, in
`rejects`. What was published is parsed once, into a temporary table of the
engine; the few rows whose original values are needed are read again.
"""

import dataclasses
import datetime
import time
from typing import Any

import ibis

from fmjax.data import parse
from fmjax.data.log import TIME_UNITS, Log, compute
from fmjax.data.schema import DataError, Kind

_EXACT_DUPLICATE = "exact duplicate"
_LOGGED_AGAIN = "logged again"
_DUPLICATES = (_EXACT_DUPLICATE, _LOGGED_AGAIN)

_DAY_US = 86_400_000_000
# No recommender log is older; a year near 1970 is a wrong unit.
_EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC)
_EARLIEST_US = int(_EARLIEST.timestamp()) * 1_000_000
_LONGEST_MS = 36_500 * 86_400_000  # a century
_PARSED = "_parsed_"  # before the name of a column beside what was published


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cleaned:
  """A log's rows, each in one of two tables.

  Attributes:
    events: `EVENT_COLUMNS` (row int64, user_id and item_id text, timestamp
      int64 microseconds, action text, duration_ms int64 or null), then the
      features: categorical text, numeric float64, timestamp int64 microseconds,
      bag array of text (never null), vector array of float64; the others null
      where missing.
    rejects: `row`, `reason`, then the columns of the log as they were.
    events_in: rows of the log.
    rejected: rows by reason.
  """

  events: ibis.Table
  rejects: ibis.Table
  events_in: int
  rejected: dict[str, int]


def clean(log: Log, *, max_rejects: float = 0.001) -> Cleaned:
  """Types the events; raises DataError if the log as a whole is unusable.

  Args:
    log: what a reader delivered.
    max_rejects: largest tolerated share of invalid rows. Exact duplicates are
      rejected too, but they are the publisher's habit rather than a sign that
      the columns are misread, so they do not count.
  """
  if log.time_unit not in TIME_UNITS:
    raise DataError(
      f"{log.place}: time_unit = {log.time_unit!r} is none of"
      f" {', '.join(TIME_UNITS)}"
    )
  now_us = int(time.time() * 1e6)
  typed = _typed(log, now_us=now_us)
  rejected = _rejected(typed, log)
  cleaned = Cleaned(
    events=typed.anti_join(rejected, "row").drop("_reason", "_digest"),
    rejects=log.events.inner_join(rejected, "row").relocate("row", "reason"),
    events_in=typed.count().to_pyarrow().as_py(),
    rejected=_count_reasons(rejected),
  )
  _validate(cleaned, log, max_rejects=max_rejects, now_us=now_us)
  return cleaned


def _typed(log: Log, *, now_us: int) -> ibis.Table:
  """Every row with types, with `_reason` and `_digest`, computed once.

  `_reason` is null where each value can be used; `_digest` is the same for rows
  that may be one event.
  """
  published = log.events
  values = {
    "user_id": parse.text(published.user_id),
    "item_id": parse.text(published.item_id),
    "timestamp": parse.microseconds(published.timestamp, log.time_unit),
    "action": parse.text(published.action),
    "duration_ms": parse.number(published.duration_ms),
    **{
      feature.name: parse.typed(published[feature.name], feature, log.time_unit)
      for feature in log.schema.features
    },
  }
  # A view, because Ibis would else write a whole expression out wherever a
  # condition asks for its value, and DuckDB compute it as often.
  engine: Any = published.get_backend()
  name = ibis.util.gen_name("fmjax_parsed")
  view = engine.create_view(
    name, published.mutate(**{_PARSED + key: v for key, v in values.items()})
  )
  parsed = {key: view[_PARSED + key] for key in values}
  duration = parsed["duration_ms"]
  fits = duration.abs() <= _LONGEST_MS  # in int64; what does not is rejected
  duration = fits.ifelse(duration, ibis.null("float64")).round().cast("int64")
  told = [key for key in published.columns if key not in ("row", *log.logging)]
  typed = compute(
    view.select(
      row=view.row.cast("int64"),
      **{**parsed, "duration_ms": duration},
      _reason=parse.first_fault(_checks(view, parsed, log, now_us=now_us)),
      _digest=ibis.struct({key: view[key] for key in told}).hash(),
    ),
    place=log.place,
  )
  engine.raw_sql(f'DROP VIEW "{name}"')  # Ibis 12 forgets the name
  return typed


def _checks(
  published: Any, parsed: dict[str, Any], log: Log, *, now_us: int
) -> list[Any]:
  """(condition, reason) for each way in which a row may be unusable."""
  timestamp, duration = parsed["timestamp"], parsed["duration_ms"]
  checks = [
    (parse.is_missing(published.user_id), "missing user_id"),
    (parse.is_missing(published.item_id), "missing item_id"),
    (parse.is_missing(published.action), "missing action"),
    (parse.is_missing(published.timestamp), "missing timestamp"),
    (timestamp.isnull(), "unparsable timestamp"),
    (timestamp < _EARLIEST_US, "timestamp before 1990"),
    # A day of grace for clocks and time zones.
    (timestamp > now_us + _DAY_US, "timestamp in the future"),
    (
      ~parse.is_missing(published.duration_ms) & duration.isnull(),
      "unparsable duration_ms",
    ),
    (duration < 0, "negative duration_ms"),
    (duration > _LONGEST_MS, "implausible duration_ms"),
  ]
  for feature in log.schema.features:
    name = feature.name
    checks += parse.faults(published[name], parsed[name], feature)
  return checks


def _rejected(typed: Any, log: Log) -> ibis.Table:
  """`row` and `reason` of the rows that are no events."""
  faulty = typed.filter(typed._reason.notnull())
  faulty = faulty.select("row", reason="_reason")
  usable = typed.filter(typed._reason.isnull())
  # Copies have one digest. That a digest occurs twice is rare, and takes a
  # fraction of the memory to find out: only those rows are read again, whole.
  digests = usable.group_by("_digest").agg(rows=lambda t: t.count())
  shared = digests.filter(digests.rows > 1)
  alike = compute(
    usable.semi_join(shared, "_digest").select("row"), place=log.place
  )
  if not alike.count().to_pyarrow().as_py():
    return compute(faulty, place=log.place)
  published = compute(log.events.semi_join(alike, "row"), place=log.place)
  return compute(faulty.union(_copies(published, log)), place=log.place)


def _copies(events: ibis.Table, log: Log) -> ibis.Table:
  """`row` and `reason` of the rows that repeat an earlier one."""
  contents = [name for name in events.columns if name != "row"]
  exact = _repeated(events, contents)
  copies = exact.select("row", reason=ibis.literal(_EXACT_DUPLICATE))
  if log.logging:
    # One event, written twice: nothing that is used differs.
    told = [name for name in contents if name not in log.logging]
    again = _repeated(events.anti_join(exact, "row"), told)
    again = again.select("row", reason=ibis.literal(_LOGGED_AGAIN))
    copies = copies.union(again)
  return copies


def _repeated(events: ibis.Table, columns: list[str]) -> ibis.Table:
  """`row` of the events whose values an earlier row has."""
  place = ibis.row_number().over(group_by=columns, order_by="row")
  placed: Any = events.mutate(_place=place)
  return placed.filter(placed._place > 0).select("row")


def _count_reasons(rejected: ibis.Table) -> dict[str, int]:
  counts = rejected.group_by("reason")
  table = counts.agg(rows=lambda t: t.count()).order_by("reason").to_pyarrow()
  return dict(
    zip(table["reason"].to_pylist(), table["rows"].to_pylist(), strict=True)
  )


def _validate(
  cleaned: Cleaned, log: Log, *, max_rejects: float, now_us: int
) -> None:
  if not cleaned.events_in:
    raise DataError(
      f"{log.place} holds no events; check that it is the right file and that"
      " the download is complete"
    )
  if log.published_events not in (0, cleaned.events_in):
    raise DataError(
      f"{log.place} holds {cleaned.events_in:,} events where"
      f" {log.published_events:,} are published, so it is truncated or changed;"
      " download it again"
    )
  invalid = sum(
    count
    for reason, count in cleaned.rejected.items()
    if reason not in _DUPLICATES
  )
  all_invalid = invalid == cleaned.events_in  # whatever is tolerated
  if all_invalid or invalid > max_rejects * cleaned.events_in:
    rejects = cleaned.rejects
    reason: Any = rejects.reason
    first = rejects.filter(reason.notin(_DUPLICATES))
    row = first.order_by("row").limit(1).to_pyarrow().to_pylist()[0]
    raise DataError(
      f"{log.place}, row {row['row']}: {_complaint(row, log, now_us=now_us)}"
      f" ({invalid:,} of {cleaned.events_in:,} rows are unusable, more than the"
      f" share max_rejects = {max_rejects:g})"
    )
  longest = (
    cleaned.events.group_by("user_id")
    .agg(events=lambda t: t.count())
    .events.max()
    .to_pyarrow()
    .as_py()
  )
  if longest < 2:
    raise DataError(
      f"{log.place}: none of the users has two events, so there is no next item"
      " to predict; check which column is the user"
    )


def _complaint(row: dict[str, Any], log: Log, *, now_us: int) -> str:
  """What is wrong with a row, and what to do about it."""
  what, _, column = row["reason"].rpartition(" ")
  if row["reason"].startswith("timestamp"):
    column, what = "timestamp", row["reason"].removeprefix("timestamp ")
  value = row[column]
  if what == "missing":
    return f"{column} is {'empty' if value else 'missing'}; remove or repair it"
  if column == "timestamp":
    return f"timestamp {value!s} is {what}; " + _unit_remedy(
      value, log.time_unit, now_us=now_us
    )
  if what == "negative":
    return f"{column} = {value} is negative; remove or repair it"
  if what == "implausible":
    return (
      f"{column} = {value} is implausible (a time is from 1902 to 2037, a"
      " duration at most a century); check its unit"
    )
  if what == "wrong width of":
    width = next(f.width for f in log.schema.features if f.name == column)
    return (
      f"{column} has {len(value)} numbers where width = {width} is declared;"
      " correct one of the two"
    )
  return f"{column} = {value!r} is no {_expected(column, log)}; repair it"


def _expected(column: str, log: Log) -> str:
  kinds = {feature.name: feature.kind for feature in log.schema.features}
  match kinds.get(column):
    case Kind.TIMESTAMP:
      return f"time in {log.time_unit!r}"
    case Kind.VECTOR:
      return "list of finite numbers"
    case _:
      return "number"


def _unit_remedy(value: Any, unit: str, *, now_us: int) -> str:
  """Names the unit in which the value is a plausible date, if there is one."""
  for other in TIME_UNITS:
    if other != unit:
      moment = _plausible(str(value), other, now_us=now_us)
      if moment:
        shape = "an ISO date" if other == "iso" else f"{other}"
        return (
          f"read in {unit!r} it is no date of this log, but as {shape} it is"
          f" {moment:%Y-%m-%d}: set time_unit = {other!r}"
        )
  return f"check that the column is a time in {unit!r}, and repair it"


def _plausible(
  text: str, unit: str, *, now_us: int
) -> datetime.datetime | None:
  try:
    if unit == "iso":
      # Digits alone would be read as a compact date.
      if text.isdigit():
        return None
      moment = datetime.datetime.fromisoformat(text)
      if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
      microseconds = moment.timestamp() * 1e6
    else:
      microseconds = float(text) * parse.MICROSECONDS[unit]
      if not _EARLIEST_US <= microseconds <= now_us + _DAY_US:
        return None
      moment = datetime.datetime.fromtimestamp(
        microseconds / 1e6, tz=datetime.UTC
      )
  except (ValueError, OverflowError):
    return None
  return moment if _EARLIEST_US <= microseconds <= now_us + _DAY_US else None

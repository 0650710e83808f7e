"""Published values as typed ones: ibis expressions, null if unreadable."""

from typing import Any

import ibis

from fmjax.data.schema import Feature, Kind

MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}

# Date, time and zone. Matched here, because DuckDB's cast to a timestamp
# accepts a zone and ignores it.
_ISO = (
  r"^(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?)"
  r" ?(Z|UTC|[+-]\d\d(?::?\d\d)?)?$"
)

# Largest magnitude up to which float64 holds every integer.
_EXACT = 2**53

# Of timestamp features and launch times: what int32 seconds hold, 1901 to 2038.
# Beyond it the unit is wrong.
EARLIEST_US = -(2**31) * 1_000_000
LATEST_US = (2**31 - 1) * 1_000_000


def is_missing(value: Any) -> Any:
  """Null, an empty text, or NaN."""
  if value.type().is_string():
    return value.isnull() | (value.strip() == "")
  if value.type().is_floating():
    return value.isnull() | value.isnan()
  return value.isnull()


def text(value: Any) -> Any:
  """As text, null if NaN; floats that are integers have no ".0".

  Pandas turns a column of integers into floats where one is missing.
  """
  if not value.type().is_floating():
    return value.cast("string")
  integer = (value == value.floor()) & (value.abs() <= _EXACT)
  shown = integer.ifelse(
    value.try_cast("int64").cast("string"), value.cast("string")
  )
  return value.isnan().ifelse(ibis.null("string"), shown)


def number(value: Any) -> Any:
  """float64; null if missing, unparsable or not finite."""
  if value.type().is_integer():
    return value.cast("float64")
  if not value.type().is_floating():
    value = value.try_cast("float64")
  finite = ~(value.isnan() | value.isinf())
  return finite.ifelse(value, ibis.null("float64"))


def microseconds(value: Any, unit: str) -> Any:
  """int64 since 1970 UTC; null if missing or unparsable.

  float64 is exact here: dates of this century are below 2**53 microseconds, and
  fractions of a second are right to the microsecond. What is beyond is kept on
  its side of every calendar instead of overflowing.
  """
  kind = value.type()
  if kind.is_timestamp() or kind.is_date():
    return _since_1970(value.cast("timestamp"))
  if unit == "iso":
    text = value.cast("string").strip()
    moment = text.re_extract(_ISO, 1).try_cast("timestamp")
    zone = text.re_extract(_ISO, 2)
    return _since_1970(moment) - _offset_s(zone) * 1_000_000
  if kind.is_integer():
    most = _EXACT // MICROSECONDS[unit]
    return value.clip(-most, most).cast("int64") * MICROSECONDS[unit]
  scaled = number(value) * MICROSECONDS[unit]
  return scaled.clip(-_EXACT, _EXACT).round().cast("int64")


def _since_1970(moment: Any) -> Any:
  # "infinity" is a timestamp too; `number` makes it null.
  seconds = number(moment.epoch_seconds().cast("float64")).floor()
  microsecond = moment.microsecond().cast("int64")
  return seconds.cast("int64") * 1_000_000 + microsecond


def _offset_s(zone: Any) -> Any:
  """Seconds east of UTC of "+02", "-0530", "+05:30", "Z" or nothing."""
  hours = zone.re_extract(r"^[+-](\d\d)", 1).try_cast("int64")
  minutes = zone.re_extract(r"^[+-]\d\d:?(\d\d)$", 1).try_cast("int64")
  size = hours.fill_null(0) * 3_600 + minutes.fill_null(0) * 60
  return zone.startswith("-").ifelse(-size, size)


def typed(value: Any, feature: Feature, time_unit: str) -> Any:
  """A declared feature's value: text, float64, int64 microseconds or arrays."""
  match feature.kind:
    case Kind.CATEGORICAL:
      return text(value).nullif("")
    case Kind.NUMERIC:
      return number(value)
    case Kind.TIMESTAMP:
      return microseconds(value, time_unit)
    case Kind.BAG:
      empty = ibis.literal([], type="array<string>")
      texts = value.map(text).filter(lambda one: one.notnull())
      return ibis.coalesce(texts, empty)
    case Kind.VECTOR:
      return value.cast("array<float64>")


def faults(value: Any, parsed: Any, feature: Feature) -> list[Any]:
  """(condition, reason) for each way in which a value may be unusable.

  Args:
    value: as published.
    parsed: what `typed` made of it.
    feature: its declaration.
  """
  unparsable = f"unparsable {feature.name}"
  match feature.kind:
    case Kind.NUMERIC:
      return [(~is_missing(value) & parsed.isnull(), unparsable)]
    case Kind.TIMESTAMP:
      return [
        (~is_missing(value) & parsed.isnull(), unparsable),
        (
          (parsed < EARLIEST_US) | (parsed > LATEST_US),
          f"implausible {feature.name}",
        ),
      ]
    case Kind.VECTOR:
      finite = parsed.filter(
        lambda x: x.notnull() & ~(x.isnan() | x.isinf())
      ).length()
      return [
        (parsed.length() != feature.width, f"wrong width of {feature.name}"),
        (parsed.length() != finite, unparsable),
      ]
    case Kind.CATEGORICAL | Kind.BAG:
      return []


def first_fault(checks: list[Any]) -> Any:
  """The reason of the first condition that holds, else null."""
  return ibis.cases(
    *[(condition.fill_null(False), reason) for condition, reason in checks],
    else_=ibis.null("string"),
  )


def bag(text: Any, separator: str) -> Any:
  """The distinct non-empty parts of a text; none if the text is missing."""
  parts = text.split(separator).map(lambda part: part.strip())
  parts = parts.filter(lambda part: part != "").unique().sort()
  return ibis.coalesce(parts, ibis.literal([], type="array<string>"))


def vector(text: Any, separator: str) -> Any:
  """The parts of a text as float64, null where unparsable."""
  parts = text.split(separator)
  return parts.map(lambda part: part.strip().try_cast("float64"))

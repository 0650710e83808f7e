"""Features as numbers: what is learned from the training tokens, and applied.

`fit` takes training rows only, so no vocabulary, mean or deviation can see
beyond the cut; its result is the same whatever the order of rows or the number
of threads. `encode` turns Arrow columns into NumPy without Python per value.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmjax.data.history import Bags
from fmjax.data.schema import DataError, Encoded, Feature, Kind

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._

# Codes of categoricals and bags.
MISSING = 0  # or padding
UNKNOWN = 1  # not in the training vocabulary
FIRST_VALUE = 2

MOST_BAG_VALUES = 16  # the rarest of a fuller bag are dropped, and counted

_US = 1_000_000
_INT32 = (-(2**31), 2**31 - 1)
# Sums are taken over integers, so that they are exact: floats summed in
# parallel differ in the last bits from run to run.
_FIXED_POINT = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
  """A feature's `Encoded` and its vocabulary, most frequent value first.

  The value at index i has the code i + 2. Empty unless categorical or bag.
  """

  encoded: Encoded
  vocabulary: tuple[str, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    fields = {
      field.name: getattr(self.encoded, field.name)
      for field in dataclasses.fields(self.encoded)
      if field.name != "feature"
    }
    return {**fields, "vocabulary": list(self.vocabulary)}

  @classmethod
  def from_dict(cls, feature: Feature, tree: dict[str, Any]) -> "Encoding":
    fields = {key: tree[key] for key in ("size", "values", "mean", "std")}
    return cls(
      encoded=Encoded(feature=feature, **fields),
      vocabulary=tuple(tree["vocabulary"]),
    )


def fit(
  rows: ibis.Table, features: Sequence[Feature], *, connection: Any
) -> tuple[Encoding, ...]:
  """Vocabularies, means and deviations of `features` over training rows."""
  numeric = [f for f in features if f.kind == Kind.NUMERIC]
  moments = dict(zip(numeric, _moments(rows, numeric, connection), strict=True))
  encodings = []
  for feature in features:
    match feature.kind:
      case Kind.CATEGORICAL:
        vocabulary = _vocabulary(rows[feature.name], connection)
        encoded = Encoded(feature=feature, size=FIRST_VALUE + len(vocabulary))
        encodings.append(Encoding(encoded=encoded, vocabulary=vocabulary))
      case Kind.BAG:
        bag: Any = rows[feature.name]
        vocabulary = _vocabulary(bag.unnest(), connection)
        most = connection.to_pyarrow(bag.length().max()).as_py()
        encoded = Encoded(
          feature=feature,
          size=FIRST_VALUE + len(vocabulary),
          values=min(max(most or 1, 1), MOST_BAG_VALUES),
        )
        encodings.append(Encoding(encoded=encoded, vocabulary=vocabulary))
      case Kind.NUMERIC:
        mean, std = moments[feature]
        encoded = Encoded(feature=feature, mean=mean, std=std)
        encodings.append(Encoding(encoded=encoded))
      case Kind.TIMESTAMP:
        encodings.append(Encoding(encoded=Encoded(feature=feature)))
      case Kind.VECTOR:
        encoded = Encoded(
          feature=feature,
          size=feature.width,
          std=_root_mean_square(rows[feature.name], connection),
        )
        encodings.append(Encoding(encoded=encoded))
  return tuple(encodings)


def _vocabulary(values: Any, connection: Any) -> tuple[str, ...]:
  """Distinct texts by falling frequency; equally frequent ones by name."""
  counted = (
    values.name("value")
    .as_table()
    .filter(_.value.notnull())
    .group_by("value")
    .aggregate(rows=_.count())
    .order_by(ibis.desc("rows"), "value")
  )
  return tuple(connection.to_pyarrow(counted)["value"].to_pylist())


def _moments(
  rows: ibis.Table, features: Sequence[Feature], connection: Any
) -> list[tuple[float, float]]:
  """Mean and standard deviation of each numeric feature, after log1p.

  In three passes, each exact: the largest absolute value gives the fixed point
  of the sum, the mean that of the squared deviations.
  """
  if not features:
    return []
  column: dict[str, Any] = {f.name: rows[f.name] for f in features}
  logged = [
    (column[f.name] + 1).ln() if f.log else column[f.name].cast("float64")
    for f in features
  ]

  def one_row(aggregates: list[Any]) -> list[float]:
    named = {f"x{i}": value for i, value in enumerate(aggregates)}
    row = connection.to_pyarrow(rows.aggregate(**named)).to_pylist()[0]
    return [float(row[f"x{i}"] or 0) for i in range(len(aggregates))]

  def fixed(x: Any) -> Any:
    return (x * _FIXED_POINT).round().cast("int64").sum().cast("float64")

  counts = one_row(
    [x.count() for x in logged] + [x.abs().max() for x in logged]
  )
  n = [max(count, 1.0) for count in counts[: len(logged)]]
  scale = [most or 1.0 for most in counts[len(logged) :]]
  sums = one_row([fixed(x / s) for x, s in zip(logged, scale, strict=True)])
  mean = [
    total / _FIXED_POINT / count * s
    for total, count, s in zip(sums, n, scale, strict=True)
  ]
  # |x - mean| is at most twice the scale.
  squares = one_row(
    [
      fixed(((x - m) / (2 * s)) * ((x - m) / (2 * s)))
      for x, m, s in zip(logged, mean, scale, strict=True)
    ]
  )
  std = [
    2 * s * (total / _FIXED_POINT / count) ** 0.5
    for total, count, s in zip(squares, n, scale, strict=True)
  ]
  # A constant carries nothing, and must not be divided by its rounding error.
  return [
    (m, d if d > 1e-6 * s else 1.0)
    for m, d, s in zip(mean, std, scale, strict=True)
  ]


def _root_mean_square(vectors: Any, connection: Any) -> float:
  """Of all numbers in a column of vectors.

  One scale for the field: lengths, and differences between dimensions, say
  something.
  """
  number = Feature(name="number", kind=Kind.NUMERIC)
  numbers = vectors.unnest().name(number.name).as_table()
  ((mean, std),) = _moments(numbers, [number], connection)
  return math.hypot(mean, std)


def code_texts(
  rows: ibis.Table, encodings: Sequence[Encoding], *, connection: Any
) -> ibis.Table:
  """`rows` with the codes (int32) of text columns in place of their texts.

  What the engine sorts should be short: 20 million rows with texts and lists
  took four times as long to sort as the same rows with codes.

  Args:
    rows: with a column of texts, not lists, for each encoding.
    encodings: of categoricals, or of bags that hold one value each.
    connection: that executes.
  """
  for encoding in encodings:
    name = encoding.encoded.feature.name
    vocabulary = pa.table(
      {
        "_value": pa.array(encoding.vocabulary, pa.string()),
        "_code": pa.array(
          range(FIRST_VALUE, encoding.encoded.size), pa.int32()
        ),
      }
    )
    table = connection.create_table(
      ibis.util.gen_name("fmjax_vocabulary"),
      ibis.memtable(vocabulary),
      temp=True,
    )
    absent = _[name].isnull().ifelse(MISSING, UNKNOWN)
    rows = (
      rows.left_join(table, [(name, "_value")])
      .mutate(**{name: ibis.coalesce(_._code, absent).cast("int32")})
      .drop("_value", "_code")
    )
  return rows


def encode(
  column: pa.Array, encoding: Encoding, *, count: pa.Array | None = None
) -> "np.ndarray | Bags":
  """A column of raw values as the model sees it.

  Args:
    column: as in the token table or the catalog; or codes (`code_texts`).
    encoding: of the feature.
    count: of a bag: how often each value occurs; 1 if not given.

  Returns:
    categorical int32 [n]; numeric float32 [n], standardized, NaN if missing;
    timestamp int32 [n], seconds (of 1901 to 2038), 0 if missing; vector
    float32 [n, width], divided by the root mean square of the training rows'
    numbers, 0 if missing; bag `Bags` of at most `values` codes, the
    most frequent first.
  """
  encoded = encoding.encoded
  match encoded.feature.kind:
    case Kind.CATEGORICAL:
      return _codes(column, encoding.vocabulary)
    case Kind.NUMERIC:
      values = _numpy(column.cast(pa.float64()), np.nan)
      values = np.log1p(values) if encoded.feature.log else values
      return ((values - encoded.mean) / encoded.std).astype(np.float32)
    case Kind.TIMESTAMP:
      seconds = _numpy(column.cast(pa.int64()), 0) // _US
      return seconds.clip(*_INT32).astype(np.int32)
    case Kind.VECTOR:
      return _vector(column, encoded)
    case Kind.BAG:
      return _bags(column, encoding, count)


def dropped_values(column: pa.Array, encoding: Encoding) -> int:
  """How many values of a bag column do not fit in `values`."""
  if pa.types.is_integer(column.type):
    return 0
  lengths = _numpy(column.value_lengths(), 0)
  return int(np.maximum(lengths - encoding.encoded.values, 0).sum())


def _numpy(column: pa.Array, missing: float) -> np.ndarray:
  if column.null_count:
    column = column.fill_null(missing)
  return column.to_numpy(zero_copy_only=False)


def _codes(values: pa.Array, vocabulary: tuple[str, ...]) -> np.ndarray:
  if pa.types.is_integer(values.type):
    return values.to_numpy()
  known = pa.array(vocabulary, values.type)
  options = pc.SetLookupOptions(value_set=known, skip_nulls=True)
  index = pc.call_function("index_in", [values], options)
  codes = _numpy(index, UNKNOWN - FIRST_VALUE) + FIRST_VALUE
  if values.null_count:
    codes[_numpy(values.is_null(), False)] = MISSING
  return codes.astype(np.int32)


def _vector(column: pa.Array, encoded: Encoded) -> np.ndarray:
  lengths = _numpy(column.value_lengths(), 0)
  filled = lengths > 0
  if (lengths[filled] != encoded.size).any():
    wrong = int(lengths[filled & (lengths != encoded.size)][0])
    raise DataError(
      f"a value of {encoded.feature.name!r} has {wrong} numbers where the"
      f" schema declares width = {encoded.size}; correct one of the two"
    )
  vectors = np.zeros((len(column), encoded.size), np.float32)
  vectors[filled] = np.nan_to_num(
    _numpy(column.flatten().cast(pa.float32()), 0.0)
  ).reshape(-1, encoded.size)
  return vectors / np.float32(encoded.std)


def _bags(column: pa.Array, encoding: Encoding, count: pa.Array | None) -> Bags:
  if pa.types.is_integer(column.type):
    codes = column.to_numpy()
    held = codes != MISSING
    return Bags(
      length_n=held.astype(np.uint8),
      value_n=codes[held],
      count_n=np.ones(held.sum(), np.int32),
    )
  lengths = _numpy(column.value_lengths(), 0).astype(np.int64)
  codes = _codes(column.flatten(), encoding.vocabulary)
  counts = np.ones(len(codes), np.int32)
  if count is not None:
    counts = _numpy(count.flatten(), 0).astype(np.int32)
  width = encoding.encoded.values
  if (codes == MISSING).any():  # a null in a bag is no value
    owner = np.repeat(np.arange(len(lengths)), lengths)
    lengths = np.bincount(owner[codes != MISSING], minlength=len(lengths))
    codes, counts = codes[codes != MISSING], counts[codes != MISSING]
  if lengths.size and lengths.max() > 1:
    owner = np.repeat(np.arange(len(lengths)), lengths)
    # The most frequent first, unknown values last: those are cut first.
    rank = np.where(codes < FIRST_VALUE, np.iinfo(np.int32).max, codes)
    order = np.lexsort((rank, owner))
    place = np.arange(len(codes)) - np.repeat(
      np.cumsum(lengths) - lengths, lengths
    )
    kept = order[place < width]
    codes, counts = codes[kept], counts[kept]
  return Bags(
    length_n=np.minimum(lengths, width).astype(np.uint8),
    value_n=codes,
    count_n=counts,
  )

"""One user's history as bytes: a record of fixed column layout.

A record is the number of tokens (int32) and then column after column, each
token's values in a row, little-endian. A bag is its lengths (uint8), then all
values, then their counts.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmjax.data.schema import DataError, Encoded, Kind

_HEADER = np.dtype("<i4")
_LENGTH = np.dtype("u1")
_COUNT = np.dtype("<u2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """How a column lies in a record.

  Attributes:
    name: as in `Prepared.history`.
    stored: dtype on disk, e.g. "<u2".
    decoded: dtype in memory, e.g. "<i4".
    width: a vector's width, a bag's most values; 0 for a single value.
    bag: lengths, values and counts are stored instead of `width` values.
  """

  name: str
  stored: str
  decoded: str
  width: int = 0
  bag: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bags:
  """Bags of many tokens without padding: token i has the next length_n[i]."""

  length_n: np.ndarray
  value_n: np.ndarray
  count_n: np.ndarray

  def padded(self, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes int32, counts float32), both [tokens, width], 0 where none."""
    keep = np.arange(width) < self.length_n[:, None]
    codes = np.zeros(keep.shape, np.int32)
    counts = np.zeros(keep.shape, np.float32)
    codes[keep] = self.value_n
    counts[keep] = self.count_n
    return codes, counts


Columns = dict[str, "np.ndarray | Bags"]


def smallest_unsigned(size: int) -> str:
  """The dtype on disk of codes below `size`."""
  for dtype in ("u1", "<u2"):
    if size <= np.iinfo(dtype).max + 1:
      return dtype
  return "<i4"


def layout(features: Sequence[Encoded], *, items: int) -> tuple[Column, ...]:
  """The columns of a record, in order.

  Before the features: the item's catalog row, the times of the token's first
  and last event (microseconds), whether it is a target.
  """
  columns = [
    Column(name="item", stored=smallest_unsigned(items), decoded="<i4"),
    Column(name="start_us", stored="<i8", decoded="<i8"),
    Column(name="end_us", stored="<i8", decoded="<i8"),
    Column(name="target", stored="u1", decoded="?"),
  ]
  for encoded in features:
    name = encoded.feature.name
    match encoded.feature.kind:
      case Kind.CATEGORICAL:
        stored = smallest_unsigned(encoded.size)
        columns.append(Column(name=name, stored=stored, decoded="<i4"))
      case Kind.NUMERIC:
        columns.append(Column(name=name, stored="<f4", decoded="<f4"))
      case Kind.TIMESTAMP:
        columns.append(Column(name=name, stored="<i4", decoded="<i4"))
      case Kind.BAG:
        columns.append(
          Column(
            name=name,
            stored=smallest_unsigned(encoded.size),
            decoded="<i4",
            width=encoded.values,
            bag=True,
          )
        )
      case Kind.VECTOR:
        columns.append(
          Column(name=name, stored="<f4", decoded="<f4", width=encoded.size)
        )
  return tuple(columns)


def pack(
  columns: Columns, offset_u: np.ndarray, layout: Sequence[Column]
) -> list[bytes]:
  """Records of consecutive users; user i has tokens offset_u[i] to [i + 1].

  Args:
    columns: of all their tokens: arrays [n] or [n, width]; bags as `Bags`.
    offset_u: int64, one more than there are users.
    layout: the columns' order and types.
  """
  # Per part of a record: its bytes for all users and each user's byte range.
  parts: list[tuple[memoryview, list[int]]] = []

  def add(array: np.ndarray, dtype: np.dtype, starts: np.ndarray, width: int):
    flat = np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(-1)
    bounds = (starts * (dtype.itemsize * width)).tolist()
    parts.append((flat.view(np.uint8).data, bounds))

  users = len(offset_u) - 1
  for column in layout:
    values = columns[column.name]
    stored = np.dtype(column.stored)
    if isinstance(values, Bags):
      ends = np.concatenate([[0], np.cumsum(values.length_n, dtype=np.int64)])
      most = np.iinfo(_COUNT).max
      add(values.length_n, _LENGTH, offset_u, 1)
      add(values.value_n, stored, ends[offset_u], 1)
      add(np.minimum(values.count_n, most), _COUNT, ends[offset_u], 1)
    else:
      add(values, stored, offset_u, max(column.width, 1))
  header = np.diff(offset_u).astype(_HEADER)
  heads = header.view(np.uint8).data
  size = _HEADER.itemsize
  return [
    b"".join(
      [heads[size * u : size * u + size]]
      + [view[bounds[u] : bounds[u + 1]] for view, bounds in parts]
    )
    for u in range(users)
  ]


def unpack(
  records: Sequence[bytes], layout: Sequence[Column], *, place: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Columns of all the records' tokens in a row, and each record's offset.

  Bags come padded: "<name>" int32 [n, w] and "<name>_count" float32 [n, w].

  Args:
    records: as written by `pack`.
    layout: the columns' order and types.
    place: where the records lie, for the error.

  Raises:
    DataError: a record's size does not fit its content.
  """
  parts: list[list[np.ndarray]] = [[] for _ in range(3 * len(layout))]
  offset_u = np.zeros(len(records) + 1, np.int64)
  dtypes = [np.dtype(column.stored) for column in layout]
  try:
    for u, record in enumerate(records):
      n = int(np.frombuffer(record, _HEADER, 1)[0])
      offset_u[u + 1] = n
      at = _HEADER.itemsize
      for c, column in enumerate(layout):
        dtype = dtypes[c]
        if column.bag:
          lengths = np.frombuffer(record, _LENGTH, n, at)
          at += n
          total = int(lengths.sum(dtype=np.int64))
          parts[3 * c].append(lengths)
          parts[3 * c + 1].append(np.frombuffer(record, dtype, total, at))
          at += total * dtype.itemsize
          parts[3 * c + 2].append(np.frombuffer(record, _COUNT, total, at))
          at += total * _COUNT.itemsize
        else:
          count = n * max(column.width, 1)
          parts[3 * c].append(np.frombuffer(record, dtype, count, at))
          at += count * dtype.itemsize
      if at != len(record):
        raise ValueError(f"{len(record)} bytes where {at} were expected")
  except ValueError as error:
    raise DataError(
      f"a history in {place} cannot be decoded ({error}); delete the folder"
      " and prepare the log again"
    ) from None
  np.cumsum(offset_u, out=offset_u)

  def whole(index: int, dtype: str) -> np.ndarray:
    if not parts[index]:
      return np.zeros(0, dtype)
    return np.concatenate(parts[index]).astype(dtype, copy=False)

  columns: dict[str, np.ndarray] = {}
  for c, column in enumerate(layout):
    if column.bag:
      bags = Bags(
        length_n=whole(3 * c, "u1"),
        value_n=whole(3 * c + 1, column.decoded),
        count_n=whole(3 * c + 2, "<f4"),
      )
      codes, counts = bags.padded(column.width)
      columns[column.name] = codes
      columns[f"{column.name}_count"] = counts
    else:
      flat = whole(3 * c, column.decoded)
      if column.width:
        flat = flat.reshape(-1, column.width)
      columns[column.name] = flat
  return columns, offset_u


def unpack_items(
  records: Sequence[bytes], layout: Sequence[Column], *, place: str
) -> tuple[np.ndarray, np.ndarray]:
  """Item rows alone (int32) and offsets: the first column of each record."""
  stored = np.dtype(layout[0].stored)
  size = _HEADER.itemsize
  try:
    parts = [
      np.frombuffer(r, stored, int(np.frombuffer(r, _HEADER, 1)[0]), size)
      for r in records
    ]
  except ValueError as error:
    raise DataError(
      f"a history in {place} cannot be decoded ({error}); delete the folder"
      " and prepare the log again"
    ) from None
  offset_u = np.zeros(len(records) + 1, np.int64)
  np.cumsum([len(part) for part in parts], out=offset_u[1:])
  item_n = np.concatenate(parts) if parts else np.zeros(0, stored)
  return item_n.astype(np.int32), offset_u

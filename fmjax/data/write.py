"""Writes sorted tokens as histories: one ArrayRecord record a user."""

import collections
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from fmjax.data.encode import Encoding, dropped_values, encode
from fmjax.data.history import Column, Columns, pack
from fmjax.data.schema import ACTION, Kind
from fmjax.data.split import PARTS, TEST, TRAIN, VALIDATION
from fmjax.data.store import Index

# Groups of one are what makes a record readable by itself. Snappy halves the
# files and costs no time: writing as fast as uncompressed, zstd:1 a third.
_OPTIONS = "group_size:1,snappy"
_SHARD_BYTES = 128 * 2**20


class HistoryWriter:
  """Takes Arrow tables of tokens, sorted by user and time; cut anywhere.

  Their columns: `user` and `item` (rows), `split` (place in `PARTS`), the
  others as in `tokenize`.

  Attributes:
    shards: files written so far, in order.
    tokens_by_split: counts.
    events: of all tokens.
    dropped: values of bags that were too many, by feature.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    encodings: Sequence[Encoding],
    layout: Sequence[Column],
    shard_bytes: int = _SHARD_BYTES,
  ):
    self.shards: list[str] = []
    self.tokens_by_split = dict.fromkeys(PARTS, 0)
    self.events = 0
    self.dropped: collections.Counter[str] = collections.Counter()
    self._folder = folder
    self._encodings = encodings
    self._layout = layout
    self._shard_bytes = shard_bytes
    self._written = 0
    self._writer: Any = None
    self._digest = hashlib.sha256()
    self._pending: list[pa.Table] = []
    self._index: list[Index] = []

  def write(self, tokens: pa.Table) -> None:
    """Writes the users that are complete; the last one may go on."""
    if not tokens.num_rows:
      return
    users = tokens["user"].to_numpy()
    last = int(np.searchsorted(users, users[-1]))
    if self._pending and users[0] != self._pending[-1]["user"][-1].as_py():
      self._flush(pa.concat_tables(self._pending))
      self._pending = []
    if last:
      self._flush(pa.concat_tables([*self._pending, tokens.slice(0, last)]))
      self._pending = []
    self._pending.append(tokens.slice(last))

  def close(self) -> Index:
    """Writes the rest; where each user's parts lie."""
    if self._pending:
      self._flush(pa.concat_tables(self._pending))
      self._pending = []
    if self._writer is not None:
      self._writer.close()
      self._writer = None
    names = Index.__dataclass_fields__
    return Index(
      **{
        name: np.concatenate([getattr(part, name) for part in self._index])
        for name in names
      }
    )

  @property
  def digest(self) -> str:
    """Of the records, whatever the shards and their compression."""
    return self._digest.hexdigest()

  def _flush(self, tokens: pa.Table) -> None:
    tokens = tokens.combine_chunks()
    user_n = tokens["user"].to_numpy()
    begins = np.concatenate([[True], user_n[1:] != user_n[:-1]])
    offset_u = np.append(np.flatnonzero(begins), len(user_n))
    self._count(tokens, offset_u)
    records = pack(self._encode(tokens), offset_u, self._layout)
    self._digest.update(b"".join(records))
    for record in records:
      self._writer_with_room().write(record)
      self._written += len(record)

  def _writer_with_room(self) -> Any:
    if self._writer is not None and self._written < self._shard_bytes:
      return self._writer
    if self._writer is not None:
      self._writer.close()
    name = f"histories-{len(self.shards):05d}.arrayrecord"
    self._writer = array_record_module.ArrayRecordWriter(
      str(self._folder / name), _OPTIONS
    )
    self._written = 0
    self.shards.append(name)
    return self._writer

  def _encode(self, tokens: pa.Table) -> Columns:
    columns: Columns = {
      name: tokens[name].to_numpy()
      for name in ("item", "start_us", "end_us", "target")
    }
    for encoding in self._encodings:
      name = encoding.encoded.feature.name
      values = _array(tokens, name)
      count = None
      if name == ACTION.name and f"{name}_count" in tokens.column_names:
        count = _array(tokens, f"{name}_count")
      columns[name] = encode(values, encoding, count=count)
      if encoding.encoded.feature.kind == Kind.BAG:
        self.dropped[name] += dropped_values(values, encoding)
    return columns

  def _count(self, tokens: pa.Table, offset_u: np.ndarray) -> None:
    self.events += int(tokens["event_count"].to_numpy().sum())
    part_n = tokens["split"].to_numpy()
    counts = {}
    for code, part in enumerate(PARTS):
      is_part = part_n == code
      self.tokens_by_split[part] += int(is_part.sum())
      counts[part] = np.add.reduceat(is_part, offset_u[:-1], dtype=np.int32)
    # In time order a history reads: train, crossing, validation, crossing,
    # test; each but test may be empty, and only the first validation token's
    # place says on which side of it a crossing one lies.
    tokens_u = np.diff(offset_u).astype(np.int32)
    place_n = np.arange(len(part_n)) - np.repeat(offset_u[:-1], tokens_u)
    train_end = counts[TRAIN]
    first = np.where(part_n == PARTS.index(VALIDATION), place_n, len(part_n))
    start = np.minimum.reduceat(first, offset_u[:-1])
    start = np.where(counts[VALIDATION] > 0, start, train_end).astype(np.int32)
    self._index.append(
      Index(
        train_end=train_end,
        validation_start=start,
        validation_end=start + counts[VALIDATION],
        test_start=tokens_u - counts[TEST],
        tokens=tokens_u,
      )
    )


def _array(tokens: pa.Table, name: str) -> pa.Array:
  return tokens[name].combine_chunks()

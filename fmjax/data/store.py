"""A prepared directory: reading it, and checking that it is whole.

```
manifest.json    what it was made from, counts, cut times, encoding, checksums
rejects.parquet  rows that could not be used, with the reason
catalog.parquet  items: row, id, title, launch, first event, metadata
users.parquet    users: row, id, in the order of their first event
index.npz        per user, where train, validation and test lie
daily.parquet    target tokens per item and day
truth.parquet    of a generated log: what is true of each token (truth.py)
histories-*.arrayrecord   one record a user, in row order (history.py)
```
`prepare` writes it; everything downstream reads it through `Prepared`.
"""

import dataclasses
import functools
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_data_source

from fmjax.data import catalog as catalog_lib
from fmjax.data.encode import Encoding
from fmjax.data.history import Column, unpack, unpack_items
from fmjax.data.manifest import (
  damaged,
  file_hash,
  read_manifest,
  schema_from_dict,
)
from fmjax.data.schema import DataError, DataSpec, Schema
from fmjax.data.split import Cuts
from fmjax.data.workspace import one_line

REJECTS = "rejects.parquet"
CATALOG = "catalog.parquet"
USERS = "users.parquet"
INDEX = "index.npz"
DAILY = "daily.parquet"
TRUTH = "truth.parquet"
# Small enough to be checked whole whenever a directory is opened.
_CHECKED_AT_OPENING = (CATALOG, USERS, INDEX, DAILY)

_RECORDS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """Where the parts of each user's history lie; int32 [users] each.

  train = [0, train_end), validation = [validation_start, validation_end),
  test = [test_start, tokens). Between them may lie a token that crosses a cut.
  """

  train_end: np.ndarray
  validation_start: np.ndarray
  validation_end: np.ndarray
  test_start: np.ndarray
  tokens: np.ndarray

  def __len__(self) -> int:
    """Users."""
    return len(self.tokens)


class Prepared:
  """A prepared log, opened.

  Attributes:
    path: the directory.
    manifest: as written.
    schema: what the log's columns mean.
    spec: what a model must know to be built.
    catalog: the items.
    index: parts of each user's history.
    cuts: times of a temporal split, else None.
    checksum: of the content, the same on every machine.
    held_out_v: bool [v], items that training never learns (held_out.py).
  """

  def __init__(
    self,
    *,
    path: pathlib.Path,
    manifest: dict[str, Any],
    catalog: catalog_lib.Catalog,
    index: Index,
  ):
    self.path = path
    self.manifest = manifest
    self.catalog = catalog
    self.index = index
    self.schema = schema_from_dict(manifest["schema"])
    self.encodings = _encodings(manifest, "features", self.schema)
    self.metadata_encodings = _encodings(manifest, "metadata", self.schema)
    self.spec = DataSpec(
      items=len(catalog),
      features=tuple(e.encoded for e in self.encodings),
      metadata=tuple(e.encoded for e in self.metadata_encodings),
      timed=self.schema.timed,
    )
    self.layout = tuple(Column(**column) for column in manifest["layout"])
    self.cuts = Cuts(**manifest["cuts"]) if manifest["cuts"] else None
    self.checksum: str = manifest["data_checksum"]
    self.held_out_v = np.zeros(len(catalog), bool)
    self._source = _open_shards(path, manifest)

  def history(self, user: int) -> dict[str, np.ndarray]:
    """All tokens n of a user (train, crossing, validation, test), in order.

    "item" int32 [n], "start_us" and "end_us" int64 [n], "target" bool [n], then
    every feature of `spec` as in `Batch`; a bag "<name>" also has
    "<name>_count" float32 [n, w]; codes 0 pad.
    """
    columns, _ = self.histories(np.array([user]))
    return columns

  def histories(
    self, users: np.ndarray | None = None
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Histories one after the other: columns [n, …] and int64 offsets [u + 1].

    Args:
      users: rows; all of them if not given.
    """
    records = self._records(self._all(users))
    return unpack(records, self.layout, place=str(self.path))

  def items_of(
    self, users: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Item rows of whole histories (int32 [n]) and their offsets [u + 1].

    All users' are read once and kept.
    """
    item_n, offset_u = self._items
    if users is None:
      return item_n, offset_u
    parts = [item_n[offset_u[u] : offset_u[u + 1]] for u in users]
    lengths = [len(part) for part in parts]
    return (
      np.concatenate(parts) if parts else item_n[:0],
      np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
    )

  @functools.cached_property
  def _items(self) -> tuple[np.ndarray, np.ndarray]:
    users = self._all(None)
    parts = [
      unpack_items(
        self._records(users[a : a + _RECORDS_AT_ONCE]),
        self.layout,
        place=str(self.path),
      )[0]
      for a in range(0, len(users), _RECORDS_AT_ONCE)
    ]
    offset_u = np.concatenate(
      [[0], np.cumsum(self.index.tokens, dtype=np.int64)]
    )
    item_n = np.concatenate(parts)
    if len(item_n) != offset_u[-1]:
      raise DataError(
        f"the histories in {self.path} hold {len(item_n)} tokens where"
        f" {INDEX} counts {offset_u[-1]}; delete the folder and prepare the"
        " log again"
      )
    return item_n, offset_u

  @functools.cached_property
  def user_ids(self) -> np.ndarray:
    """Object [users], as in the log."""
    return pq.read_table(self.path / USERS)["user_id"].to_numpy()

  def truth(self) -> pa.Table | None:
    """What is true of each token, history after history (truth.py).

    None where it is not known: of a log that was not generated, of one with
    rejected rows, and where a token may be several events.
    """
    if TRUTH not in self.manifest["files"]:
      return None
    return pq.read_table(self.path / TRUTH)

  def _all(self, users: np.ndarray | None) -> np.ndarray:
    return np.arange(len(self.index)) if users is None else np.asarray(users)

  def _records(self, users: np.ndarray) -> Sequence[bytes]:
    try:
      return self._source.__getitems__(users.tolist())
    except (RuntimeError, OSError) as error:
      raise DataError(
        f"a history in {self.path} cannot be read ({one_line(error)}); delete"
        " the folder and prepare the log again"
      ) from None


def open_prepared(path: pathlib.Path | str) -> Prepared:
  """Opens what `prepare` wrote.

  Raises:
    DataError: it is absent, of another version, incomplete or damaged.
  """
  path = pathlib.Path(path)
  manifest = read_manifest(path)
  for name, entry in manifest["files"].items():
    file = path / name
    if not file.is_file():
      raise damaged(path, f"{name} is missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
      raise damaged(
        path, f"{name} has {size} bytes where {entry['bytes']} were written"
      )
    if name in _CHECKED_AT_OPENING and file_hash(file) != entry["sha256"]:
      raise damaged(path, f"{name} differs from its checksum")
  schema = schema_from_dict(manifest["schema"])
  try:
    table = pq.read_table(path / CATALOG)
    daily = pq.read_table(path / DAILY)
    with np.load(path / INDEX) as arrays:
      index = Index(**dict(arrays))
  except (pa.ArrowInvalid, OSError, ValueError, zipfile.BadZipFile) as error:
    raise damaged(path, one_line(error)) from None
  return Prepared(
    path=path,
    manifest=manifest,
    catalog=catalog_lib.read(
      table, daily, _encodings(manifest, "metadata", schema)
    ),
    index=index,
  )


def verify(prepared: Prepared) -> None:
  """Checks every file against its checksum, the histories included.

  Raises:
    DataError: one of them differs.
  """
  for name, entry in prepared.manifest["files"].items():
    if file_hash(prepared.path / name) != entry["sha256"]:
      raise damaged(prepared.path, f"{name} differs from its checksum")


def _encodings(
  manifest: dict[str, Any], part: str, schema: Schema
) -> tuple[Encoding, ...]:
  declared = schema.token_features if part == "features" else schema.metadata
  trees = manifest["encoding"][part]
  return tuple(Encoding.from_dict(f, trees[f.name]) for f in declared)


def _open_shards(path: pathlib.Path, manifest: dict[str, Any]) -> Any:
  shards = [str(path / shard) for shard in manifest["shards"]]
  try:
    source = array_record_data_source.ArrayRecordDataSource(shards)
  except (RuntimeError, OSError) as error:
    raise damaged(path, one_line(error)) from None
  users = manifest["counts"]["users"]
  if len(source) != users:
    raise damaged(path, f"{len(source)} histories of {users} users are there")
  return source

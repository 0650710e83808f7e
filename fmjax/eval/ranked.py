"""The answer to an evaluation: one row a query, and what was asked."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmjax.data.schema import DataError

TOP = 10  # items kept of each query's ranking

_PROTOCOL = b"fmjax.protocol"  # key of the file's metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
  """Ranks of a set of queries, ordered by (user, history_length).

  Models and baselines alike end here; metrics, slices and comparisons start
  here. A query is (user, history_length): the token of that index in the user's
  history is its target.

  Attributes:
    user: int32, row of the user in the prepared data.
    history_length: int32, tokens in the user's history before the target.
    item: int32, catalog row of the target.
    time_s: int32, request time, seconds since 1970 UTC.
    rank: int32, 1-based, ties against us.
    nll: float32, nats, over the whole catalog, seen items included.
    train_count: int32, training tokens of the target.
    top10_nk: int32, best candidates first; 0 where there is none.
    catalog_items: candidates before seen items are filtered.
    split: "validation" or "test".
    targets: "first" or "all".
    seen_filtered: seen items were left out of the competition.
    data_checksum: of the prepared data; rows mean nothing elsewhere.
  """

  user: np.ndarray
  history_length: np.ndarray
  item: np.ndarray
  time_s: np.ndarray
  rank: np.ndarray
  nll: np.ndarray
  train_count: np.ndarray
  top10_nk: np.ndarray
  catalog_items: int
  split: str
  targets: str
  seen_filtered: bool
  data_checksum: str

  @property
  def protocol(self) -> dict[str, int | str | bool]:
    """What was asked, beside the queries themselves."""
    return {name: getattr(self, name) for name in _PROTOCOL_FIELDS}

  def where(self, chosen: np.ndarray) -> "Ranked":
    """The queries where the boolean `chosen` is true."""
    columns = {name: getattr(self, name)[chosen] for name in _COLUMNS}
    return dataclasses.replace(self, **columns)

  def to_parquet(self, path: str | pathlib.Path) -> None:
    columns: dict[str, pa.Array] = {
      name: pa.array(getattr(self, name)) for name in _FLAT
    }
    top_nk = np.ascontiguousarray(self.top10_nk, np.int32)
    columns["top10"] = pa.FixedSizeListArray.from_arrays(
      pa.array(top_nk.reshape(-1)), TOP
    )
    table = pa.table(columns).replace_schema_metadata(
      {_PROTOCOL: json.dumps(self.protocol).encode()}
    )
    # Whole or not at all: a kill leaves the old file.
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


_PROTOCOL_FIELDS = (
  "catalog_items",
  "split",
  "targets",
  "seen_filtered",
  "data_checksum",
)
_COLUMNS = tuple(
  field.name
  for field in dataclasses.fields(Ranked)
  if field.name not in _PROTOCOL_FIELDS
)
_FLAT = tuple(name for name in _COLUMNS if name != "top10_nk")


def from_parquet(path: str | pathlib.Path) -> Ranked:
  """The inverse of `Ranked.to_parquet`."""
  try:
    table = pq.read_table(path)
    protocol = json.loads(table.schema.metadata[_PROTOCOL])
    flat = {name: table[name].to_numpy() for name in _FLAT}
    top = table["top10"].combine_chunks().flatten().to_numpy()
  except FileNotFoundError:
    raise DataError(f"{path} is absent: evaluate the run first") from None
  except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
    raise DataError(
      f"{path} holds no ranks of fmjax ({error}): evaluate the run again"
    ) from None
  return Ranked(**flat, top10_nk=top.reshape(-1, TOP), **protocol)

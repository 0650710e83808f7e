"""The items: append-only rows with launch time and metadata.

Row 0 is reserved for "unknown/padding". Rows follow the first event (ties: the
item's id), items never seen come last, so later events only append rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from fmjax.data.encode import Encoding, encode
from fmjax.data.history import Bags
from fmjax.data.schema import DataError, Kind, Schema
from fmjax.data.split import TRAIN

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._

# Of a launch or first event that has not happened: later than every time, so
# `first_seen_us_v < t` is "known at t".
NEVER_US = np.iinfo(np.int64).max

_TYPES = {
  Kind.CATEGORICAL: "string",
  Kind.NUMERIC: "float64",
  Kind.TIMESTAMP: "int64",
  Kind.BAG: "array<string>",
  Kind.VECTOR: "array<float64>",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Daily:
  """How many *target* tokens an item had on a day; one entry each.

  A token counts on the day of its first event that makes it a target, so no
  later event changes what was counted before it. The whole log is here: a
  prediction may use the days before its own.

  Attributes:
    day: int32, days since 1970 UTC, rising.
    item: int32, catalog row.
    events: int32.
  """

  day: np.ndarray
  item: np.ndarray
  events: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
  """Item rows v as NumPy arrays; row 0 is all zeros and empty texts.

  Attributes:
    item_ids: object [v], as in the log.
    titles: object [v], for display; the id where the log has no title.
    launch_us_v: int64, declared launch, else the first event, else `NEVER_US`.
    launch_declared_v: bool. A launch that is not declared is "first seen in the
      log": it is unknown until it has happened (and on that very event, too).
    first_seen_us_v: int64, over the *whole* log, `NEVER_US` if never; a
      prediction at t may use it only where it is < t.
    train_count_v: int32, training tokens of the item.
    metadata: by name: categorical int32 [v] codes, bag int32 [v, w] codes,
      numeric float32 [v] (standardized, NaN = missing), timestamp int32 [v]
      (seconds), vector float32 [v, width].
    daily: counts by item and day.
  """

  item_ids: np.ndarray
  titles: np.ndarray
  launch_us_v: np.ndarray
  launch_declared_v: np.ndarray
  first_seen_us_v: np.ndarray
  train_count_v: np.ndarray
  metadata: dict[str, np.ndarray]
  daily: Daily

  def __len__(self) -> int:
    """Rows, row 0 included."""
    return len(self.item_ids)

  def row_of(self, item_id: str) -> int:
    """Raises: DataError if the catalog lacks the item."""
    found = np.flatnonzero(self.item_ids == item_id)
    if not item_id or not found.size:
      raise DataError(
        f"item {item_id!r} is not in the catalog of {len(self) - 1} items;"
        " ids are listed in the item_id column of catalog.parquet"
      )
    return int(found[0])


def build(
  tokens: ibis.Table,
  items: ibis.Table | None,
  *,
  schema: Schema,
  connection: Any,
) -> pa.Table:
  """The catalog as a table, raw metadata included.

  Args:
    tokens: with the columns of `tokenize` and the `split` of each.
    items: of the log, or None.
    schema: declares the metadata.
    connection: that executes.
  """
  seen = tokens.group_by("item_id").aggregate(
    first_seen=_.start_us.min(),
    train_count=(_.split == TRAIN).sum().cast("int32"),
  )
  if items is None:
    catalog = seen.mutate(
      title=ibis.null("string"),
      launch_time=ibis.null("int64"),
      **{f.name: ibis.null(_TYPES[f.kind]) for f in schema.metadata},
    )
  else:
    _check_unique(items, schema, connection)
    _check_described(items, seen, schema, connection)
    # The union of both sides: items in the log without a description, and
    # described items that nobody met.
    described = items.rename(described="item_id")
    catalog = seen.outer_join(described, [("item_id", "described")]).mutate(
      item_id=ibis.coalesce(_.item_id, _.described),
      train_count=ibis.coalesce(_.train_count, 0).cast("int32"),
    )
  catalog = catalog.mutate(
    launch_declared=catalog.launch_time.notnull(),
    title=ibis.coalesce(catalog.title, catalog.item_id),
  )
  names = [f.name for f in schema.metadata]
  table = connection.to_pyarrow(
    catalog.order_by(
      ibis.asc(_.first_seen, nulls_first=False), "item_id"
    ).select(
      "item_id",
      "title",
      "launch_time",
      "launch_declared",
      "first_seen",
      "train_count",
      *names,
    )
  )
  return _with_row_zero(table)


def _check_unique(items: ibis.Table, schema: Schema, connection: Any) -> None:
  twice = (
    items.group_by("item_id")
    .aggregate(rows=_.count())
    .filter(_.rows > 1)
    .order_by("item_id")
    .limit(1)
  )
  found = connection.to_pyarrow(twice).to_pylist()
  if found:
    raise DataError(
      f"item {found[0]['item_id']!r} is described {found[0]['rows']} times in"
      f" the items of {schema.source}; keep one row an item"
    )


def _check_described(
  items: ibis.Table, seen: ibis.Table, schema: Schema, connection: Any
) -> None:
  """Some item of the events has a description, if there are descriptions."""
  described = items.semi_join(seen, "item_id").limit(1)
  if connection.to_pyarrow(described).num_rows:
    return
  for one in connection.to_pyarrow(items.limit(1)).to_pylist():
    other = connection.to_pyarrow(seen.limit(1))["item_id"][0]
    raise DataError(
      f"the items of {schema.source} describe none of the items in its events"
      f" (ids like {one['item_id']!r} and {str(other)!r}); check that both use"
      " the same ids"
    )


def _with_row_zero(table: pa.Table) -> pa.Table:
  reserved = {
    "item_id": "",
    "title": "",
    "launch_declared": False,
    "train_count": 0,
  }
  zero = pa.table(
    {
      field.name: pa.array([reserved.get(field.name)], field.type)
      for field in table.schema
    },
    schema=table.schema,
  )
  whole = pa.concat_tables([zero, table]).combine_chunks()
  row = pa.array(np.arange(whole.num_rows, dtype=np.int32))
  return whole.add_column(0, "row", row)


def read(
  table: pa.Table, daily: pa.Table, encodings: Sequence[Encoding]
) -> Catalog:
  """The arrays of a catalog table and of its counts, its metadata encoded."""
  metadata = {}
  for encoding in encodings:
    name = encoding.encoded.feature.name
    values = encode(table[name].combine_chunks(), encoding)
    if isinstance(values, Bags):
      values, _counts = values.padded(encoding.encoded.values)
    values[0] = 0  # a missing number is NaN elsewhere, padding is 0
    metadata[name] = values

  def times(name: str) -> np.ndarray:
    us = table[name].fill_null(NEVER_US).to_numpy().copy()
    us[0] = 0
    return us

  first_seen_us_v = times("first_seen")
  declared_v = table["launch_declared"].to_numpy()
  return Catalog(
    item_ids=table["item_id"].to_numpy(),
    titles=table["title"].to_numpy(),
    launch_us_v=np.where(declared_v, times("launch_time"), first_seen_us_v),
    launch_declared_v=declared_v,
    first_seen_us_v=first_seen_us_v,
    train_count_v=table["train_count"].to_numpy(),
    metadata=metadata,
    daily=Daily(
      day=daily["day"].to_numpy(),
      item=daily["item"].to_numpy(),
      events=daily["events"].to_numpy(),
    ),
  )

"""What is known to be true of a generated log, beside its histories.

A row a token, in the order of the histories: `user` (row) and `history_length`
(the token's index) say which, then what the generator knows of it. In `top10`,
a fixed number of catalog rows, 0 stands where there is none.
"""

from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._


def in_history_order(truth: ibis.Table, users: ibis.Table) -> ibis.Table:
  """`truth` of a `Log` with `user` and `history_length`, in order.

  Args:
    truth: of every event, each of which is a token.
    users: the row, `user`, of each `user_id`.
  """
  known = truth.mutate(user_id=_.user_id.cast("string")).inner_join(
    users, "user_id"
  )
  place = ibis.row_number().over(group_by="user", order_by="timestamp")
  return (
    known.mutate(history_length=place.cast("int32"))
    .drop("user_id")
    .order_by("user", "timestamp")
    .drop("timestamp")
    .relocate("user", "history_length")
  )


def with_catalog_rows(
  batch: pa.RecordBatch, item_ids: pa.ChunkedArray
) -> pa.RecordBatch:
  """`top10` as catalog rows instead of the log's ids."""
  place = batch.schema.get_field_index("top10")
  lists = batch.column(place)
  width = len(lists.flatten()) // len(lists)
  ids = pc.cast(lists.flatten(), pa.string())
  options = pc.SetLookupOptions(value_set=item_ids.combine_chunks())
  row = pc.call_function("index_in", [ids], options).fill_null(0)
  top = pa.FixedSizeListArray.from_arrays(row, width)
  return batch.set_column(place, pa.field("top10", top.type), top)

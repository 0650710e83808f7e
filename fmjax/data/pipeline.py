"""The stages from a log to files, each a query of the engine.

Whole columns are the engine's work (out of core, all cores); the tokens, sorted
once by user and time, stream through and leave as records.
"""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmjax.config import (
  EventTokens,
  Granularity,
  LeaveLastOut,
  Split,
  TemporalSplit,
)
from fmjax.data import catalog as catalog_lib
from fmjax.data import parse, store
from fmjax.data.clean import clean
from fmjax.data.encode import Encoding, code_texts, fit
from fmjax.data.history import layout
from fmjax.data.log import Log
from fmjax.data.manifest import content_digest, file_entries, write_manifest
from fmjax.data.schema import (
  ACTION,
  DataError,
  Feature,
  Kind,
  Schema,
  check_names,
)
from fmjax.data.split import (
  PARTS,
  TEST,
  TRAIN,
  VALIDATION,
  Cuts,
  assign,
  find_cuts,
)
from fmjax.data.tokenize import tokenize
from fmjax.data.truth import in_history_order, with_catalog_rows
from fmjax.data.write import HistoryWriter

# Called with a stage and a count: of what it made, or of what it has so far.
Progress = Callable[[str, int], None]

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._

_DAY_US = 86_400_000_000
_RECENT_US = 631_152_000_000_000  # 1990-01-01
_EVENTS_AT_ONCE = 2**21  # that may have to be merged
_ROWS_AT_ONCE = 131_072
_ROWS_PER_REPORT = 2**20


def run(
  log: Log,
  folder: pathlib.Path,
  *,
  choices: dict[str, Any],
  granularity: Granularity,
  split: Split,
  max_rejects: float,
  report: Progress,
) -> None:
  """Writes a whole prepared directory into an empty folder."""
  schema = log.schema
  connection: Any = log.events.get_backend()
  for features in (schema.features, schema.metadata):
    check_names(features, place=schema.source)

  cleaned = clean(log, max_rejects=max_rejects)
  rejects = sum(cleaned.rejected.values())
  _check_values(cleaned.events, schema.features, connection)
  connection.to_parquet(cleaned.rejects.order_by("row"), folder / store.REJECTS)
  report("clean", cleaned.events_in - rejects)

  tokens, cuts = _tokens(cleaned.events, schema, granularity, split, connection)
  _check_parts(tokens, schema, split, connection)
  report("tokenize", connection.to_pyarrow(tokens.count()).as_py())

  catalog = catalog_lib.build(
    tokens, log.items, schema=schema, connection=connection
  )
  pq.write_table(catalog, folder / store.CATALOG)
  users = _users(tokens, connection)
  pq.write_table(users, folder / store.USERS)
  report("catalog", catalog.num_rows - 1)

  items = ibis.memtable(catalog)
  _check_values(items, schema.metadata, connection)
  features = fit(
    tokens.filter(_.split == TRAIN),
    schema.token_features,
    connection=connection,
  )
  metadata = fit(
    items.filter(_.train_count > 0), schema.metadata, connection=connection
  )
  report("encode", len(features) + len(metadata))

  columns = layout([e.encoded for e in features], items=catalog.num_rows)
  writer = HistoryWriter(folder, encodings=features, layout=columns)
  item_rows = _rows(catalog, "item", connection)
  user_rows = _rows(users, "user", connection)
  coded = _coded(tokens, item_rows, user_rows)
  ordered = _sorted(_without_texts(coded, features, granularity, connection))
  written = _write(_stream(ordered, connection), writer, report)
  index = writer.close()
  np.savez(folder / store.INDEX, **dataclasses.asdict(index))
  daily = _daily(tokens, item_rows, connection)
  pq.write_table(daily, folder / store.DAILY)
  report("write", written)
  # Only where each token is one event is what is true of the event true of it.
  if (
    log.truth is not None
    and isinstance(granularity, EventTokens)
    and not rejects
  ):
    in_order = in_history_order(log.truth, user_rows)
    _write_truth(
      _stream(in_order, connection),
      folder / store.TRUTH,
      catalog,
      tokens=written,
    )

  if cleaned.events_in != writer.events + rejects:
    raise AssertionError(
      f"{cleaned.events_in} events came in, {writer.events} are in tokens and"
      f" {rejects} were rejected: a bug, please report it"
    )
  encoding = {
    "features": {e.encoded.feature.name: e.to_dict() for e in features},
    "metadata": {e.encoded.feature.name: e.to_dict() for e in metadata},
  }
  write_manifest(
    folder,
    {
      **choices,
      "cuts": dataclasses.asdict(cuts) if cuts else None,
      "counts": {
        "events_in": cleaned.events_in,
        "events_in_tokens": writer.events,
        "rejects": cleaned.rejected,
        "tokens": written,
        "tokens_by_split": writer.tokens_by_split,
        "compression": writer.events / written,
        "users": users.num_rows,
        "items": catalog.num_rows - 1,
        "bag_values_dropped": dict(writer.dropped),
      },
      "encoding": encoding,
      "layout": [dataclasses.asdict(column) for column in columns],
      "shards": writer.shards,
      "files": file_entries(folder),
      "data_checksum": content_digest(
        records=writer.digest,
        tables=(catalog, users, daily),
        arrays=dataclasses.astuple(index),
        encoding=encoding,
      ),
    },
  )


def _tokens(
  events: ibis.Table,
  schema: Schema,
  granularity: Granularity,
  split: Split,
  connection: Any,
) -> tuple[ibis.Table, Cuts | None]:
  """Tokens with their part, and the times between the parts."""
  cuts = None
  if isinstance(split, TemporalSplit):
    cuts = find_cuts(events, split, schema=schema, connection=connection)

  def tokens_of(some: ibis.Table) -> ibis.Table:
    return assign(tokenize(some, schema, granularity), split, cuts)

  if isinstance(granularity, EventTokens) and cuts:
    # An event and two comparisons: quicker to make again than to keep.
    return tokens_of(events), cuts
  # Some of the users at a time, because DuckDB does not spill the lists and
  # texts of a group that is not complete.
  shares = 1 + connection.to_pyarrow(events.count()).as_py() // _EVENTS_AT_ONCE
  share: Any = (events.user_id.hash() % shares).abs()
  name = ibis.util.gen_name("fmjax_tokens")
  tokens = connection.create_table(
    name, tokens_of(events.filter(share == 0)), temp=True
  )
  for number in range(1, shares):
    some = events.filter(share == number)
    connection.insert(name, tokens_of(some), database="temp.main")
  return tokens, cuts


def _check_values(
  rows: ibis.Table, features: tuple[Feature, ...], connection: Any
) -> None:
  """A logged feature must not be negative; times must be in their unit."""
  logged = [f.name for f in features if f.kind == Kind.NUMERIC and f.log]
  times = [f.name for f in features if f.kind == Kind.TIMESTAMP]
  if "launch_time" in rows.columns:
    times.append("launch_time")
  if not logged + times:
    return
  bounds = rows.aggregate(
    [rows[name].min().name(f"least_{name}") for name in logged + times]
    + [rows[name].max().name(f"most_{name}") for name in times]
  )
  bound = connection.to_pyarrow(bounds).to_pylist()[0]
  for name in logged:
    least = bound[f"least_{name}"]
    if least is not None and least < 0:
      raise DataError(
        f"{name!r} is declared log = true but {least} occurs, which has no"
        " logarithm; declare log = false"
      )
  for name in times:
    least, most = bound[f"least_{name}"], bound[f"most_{name}"]
    if least is None:
      continue
    for factor in (1_000, 1_000_000):
      if least * factor >= _RECENT_US and most * factor <= parse.LATEST_US:
        raise DataError(
          f"every {name!r} lies in January 1970 and would be a date since 1990"
          f" if it were {factor:,} times as late; check its unit"
        )
    if least < parse.EARLIEST_US or most > parse.LATEST_US:
      raise DataError(
        f"{name!r} reaches from {least} to {most} microseconds since 1970,"
        " beyond the years 1902 to 2037; check its unit"
      )


def _check_parts(
  tokens: ibis.Table, schema: Schema, split: Split, connection: Any
) -> None:
  present = connection.to_pyarrow(tokens.select("split").distinct())
  for part in (TRAIN, VALIDATION, TEST):
    if part not in present["split"].to_pylist():
      remedy = "use larger shares"
      if isinstance(split, LeaveLastOut):
        remedy = "it needs users with three tokens, use a temporal split"
      raise DataError(
        f"no token of {schema.source} is in the {part} part"
        f" ({type(split).__name__}); {remedy}"
      )


def _users(tokens: ibis.Table, connection: Any) -> pa.Table:
  """Users in the order of their first token, so that later ones append."""
  firsts = (
    tokens.group_by("user_id")
    .aggregate(first=_.start_us.min())
    .order_by("first", "user_id")
    .select("user_id")
  )
  table = connection.to_pyarrow(firsts)
  row = pa.array(np.arange(table.num_rows, dtype=np.int32))
  return table.add_column(0, "row", row)


def _rows(table: pa.Table, name: str, connection: Any) -> ibis.Table:
  """The row of each id, `name` and `name_id`, of the users or the catalog."""
  rows = table.select(["row", f"{name}_id"])
  return connection.create_table(
    ibis.util.gen_name(f"fmjax_{name}"),
    ibis.memtable(rows.rename_columns([name, f"{name}_id"])),
    temp=True,
  )


def _coded(
  tokens: ibis.Table, items: ibis.Table, users: ibis.Table
) -> ibis.Table:
  """Tokens with the integer columns `user` and `item` for the ids."""
  return (
    tokens.inner_join(users, "user_id")
    .inner_join(items, "item_id")
    .drop("user_id", "item_id", "target_us")
  )


def _without_texts(
  coded: ibis.Table,
  encodings: Sequence[Encoding],
  granularity: Granularity,
  connection: Any,
) -> ibis.Table:
  """Codes for every feature that is one text a token."""
  texts = [e for e in encodings if e.encoded.feature.kind == Kind.CATEGORICAL]
  if isinstance(granularity, EventTokens):  # every token has one action
    texts += [e for e in encodings if e.encoded.feature is ACTION]
    coded = coded.mutate(action=_.action[0]).drop("action_count")
  return code_texts(coded, texts, connection=connection)


def _sorted(coded: ibis.Table) -> ibis.Table:
  """What `HistoryWriter` takes: every history in a row, in time order."""
  return coded.mutate(
    split=ibis.cases(
      *((_.split == part, code) for code, part in enumerate(PARTS))
    ).cast("int8")
  ).order_by("user", "start_us", "row")


def _stream(table: ibis.Table, connection: Any) -> Iterator[pa.RecordBatch]:
  """Batches of a result that is never held whole.

  Through DuckDB itself: Ibis 12 calls a method that DuckDB 2 no longer has.
  """
  result = connection.con.sql(connection.compile(table))
  yield from result.to_arrow_reader(_ROWS_AT_ONCE)


def _write(
  batches: Iterator[pa.RecordBatch], writer: HistoryWriter, report: Progress
) -> int:
  """Writes every batch; how many tokens they hold."""
  written = 0
  # One batch is encoded and written while the engine sorts out the next.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    under_way = pool.submit(lambda: None)
    for batch in batches:
      under_way.result()
      under_way = pool.submit(writer.write, pa.Table.from_batches([batch]))
      reports = written // _ROWS_PER_REPORT
      written += len(batch)
      if written // _ROWS_PER_REPORT > reports:
        report("write", written)
    under_way.result()
  return written


def _write_truth(
  batches: Iterator[pa.RecordBatch],
  path: pathlib.Path,
  catalog: pa.Table,
  *,
  tokens: int,
) -> None:
  writer = None
  rows = 0
  with contextlib.ExitStack() as stack:
    for batch in batches:
      batch = with_catalog_rows(batch, catalog["item_id"])
      writer = writer or stack.enter_context(
        pq.ParquetWriter(path, batch.schema, compression="zstd")
      )
      writer.write_batch(batch)
      rows += len(batch)
  if rows != tokens:
    raise AssertionError(
      f"{rows} events have a truth, {tokens} tokens were written: a bug, please"
      " report it"
    )


def _daily(tokens: ibis.Table, items: ibis.Table, connection: Any) -> pa.Table:
  counts = (
    tokens.filter(_.target)
    .group_by(day=(_.target_us // _DAY_US).cast("int32"), item_id=_.item_id)
    .aggregate(events=_.count().cast("int32"))
  )
  return connection.to_pyarrow(
    counts.inner_join(items, "item_id")
    .select("day", "item", "events")
    .order_by("day", "item")
  )

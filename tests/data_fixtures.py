"""Tiny logs in memory, prepared through the whole pipeline."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ibis
import pyarrow as pa
import pytest

from fmjax.data.log import Log
from fmjax.data.prepare import prepare_log
from fmjax.data.schema import Feature, Kind, Schema, When
from fmjax.data.store import Prepared

_TYPES = {
  Kind.CATEGORICAL: pa.string(),
  Kind.NUMERIC: pa.float64(),
  Kind.TIMESTAMP: pa.int64(),
  Kind.BAG: pa.list_(pa.string()),
  Kind.VECTOR: pa.list_(pa.float64()),
}

# A feature of every kind on either side.
EVERY_KIND = Schema(
  source="tiny",
  features=(
    Feature(name="device", kind=Kind.CATEGORICAL, when=When.REQUEST),
    Feature(name="position", kind=Kind.NUMERIC, when=When.REQUEST, log=True),
    Feature(name="registered", kind=Kind.TIMESTAMP, when=When.REQUEST),
    Feature(name="interests", kind=Kind.BAG, when=When.REQUEST),
    Feature(name="context", kind=Kind.VECTOR, when=When.REQUEST, width=2),
    Feature(name="cause", kind=Kind.CATEGORICAL),
    Feature(name="rating", kind=Kind.NUMERIC),
    Feature(name="finished", kind=Kind.TIMESTAMP),
    Feature(name="tags", kind=Kind.BAG),
    Feature(name="mood", kind=Kind.VECTOR, width=3),
  ),
  metadata=(
    Feature(name="language", kind=Kind.CATEGORICAL),
    Feature(name="genre", kind=Kind.BAG),
    Feature(name="minutes", kind=Kind.NUMERIC, log=True),
    Feature(name="uploaded", kind=Kind.TIMESTAMP),
    Feature(name="text", kind=Kind.VECTOR, width=2),
  ),
)


def pytest_configure(config: pytest.Config) -> None:
  # Ibis 12 still calls what DuckDB 2 and pandas 3 have renamed; it works, and
  # is not ours.
  for message in ("fetch_arrow_table", "The 'future.infer_string' option"):
    config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(scope="session")
def every_kind() -> Schema:
  return EVERY_KIND


@pytest.fixture(scope="session")
def log_of() -> Callable[..., Log]:
  """`make_log` as a fixture."""
  return make_log


@pytest.fixture(scope="session")
def prepared_of(
  tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Prepared]:
  """Prepares events through the whole pipeline.

  `prepared_of(events, items=…, schema=…, granularity=…, split=…, out=…)`; every
  call makes a directory of its own unless `out` is given.
  """

  def prepare(
    events: Sequence[Mapping[str, Any]],
    *,
    items: Sequence[Mapping[str, Any]] | None = None,
    schema: Schema | None = None,
    out: pathlib.Path | None = None,
    **options: Any,
  ) -> Prepared:
    log = make_log(events, items=items, schema=schema)
    out = out or tmp_path_factory.mktemp("prepared") / "tiny"
    try:
      return prepare_log(log, out, **options)
    finally:
      log.events.get_backend().disconnect()

  return prepare


def make_log(
  events: Sequence[Mapping[str, Any]],
  *,
  items: Sequence[Mapping[str, Any]] | None = None,
  schema: Schema | None = None,
) -> Log:
  """A log from rows in memory, on a connection of its own.

  Args:
    events: user_id, item_id and timestamp (in *seconds*); action ("rate"),
      duration_ms (null) and the declared features (null) if not given.
    items: item_id; title, launch_time (microseconds) and metadata if given.
    schema: without features if not given.
  """
  schema = schema or Schema(source="tiny")
  connection = ibis.duckdb.connect()
  rows = [
    {"row": row, "action": "rate", **event}
    for row, event in enumerate(events, start=1)
  ]
  event_types = {
    "row": pa.int64(),
    "user_id": pa.string(),
    "item_id": pa.string(),
    "timestamp": pa.int64(),
    "action": pa.string(),
    "duration_ms": pa.int64(),
    **{f.name: _TYPES[f.kind] for f in schema.features},
  }
  item_types = {
    "item_id": pa.string(),
    "title": pa.string(),
    "launch_time": pa.int64(),
    **{f.name: _TYPES[f.kind] for f in schema.metadata},
  }

  def table(name: str, rows: Any, types: dict[str, pa.DataType]) -> ibis.Table:
    arrow = pa.Table.from_pylist(list(rows), schema=pa.schema(types))
    return connection.create_table(name, ibis.memtable(arrow))

  return Log(
    schema=schema,
    events=table("events", rows, event_types),
    items=None if items is None else table("items", items, item_types),
    time_unit="s",
    files=(),
    place="events in memory",
  )

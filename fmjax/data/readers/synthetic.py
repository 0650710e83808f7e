"""A generated log of any length, for speed tests and for examples.

Item popularity is Zipf's; each user prefers one genre, and another one every
ten days, so what was watched last tells more than what was watched first. An
event depends on nothing but its seed and its block, so the log is the same
however it is generated, and no more than a block is held in memory.
"""

import pathlib

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmjax.config import Synthetic
from fmjax.data.log import Log
from fmjax.data.readers import plain, raw
from fmjax.data.schema import DataError, Feature, Kind, Schema, When

SCHEMA = Schema(
  source="synthetic",
  features=(Feature(name="device", kind=Kind.CATEGORICAL, when=When.REQUEST),),
  metadata=(Feature(name="genre", kind=Kind.BAG),),
  # Items are drawn anew each time, whatever the user has met.
  repeats=True,
)

BLOCK = 131_072  # events
_START_US = 1_704_067_200_000_000  # 2024-01-01
_SPAN_US = 90 * 86_400_000_000
_TASTE_US = 10 * 86_400_000_000  # a user's taste lasts this long
_GENRES = 20
_LOYALTY = 0.7  # share of the events that follow the user's taste
_ZIPF = 1.1
_DEVICES = ("phone", "tablet", "tv", "laptop")
_HOME_DEVICE = 0.9  # share of the events on the user's usual device
_DURATION_MS = 60_000  # median; four times as long if it is to the taste


def files(source: Synthetic) -> tuple[pathlib.Path, ...]:
  """None: the log is made of nothing but its numbers."""
  del source
  return ()


def read(source: Synthetic, connection: ibis.BaseBackend) -> Log:
  for name in ("events", "users", "items"):
    if getattr(source, name) < 1:
      raise DataError(
        f"synthetic: {name} = {getattr(source, name)} must be positive"
      )
  if source.seed < 0:
    raise DataError(f"synthetic: seed = {source.seed} must not be negative")
  if source.events > _SPAN_US:
    raise DataError(
      f"synthetic: events = {source.events} must be at most {_SPAN_US}, one a"
      " microsecond"
    )
  scratch = raw.scratch_of(connection)
  in_events, in_items = scratch / "events.parquet", scratch / "items.parquet"
  write(source, in_events)
  pq.write_table(items(source), in_items)
  table = plain.read_parquet(connection, in_events, place=in_events.name)
  described = plain.read_parquet(connection, in_items, place=in_items.name)
  return Log(
    schema=SCHEMA,
    events=table.mutate(action=ibis.literal("watch")).select(
      "row",
      "user_id",
      "item_id",
      "timestamp",
      "action",
      "duration_ms",
      "device",
    ),
    items=described.drop("row"),
    time_unit="us",
    files=files(source),
    place=f"synthetic log of seed {source.seed}",
  )


def write(source: Synthetic, path) -> None:
  """The events in order of time, a row group a block."""
  with pq.ParquetWriter(path, _ARROW, compression="zstd") as writer:
    for number in range(-(-source.events // BLOCK)):
      writer.write_batch(block(source, number))


def block(source: Synthetic, number: int) -> pa.RecordBatch:
  """Events [number · BLOCK, (number + 1) · BLOCK) of the log."""
  first = number * BLOCK
  count = min(BLOCK, source.events - first)
  rng = np.random.default_rng([source.seed, number])
  step = _SPAN_US // source.events
  # Whole microseconds of its own for each event: no ties, no duplicates.
  offset = (first + np.arange(count)) * step + rng.integers(0, step, count)
  # Squared, because a few users are responsible for most events.
  user = (source.users * rng.random(count) ** 2).astype(np.int64)

  genres = min(_GENRES, source.items)
  taste = _hash(source.seed, user, offset // _TASTE_US) % genres
  loyal = rng.random(count) < _LOYALTY
  genre = np.where(loyal, taste, rng.integers(0, genres, count))
  # Item number = rank · genres + genre, so that each genre has its own Zipf.
  rank = np.searchsorted(_zipf(-(-source.items // genres)), rng.random(count))
  item = (rank * genres + genre) % source.items

  home = _hash(source.seed, user, 0) % len(_DEVICES)
  away = rng.integers(0, len(_DEVICES), count)
  device = np.where(rng.random(count) < _HOME_DEVICE, home, away)
  liked = np.where(item % genres == taste, 4, 1)
  duration = _DURATION_MS * liked * rng.lognormal(0.0, 0.5, count)
  return pa.record_batch(
    [
      pa.array(user),
      pa.array(item),
      pa.array(_START_US + offset),
      pa.array(duration.astype(np.int64)),
      pa.DictionaryArray.from_arrays(device.astype(np.int8), _DEVICES),
    ],
    schema=_ARROW,
  )


_ARROW = pa.schema(
  {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "timestamp": pa.int64(),
    "duration_ms": pa.int64(),
    "device": pa.dictionary(pa.int8(), pa.string()),
  }
)


def items(source: Synthetic) -> pa.Table:
  """Every item's genre, and for half of them a second one."""
  item = np.arange(source.items)
  genres = min(_GENRES, source.items)
  drawn = _hash(source.seed, item, 1)
  second = np.where(drawn % 2, (drawn >> 1) % genres, item % genres)
  pairs = zip(item % genres, second, strict=True)
  return pa.table(
    {
      "item_id": pa.array(item).cast(pa.string()),
      "title": pa.array([f"Item {i}" for i in item], pa.string()),
      "launch_time": pa.nulls(source.items, pa.int64()),
      "genre": pa.array(
        [sorted({f"genre-{a}", f"genre-{b}"}) for a, b in pairs],
        pa.list_(pa.string()),
      ),
    }
  )


def _zipf(ranks: int) -> np.ndarray:
  """Cumulative probabilities of ranks 0, 1, …"""
  weights = 1.0 / np.arange(1, ranks + 1) ** _ZIPF
  cumulative = np.cumsum(weights) / weights.sum()
  cumulative[-1] = 1.0  # rounding must not leave a draw without an item
  return cumulative


def _hash(seed: int, a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
  """Non-negative int64 that looks random: splitmix64 of (seed, a, b)."""
  # In Python, where a product of scalars does not warn that it wraps.
  x = a.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
  for term in (np.asarray(b).astype(np.uint64), np.uint64(0)):
    x = (x + term + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(29))
  return (x >> np.uint64(1)).astype(np.int64)

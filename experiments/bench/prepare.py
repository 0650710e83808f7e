"""How many events a second does `prepare` take, and in how much memory?

  python -m experiments.bench.prepare

Generated logs of growing length, each a Parquet file with a mapping as a log of
one's own would be: integer ids, microseconds, a duration, a device; a user per
hundred events and an item per thousand. Every measurement is a process of its
own: from the file to a finished prepared directory, starting Python left out.
Rounds over all lengths follow one another; the median counts.

Beside it, without a threshold, the peer's way from the same file to sequences
that it can train on, all in memory: `pandas.read_parquet`, RecTools'
`Dataset.construct`, and its SASRec's data preparator. It keeps the item, the
time and the last 201 events of a user; `prepare` keeps every event, with its
duration and device, and splits, checks, describes and writes it.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from experiments.bench import record, sides
from experiments.bench.protocol import ROOT, Answer, Worker
from fmjax.config import Synthetic
from fmjax.data.readers import synthetic

COMMAND = "python -m experiments.bench.prepare"
SIZES = (1, 2, 5, 10, 20)  # million events
MILLION = 1_000_000

EVENTS, MAPPING = "events.parquet", "map.toml"
_ITEMS = "items.parquet"
_MAPPING_TEXT = f"""\
[events]
file = "{EVENTS}"
user = "user_id"
item = "item_id"
timestamp = "timestamp"
time_unit = "us"
default_action = "watch"
duration = "duration_ms"
repeats = true

[features.device]
kind = "categorical"
when = "request"

[items]
file = "{_ITEMS}"
item = "item_id"
title = "title"

[items.features.genre]
kind = "bag"
"""


def make_log(events: int, cache: pathlib.Path) -> pathlib.Path:
  """The folder of a log of so many events, made if it is absent."""
  folder = cache / f"log-{events}"
  if folder.exists():
    return folder
  source = Synthetic(
    events=events, users=max(events // 100, 2), items=max(events // 1_000, 2)
  )
  cache.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=cache) as scratch:
    unfinished = pathlib.Path(scratch) / "log"
    unfinished.mkdir()
    synthetic.write(source, unfinished / EVENTS)
    pq.write_table(synthetic.items(source), unfinished / _ITEMS)
    (unfinished / MAPPING).write_text(_MAPPING_TEXT)
    unfinished.rename(folder)
  return folder


def measure(log: pathlib.Path, *, memory_limit: str) -> Answer:
  """One `prepare` of a log, in a new process; its directory is removed."""
  with tempfile.TemporaryDirectory(dir=log.parent) as scratch:
    settings = {
      "mapping": str(log / MAPPING),
      "out": str(pathlib.Path(scratch) / "prepared"),
      "memory_limit": memory_limit,
    }
    module = "experiments.bench.prepare_worker"
    with Worker(sys.executable, module, settings) as worker:
      return worker.facts


def measure_peer(log: pathlib.Path, *, python: pathlib.Path) -> Answer:
  """The peer's way from the same file, in a new process.

  Where it does not come to an end, `error` says so.
  """
  module = "experiments.bench.peer.rectools_prepare"
  try:
    with Worker(str(python), module, {"events": str(log / EVENTS)}) as worker:
      return worker.facts
  except RuntimeError as error:
    return {"error": str(error)}


def summary(runs: Sequence[Answer]) -> dict[str, Any]:
  """Runs of one length: their median, and the largest memory of any."""
  done = [run for run in runs if "error" not in run]
  if not done:
    return {"runs": list(runs)}
  seconds = statistics.median(run["seconds"] for run in done)
  events = done[0]["events"]
  return {
    "events": events,
    "seconds": seconds,
    "events_per_s": events / seconds,
    "peak_rss_bytes": max(run["peak_rss_bytes"] for run in done),
    "runs": list(runs),
  }


def compare(by_size: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
  """What the lengths say together; `linearity` is 1 if time is linear."""
  first, last = min(by_size), max(by_size)
  rates = {size: by_size[size]["events_per_s"] for size in by_size}
  return {
    "events_per_s": rates[last],
    "peak_rss_bytes": max(one["peak_rss_bytes"] for one in by_size.values()),
    # Speed at the largest over that at the smallest.
    "linearity": rates[last] / rates[first],
  }


def main(arguments: list[str] | None = None) -> None:
  asked = _parser().parse_args(arguments)
  logs = {
    size: make_log(round(size * MILLION), asked.cache) for size in asked.sizes
  }
  peer = asked.peer_python.exists()
  ours: dict[float, list[Answer]] = {size: [] for size in logs}
  theirs: dict[float, list[Answer]] = {size: [] for size in logs}
  for number in range(asked.rounds):
    for size, log in logs.items():
      ours[size].append(measure(log, memory_limit=asked.memory_limit))
      _report(number, size, "fmjax", ours[size][-1])
      # One that did not come to an end would not do so in the next round.
      if peer and not any("error" in run for run in theirs[size]):
        theirs[size].append(measure_peer(log, python=asked.peer_python))
        _report(number, size, "the peer", theirs[size][-1])
  by_size = {size: summary(runs) for size, runs in ours.items()}
  found = {
    **compare(by_size),
    "memory_limit": asked.memory_limit,
    "sizes": list(by_size.values()),
    "peer": [summary(runs) for runs in theirs.values()] if peer else None,
    "peer_absent": None if peer else f"{asked.peer_python} is missing",
  }
  record.write(asked.out, command=_command(asked), result=found)
  for size, one in by_size.items():
    line = f"{size:g} M events: {_speed(one)}"
    if peer:
      line += f"; the peer {_speed(summary(theirs[size]))}"
    print(line)


def _parser() -> argparse.ArgumentParser:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument(
    "--sizes",
    type=float,
    nargs="+",
    default=SIZES,
    help="lengths in millions of events",
  )
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument(
    "--memory-limit", default="2GB", help="of the engine of `prepare`"
  )
  parser.add_argument(
    "--cache",
    type=pathlib.Path,
    default=ROOT / "runs" / "bench" / "prepare",
    help="where the logs are kept, and prepared",
  )
  parser.add_argument(
    "--peer-python", type=pathlib.Path, default=sides.PEER_PYTHON
  )
  return parser


def _command(asked: argparse.Namespace) -> str:
  sizes = " ".join(f"{size:g}" for size in asked.sizes)
  return (
    f"{COMMAND} --sizes {sizes} --rounds {asked.rounds}"
    f" --memory-limit {asked.memory_limit}"
  )


def _report(number: int, size: float, side: str, run: Answer) -> None:
  said = run.get("error") or f"{run['seconds']:.1f} s"
  print(f"round {number + 1}, {size:g} M, {side}: {said}", file=sys.stderr)


def _speed(one: Mapping[str, Any]) -> str:
  if "seconds" not in one:
    return "did not come to an end"
  memory = one["peak_rss_bytes"] / 2**30
  return (
    f"{one['seconds']:.1f} s, {one['events_per_s']:,.0f} events/s,"
    f" {memory:.2f} GiB"
  )


if __name__ == "__main__":
  main()

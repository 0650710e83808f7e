"""One `prepare` in a process of its own: its seconds, stages and memory."""

import collections
import json
import sys
import time

from experiments.bench import protocol
from fmjax.config import Table
from fmjax.data.prepare import prepare


def main() -> None:
  settings = json.loads(sys.argv[1])
  wire = protocol.Wire()
  stages: collections.Counter[str] = collections.Counter()
  began = last = time.perf_counter()

  def progress(stage: str, count: int) -> None:
    """Called at the end of a stage, or of a part of it."""
    nonlocal last
    del count
    now = time.perf_counter()
    stages[stage] += now - last
    last = now

  prepared = prepare(
    Table(mapping=settings["mapping"]),
    settings["out"],
    memory_limit=settings["memory_limit"],
    progress=progress,
  )
  progress("finish", 0)
  counts = prepared.manifest["counts"]
  wire.tell(
    events=counts["events_in"],
    tokens=counts["tokens"],
    users=counts["users"],
    items=counts["items"],
    seconds=last - began,
    cpu_s=protocol.cpu_s(),
    stages_s=dict(stages),
    peak_rss_bytes=protocol.peak_rss_bytes(),
    shards=len(prepared.manifest["shards"]),
    shard_bytes=sum(
      prepared.manifest["files"][name]["bytes"]
      for name in prepared.manifest["shards"]
    ),
    data_checksum=prepared.checksum,
  )


if __name__ == "__main__":
  main()

"""What the benchmarks measured: their committed results, read in one place.

A benchmark that nobody has run is None; a sentence says what runs it.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "bench"

# Result: the module of experiments/bench that writes it.
MODULES = {
  "train_throughput": "train_throughput",
  "time_to_quality": "time_to_quality",
  "floor": "floor",
  "parts": "parts",
  "evaluation": "evaluation",
  "input": "input_pipeline",
  "prepare": "prepare",
  "attention": "attention",
  "peer_quality": "peer_quality",
  "gpu": "gpu",
}
# As `experiments.bench.train_throughput` names them.
LOSSES = {
  "full_softmax": "full softmax",
  "sampled": "128 sampled negatives",
  "bce": "BCE, one negative",
}

Result = Mapping[str, Any]


def read(name: str) -> Result | None:
  path = RESULTS / f"{name}.json"
  return json.loads(path.read_text()) if path.is_file() else None


def read_all() -> dict[str, Result | None]:
  return {name: read(name) for name in MODULES}


def command(name: str) -> str:
  return f"python -m experiments.bench.{MODULES[name]}"


def not_measured(name: str) -> str:
  return f"not measured: run `{command(name)}`"


def peer_facts(result: Result) -> Result | None:
  """What the peer said of itself, wherever this result keeps it."""
  said = [result.get("peer")]
  said += [loss["peer"] for loss in result.get("losses", {}).values()]
  if isinstance(said[0], list):  # of lengths, each with its runs
    said = [run for length in said[0] for run in length["runs"]]
  return next((facts for facts in said if facts and "version" in facts), None)


def machine(result: Result) -> str:
  """`AMD EPYC, 2 cores, 24 GiB`."""
  of = result["machine"]
  memory = f"{gib(of['memory_bytes']):.0f} GiB"
  return f"{of['cpu'] or of['architecture']}, {of['cores']} cores, {memory}"


def distinct(values: Iterable[str]) -> str:
  """Each value once, in order; what should be one thing shows if it is not."""
  return "; ".join(dict.fromkeys(values))


def gib(count: float) -> float:
  """Bytes as GiB."""
  return count / 2**30

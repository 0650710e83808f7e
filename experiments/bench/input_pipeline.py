"""How many times more tokens can be read than the training step consumes?

  python -m experiments.bench.input_pipeline

The batches of training (200 positions, 64 rows) as fast as their iterator gives
them, with nothing else to do, of three logs: MovieLens-1M in the form of SASRec
(items alone), a generated log with all its features, and a longer one, too
large to be kept decoded, so that each batch is read from disk. In turn with
them the training step of `experiments.movielens_1m` on batches that lie in
memory already. Tokens are targets; medians over the turns; `ratio` is the
slowest log's tokens per second over the step's.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import movielens_1m
from experiments.bench import record
from fmjax import mesh
from fmjax.config import DataConfig, Experiment, Synthetic
from fmjax.data import windows
from fmjax.data.batch import Batch
from fmjax.data.decoded import InMemory, histories
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.train.loop import make_model
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import make_state
from fmjax.train.step import make_step

COMMAND = "python -m experiments.bench.input_pipeline"
SYNTHETIC = Synthetic(events=2_000_000, users=20_000, items=2_000)
LARGE = Synthetic(events=20_000_000, users=200_000, items=20_000)
_WARM_UP = 8  # batches: more than are prepared ahead


class Reading:
  """The batches of a log, one after the other."""

  def __init__(self, prepared: Prepared, data: DataConfig):
    dataset = windows.training_batches(
      prepared, window=data.window, stride=data.stride, rows=data.rows, seed=0
    )
    self._batches = windows.batch_iterator(dataset)
    self.facts = {
      "source": prepared.schema.source,
      "events": prepared.manifest["counts"]["events_in"],
      "features": [e.feature.name for e in prepared.spec.features],
      "in_memory": isinstance(histories(prepared), InMemory),
    }

  def tokens_per_s(self, count: int) -> float:
    """Of the next `count` batches."""
    # What was prepared while others had their turn does not count.
    for _ in range(_WARM_UP):
      next(self._batches)
    began = time.perf_counter()
    tokens = sum(map(_targets, itertools.islice(self._batches, count)))
    return tokens / (time.perf_counter() - began)


class Training:
  """The training step on the same few batches; a mesh must be in scope."""

  def __init__(self, experiment: Experiment, prepared: Prepared):
    data, run = experiment.data, experiment.run
    optimizer = make_optimizer(experiment.optim, total_steps=run.steps)
    self._step = make_step(experiment.objective, optimizer, seed=run.seed)
    self._state = make_state(make_model(experiment, prepared), optimizer)
    dataset = windows.training_batches(
      prepared, window=data.window, stride=data.stride, rows=data.rows, seed=0
    )
    here = jax.sharding.get_mesh()
    on_host = [dataset[t] for t in range(_WARM_UP)]
    self._tokens = itertools.cycle([_targets(batch) for batch in on_host])
    self._batches: Iterator[Batch] = itertools.cycle(
      [mesh.shard_batch(batch, here) for batch in on_host]
    )
    self.tokens_per_s(_WARM_UP)  # compiles

  def tokens_per_s(self, count: int) -> float:
    """Of the next `count` steps."""
    began = time.perf_counter()
    for batch in itertools.islice(self._batches, count):
      self._state, metrics = self._step(self._state, batch)
      jax.block_until_ready(metrics)
    seconds = time.perf_counter() - began
    return sum(itertools.islice(self._tokens, count)) / seconds


def summary(
  steps: Sequence[float], logs: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
  """Tokens per second of every turn, their medians and the ratios of these."""
  consumed = statistics.median(steps)
  delivered = {name: statistics.median(turns) for name, turns in logs.items()}
  return {
    "ratio": min(delivered.values()) / consumed,
    "ratios": {name: rate / consumed for name, rate in delivered.items()},
    "step_tokens_per_s": consumed,
    "input_tokens_per_s": delivered,
    "step_turns": list(steps),
    "input_turns": {name: list(turns) for name, turns in logs.items()},
  }


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.set_defaults(out=record.RESULTS / "input.json")
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--batches", type=int, default=200, help="a turn reads")
  parser.add_argument("--steps", type=int, default=10, help="a turn trains")
  asked = parser.parse_args(arguments)
  experiment = movielens_1m.sasrec_ce()
  movielens = ensure_prepared(experiment.data)
  readings = {
    "movielens_1m": Reading(movielens, experiment.data),
    "synthetic": _generated(SYNTHETIC, experiment.data),
    "synthetic_on_disk": _generated(LARGE, experiment.data),
  }
  steps: list[float] = []
  logs: dict[str, list[float]] = {name: [] for name in readings}
  with mesh.use(mesh.make_mesh()):
    training = Training(experiment, movielens)
    for turn in range(asked.turns):
      for name, reading in readings.items():
        logs[name].append(reading.tokens_per_s(asked.batches))
      steps.append(training.tokens_per_s(asked.steps))
      last = {"step": steps[-1], **{n: rates[-1] for n, rates in logs.items()}}
      said = ", ".join(f"{name} {rate:,.0f}" for name, rate in last.items())
      print(f"turn {turn + 1}, tokens/s: {said}", file=sys.stderr)
  found = {
    **summary(steps, logs),
    "shape": {"window": experiment.data.window, "rows": experiment.data.rows},
    "logs": {name: reading.facts for name, reading in readings.items()},
  }
  command = (
    f"{COMMAND} --turns {asked.turns} --batches {asked.batches}"
    f" --steps {asked.steps}"
  )
  record.write(asked.out, command=command, result=found)
  for name, rate in found["input_tokens_per_s"].items():
    print(f"{name}: {rate:,.0f} tokens/s, {found['ratios'][name]:.0f} × a step")


def _generated(source: Synthetic, data: DataConfig) -> Reading:
  return Reading(ensure_prepared(DataConfig(source=source)), data)


def _targets(batch: Batch) -> int:
  return int(np.count_nonzero(batch.weight_bt))


if __name__ == "__main__":
  main()

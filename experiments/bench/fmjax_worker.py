"""fmjax as a worker of a benchmark: its own training loop, a leg at a time.

What holds the loop between legs is an evaluator, for which it stops its clock
anyway; seconds and tokens are the totals that the loop itself logs.
"""

import functools
import json
import pathlib
import sys

import fmjax
from experiments.bench import protocol
from fmjax.config import Experiment, from_dict
from fmjax.data.store import Prepared, open_prepared
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.model.recommender import Recommender
from fmjax.scaling import count, records
from fmjax.train.log import read_metrics
from fmjax.train.loop import train


class Gate:
  """Called every `period` steps: says what they took, waits for more."""

  name = "gate"

  def __init__(
    self,
    wire: protocol.Wire,
    experiment: Experiment,
    prepared: Prepared,
    run_dir: pathlib.Path,
    *,
    period: int,
  ):
    self.period = period
    self._wire, self._run_dir = wire, run_dir
    self._experiment, self._prepared = experiment, prepared
    self._before = {"tokens": 0, "train_s": 0.0, "step": 0}
    self._cpu_before = protocol.cpu_s()

  def __call__(self, model: Recommender, step: int) -> dict[str, float]:
    logged = read_metrics(self._run_dir / "metrics.jsonl")
    now = next(record for record in reversed(logged) if "train_s" in record)
    assert now["step"] == step, (now, step)
    took = {name: now[name] - self._before[name] for name in self._before}
    self._wire.tell(
      seconds=took["train_s"],
      cpu_s=protocol.cpu_s() - self._cpu_before,
      tokens=took["tokens"],
      steps=took["step"],
      peak_rss_bytes=protocol.peak_rss_bytes(),
    )
    self._wire.wait(lambda: self._evaluate(model, step))
    self._before, self._cpu_before = now, protocol.cpu_s()
    return {}

  def _evaluate(self, model: Recommender, step: int) -> protocol.Answer:
    values = self._validation(model, step)
    users = len(self._prepared.index)
    return {"ndcg@10": values["validation/ndcg@10"], "users": users}

  @functools.cached_property
  def _validation(self) -> ValidationEvaluator:
    """Made when first asked for: its memory is no part of training's."""
    return ValidationEvaluator(
      self._prepared, self._experiment.data, period=self.period
    )


def main() -> None:
  settings = json.loads(sys.argv[1])
  wire = protocol.Wire()
  experiment = from_dict(settings["experiment"])
  prepared = open_prepared(settings["prepared"])
  run_dir = pathlib.Path(settings["run_dir"])
  parameters = count.parameters(
    experiment.model, prepared.spec, window=experiment.data.window
  )
  wire.tell(
    name="fmjax",
    version=fmjax.__version__,
    versions=records.versions(),
    devices=records.device(),
    catalog_items=prepared.spec.items - 1,  # without padding
    parameters=parameters.total,
    config=settings["experiment"],
  )
  gate = Gate(wire, experiment, prepared, run_dir, period=settings["leg"])
  wire.wait(_nothing_yet)
  train(experiment, prepared, run_dir, evaluators=[gate], name="bench")


def _nothing_yet() -> protocol.Answer:
  raise ValueError("fmjax's loop makes its model: train a leg, then evaluate")


if __name__ == "__main__":
  main()

"""The quickstart's smallest rung at fixed steps, on the shipped log.

The table changes only in a commit that means to change numbers (the model, the
loss, the optimizer, what the data pipeline delivers and in which order) and
says so. A refactoring that moves it has a mistake.
"""

import pathlib

import pytest

from fmjax.cli.experiment_file import load
from fmjax.config import override
from fmjax.data.prepare import prepare
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.train.log import read_metrics
from fmjax.train.loop import train

ROOT = pathlib.Path(__file__).parents[1]
LOSS = {
  1: 9.423249,
  10: 8.744453,
  20: 8.611469,
}  # nats, before the step's update
VALIDATION = {"validation/nll": 8.272599, "validation/ndcg@10": 0.0360227}


def test_the_quickstart_reaches_its_golden_numbers(tmp_path):
  file = load(f"{ROOT}/experiments/quickstart.py:d16", ())
  experiment = override(
    file.experiments["d16"],
    {
      "run.steps": 20,
      "run.evaluate_every": 20,
      "run.checkpoint_every": 20,
      "run.log_every": 1,
    },
  )
  data = experiment.data
  prepared = prepare(data.source, tmp_path / "data", split=data.split)
  evaluator = ValidationEvaluator(prepared, data, period=20)
  train(experiment, prepared, tmp_path / "run", evaluators=[evaluator])
  records = read_metrics(tmp_path / "run" / "metrics.jsonl")
  losses = {r["step"]: r["loss"] for r in records if "loss" in r}
  # XLA may order sums differently on another processor: 1e-4 allows for that.
  for step, loss in LOSS.items():
    assert losses[step] == pytest.approx(loss, rel=1e-4), step
  validation = records[-1]
  for metric, value in VALIDATION.items():
    assert validation[metric] == pytest.approx(value, rel=1e-3), metric

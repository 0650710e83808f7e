r"""What do the references of the ablations learn from a million tokens?

  fmjax sweep experiments/ablations.py --runs runs/ablations
  fmjax report experiments/ablations.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablations

Every `ablate_*.py` changes one part of these and is swept into the same folder:
there a reference is trained once for all of them. Where the reference of a data
set is larger, here it is the same but smaller, on fewer steps and with weaker
dropout and decay. Questions of ids are asked of models with an age gate.
"""

from collections.abc import Mapping
from typing import Any

from experiments import movielens_1m, movietweetings, synthetic
from fmjax.config import (
  AgeGate,
  CandidateAge,
  DataConfig,
  Experiment,
  FullSoftmax,
  ItemsConfig,
  KuaiRandPure,
  LogBucketBias,
  LogGap,
  ModelConfig,
  NoTime,
  OptimConfig,
  RunConfig,
  TemporalSplit,
  override,
)
from fmjax.scaling.reports.arms import arms

SEEDS = 3
TOKENS = 1_000_000  # positions of all batches together, targets or not
_EVALUATIONS = 3

Changes = Mapping[str, dict[str, Any]]  # by arm, dotted paths


def experiments() -> dict[str, Experiment]:
  return ablate({data: {} for data in REFERENCES["reference"]})


def ablate(
  changes: Mapping[str, Changes], *, of: str = "reference", seeds: int = SEEDS
) -> dict[str, Experiment]:
  """The references of some data sets, with all seeds, and their arms.

  What the reference is already, or an arm before, is no arm.

  Args:
    changes: by name of the data set and of the arm, what is overridden.
    of: what the reference is called: "reference", or "age_gate", with an age
      gate whatever mixer is best on the data set.
    seeds: of each arm.
  """
  experiments = {}
  for data, of_data in changes.items():
    base = reference(data, of)
    found: dict[str, Experiment] = {}
    for arm, change in of_data.items():
      changed = override(base, change)
      if changed not in (base, *found.values()):
        found[arm] = changed
    experiments |= arms(data, {of: base}, seeds=SEEDS)
    experiments |= arms(data, found, seeds=seeds)
  return experiments


def reference(data: str, name: str = "reference") -> Experiment:
  return within_budget(REFERENCES[name][data]())


def within_budget(experiment: Experiment) -> Experiment:
  """The experiment itself, or with as many steps as `TOKENS` allow."""
  steps = TOKENS // (experiment.data.rows * experiment.data.window)
  if experiment.run.steps <= steps:
    return experiment
  every = steps // _EVALUATIONS
  return override(
    experiment,
    {
      "run.steps": every * _EVALUATIONS,
      "run.evaluate_every": every,
      "run.checkpoint_every": every,
    },
  )


def kuairand() -> Experiment:
  """Short videos: histories of a few events, most of them no targets."""
  return Experiment(
    data=DataConfig(
      source=KuaiRandPure(),
      split=TemporalSplit(validation=0.05, test=0.1),
      window=64,
      stride=64,
      rows=32,
    ),
    model=ModelConfig(
      # Its features hold the hour and the weekday where its users live.
      time=NoTime(),
      relative_time=LogBucketBias(),
      gap=LogGap(),
      items=ItemsConfig(mixer=AgeGate(id_dropout=0.1), age=CandidateAge()),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(learning_rate=2e-3),
    run=RunConfig(steps=480, evaluate_every=160, checkpoint_every=160),
  )


def small_movielens() -> Experiment:
  """Half of the users; small batches, so that there are steps enough.

  Of six pairs of a learning rate of 2, 4 or 8 thousandths and a dropout of 0,
  0.1 or 0.2 validation chose this.
  """
  return override(
    movielens_1m.timed(),
    {"data.rows": 8, "model.dropout": 0.0, "optim.learning_rate": 8e-3},
  )


def small_synthetic() -> Experiment:
  """Half the width; what sees an epoch once needs less dropout."""
  return override(
    synthetic.reference(),
    {
      "model.width": 64,
      "model.heads": 4,
      "model.dropout": 0.1,
      "model.items.mixer.id_dropout": 0.1,
      "optim.weight_decay": 0.01,
    },
  )


REFERENCES = {
  "reference": {
    "synthetic": small_synthetic,
    "movietweetings": movietweetings.reference,
    "movielens_1m": small_movielens,
    "kuairand": kuairand,
  },
  "age_gate": {
    "synthetic": small_synthetic,
    "movietweetings": movietweetings.gated,
  },
}

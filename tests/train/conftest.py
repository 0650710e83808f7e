"""A small real log for training: synthetic, prepared once."""

import pytest

from fmjax.config import (
  AgeGate,
  CandidateAge,
  DataConfig,
  DynamicCounts,
  Experiment,
  ItemOnly,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  ModelConfig,
  NoGap,
  NoRelativeTime,
  NoTime,
  OptimConfig,
  RunConfig,
  Synthetic,
  override,
)
from fmjax.data.prepare import prepare


@pytest.fixture(scope="session")
def data() -> DataConfig:
  source = Synthetic(events=3_000, users=80, items=60, seed=1)
  return DataConfig(source=source, window=16, stride=16, rows=8)


@pytest.fixture(scope="session")
def prepared(data, tmp_path_factory):
  out = tmp_path_factory.mktemp("data") / "synthetic"
  return prepare(data.source, out)


@pytest.fixture(scope="session")
def experiment(data) -> Experiment:
  return Experiment(
    data=data,
    model=ModelConfig(
      width=16,
      layers=2,
      heads=2,
      dropout=0.1,
      relative_time=LogBucketBias(),
      gap=LogGap(),
      items=ItemsConfig(
        mixer=AgeGate(id_dropout=0.1),
        age=CandidateAge(),
        dynamics=DynamicCounts(),
      ),
    ),
    optim=OptimConfig(learning_rate=3e-3),
    run=RunConfig(steps=8, evaluate_every=4, checkpoint_every=2, log_every=1),
  )


@pytest.fixture(scope="session")
def small(experiment) -> Experiment:
  """The same items and run; of the rest as little as can be compiled."""
  return override(
    experiment,
    {
      "model.layers": 1,
      "model.features": ItemOnly(),
      "model.time": NoTime(),
      "model.relative_time": NoRelativeTime(),
      "model.gap": NoGap(),
    },
  )

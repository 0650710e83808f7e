"""A small real log for training: synthetic, prepared once."""

import pytest

from fmjax.config import (
  DataConfig,
  Experiment,
  ModelConfig,
  OptimConfig,
  RunConfig,
  Synthetic,
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
    model=ModelConfig(width=16, layers=2, heads=2, dropout=0.1),
    optim=OptimConfig(learning_rate=3e-3),
    run=RunConfig(steps=8, evaluate_every=4, checkpoint_every=2, log_every=1),
  )

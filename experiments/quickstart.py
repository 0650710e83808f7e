"""Does a larger backbone rank better on MovieTweetings?

  fmjax sweep experiments/quickstart.py
  fmjax report runs/quickstart --out runs/quickstart

A ladder on the log that ships with fmjax, small enough for two CPU cores.
"""

from fmjax.config import (
  DataConfig,
  Experiment,
  MovieTweetings,
  OptimConfig,
  RunConfig,
)
from fmjax.scaling.ladder import ladder

WIDTHS = (16, 32, 64, 96)  # a hundredfold in backbone parameters


def experiments() -> dict[str, Experiment]:
  return ladder(base(), WIDTHS)


def base() -> Experiment:
  return Experiment(
    data=DataConfig(source=MovieTweetings(), window=64, stride=64, rows=32),
    optim=OptimConfig(learning_rate=2e-3),
    run=RunConfig(steps=180, evaluate_every=30, checkpoint_every=60),
  )

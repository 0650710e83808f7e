"""Does a larger backbone rank better on MovieTweetings?

  fmjax sweep experiments/quickstart.py
  fmjax report runs/quickstart --out runs/quickstart

A ladder on the log that ships with fmjax, small enough for two CPU cores.
"""

from fmjax.config import (
  CalendarTime,
  DataConfig,
  Experiment,
  FullSoftmax,
  ModelConfig,
  MovieTweetings,
  OptimConfig,
  RunConfig,
  TemporalSplit,
)
from fmjax.scaling.ladder import ladder

WIDTHS = (16, 32, 64, 96)  # a hundredfold in backbone parameters


def experiments() -> dict[str, Experiment]:
  return ladder(base(), WIDTHS)


def base() -> Experiment:
  return Experiment(
    data=DataConfig(
      source=MovieTweetings(),
      # Tastes drift within weeks: a short validation part keeps the training
      # part near the test part.
      split=TemporalSplit(validation=0.05, test=0.1),
      window=64,
      stride=64,
      rows=32,
    ),
    # The log is eight months long: faster terms of the date than a year's
    # would have to extrapolate a cycle that they have not seen.
    model=ModelConfig(time=CalendarTime(slow_terms=1)),
    objective=FullSoftmax(chunk=128),
    optim=OptimConfig(learning_rate=2e-3),
    run=RunConfig(steps=200, evaluate_every=40, checkpoint_every=100),
  )

"""How much of what can be known does the whole model learn?

  fmjax sweep experiments/synthetic.py
  fmjax report experiments/synthetic.py --reference reference \
    --out runs/synthetic --result analysis/results/synthetic

On the synthetic streaming service the best possible answer to every query is
known (fmjax/data/readers/synthetic.py): no model can have a lower NLL than the
oracle but by luck. Between it and the best model without users, popularity by
age and hour, lies what a recommender can learn: more than a quarter of it from
events more than a hundred back, and as much from the age of titles.
"""

from fmjax.config import (
  AgeGate,
  CalendarTime,
  CandidateAge,
  DataConfig,
  DynamicCounts,
  Experiment,
  FullSoftmax,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  ModelConfig,
  OptimConfig,
  RunConfig,
  Synthetic,
  TemporalSplit,
)
from fmjax.scaling.reports.arms import arms

SEEDS = 3
CORPUS = Synthetic(events=1_000_000, users=2_500, items=5_000, days=120)


def experiments() -> dict[str, Experiment]:
  return arms("synthetic", {"reference": reference()}, seeds=SEEDS)


def reference() -> Experiment:
  return Experiment(
    data=DataConfig(
      source=CORPUS,
      split=TemporalSplit(validation=0.05, test=0.1),
      # Most users' whole history.
      window=512,
      stride=512,
      rows=4,
    ),
    model=ModelConfig(
      width=128,
      layers=2,
      heads=8,
      dropout=0.2,
      time=CalendarTime(slow_terms=0),
      relative_time=LogBucketBias(),
      gap=LogGap(),
      items=ItemsConfig(
        # In seven epochs ids would learn the log by heart.
        mixer=AgeGate(id_dropout=0.9),
        age=CandidateAge(),
        dynamics=DynamicCounts(),
      ),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(learning_rate=3e-3, weight_decay=0.1),
    # Which of the late steps ranks best on validation is luck: the last is it.
    run=RunConfig(steps=3_000, evaluate_every=3_000, checkpoint_every=300),
  )

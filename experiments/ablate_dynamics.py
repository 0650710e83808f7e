r"""What is it worth to know how new and how popular candidates are today?

  fmjax sweep experiments/ablate_dynamics.py --runs runs/ablations
  fmjax report experiments/ablate_dynamics.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_dynamics \
    --result analysis/results/ablate_dynamics

Candidates change by day: their age, and how often they were chosen lately. What
people like changes, too: the latest events may count more in training.

  no_age              candidates do not tell their age
  no_dynamics         candidates do not tell their counts
  recency_weighted    a target's weight halves every 30 days
  chronological_last  the last fifth of the steps goes in order of time
"""

from experiments import ablations
from fmjax.config import (
  ChronologicalLast,
  Experiment,
  NoAge,
  NoDynamics,
  RecencyWeighted,
)


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    dict.fromkeys(("synthetic", "movietweetings"), changes())
  )


def changes() -> ablations.Changes:
  age, dynamics, recency = (
    "model.items.age",
    "model.items.dynamics",
    "data.recency",
  )
  return {
    "no_age": {age: NoAge()},
    "no_dynamics": {dynamics: NoDynamics()},
    "recency_weighted": {recency: RecencyWeighted(half_life_days=30.0)},
    "chronological_last": {recency: ChronologicalLast(share=0.2)},
  }

r"""How well are films ranked that training never saw?

  fmjax sweep experiments/unseen.py
  fmjax report experiments/unseen.py --reference unseen --out runs/unseen \
    --result analysis/results/movielens_1m

MovieLens-1M has no new releases: its films are older than its ratings. So a
tenth of them is held out of training, drawn by id. Their ratings stay in
histories as input; as candidates they have genres and a year, no id and no
count. The slice `unseen` of the result is theirs, baselines beside it.
"""

from experiments import movielens_1m
from fmjax.config import Experiment
from fmjax.scaling.reports.arms import arms

SEEDS = 3


def experiments() -> dict[str, Experiment]:
  entries = {"unseen": movielens_1m.unseen()}
  return arms("movielens_1m", entries, seeds=SEEDS)

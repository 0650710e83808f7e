r"""Should a run of events on one item be one token?

  fmjax sweep experiments/ablate_granularity.py --runs runs/ablations
  fmjax report experiments/ablate_granularity.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_granularity \
    --result analysis/results/ablate_granularity

A person plays, pauses and plays on: events, or one viewing? 2.9 % of KuaiRand's
events repeat the item before within the hour; .02 % of Globo's do, too few to
tell. Both arms answer for the queries that they share: the same user, second
and item.

  runs  adjacent events on one item, an hour apart at most, are one token
"""

from experiments import ablations
from fmjax.config import Experiment, RunTokens


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(dict.fromkeys(("synthetic", "kuairand"), changes()))


def changes() -> ablations.Changes:
  return {"runs": {"data.granularity": RunTokens(max_gap_s=3_600)}}

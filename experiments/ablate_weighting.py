r"""Should what was played longer teach more?

  fmjax sweep experiments/ablate_weighting.py --runs runs/ablations
  fmjax report experiments/ablate_weighting.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_weighting \
    --result analysis/results/ablate_weighting

To the reference every target is as important as any other. All arms are asked
for every target of the test alike: weights are for training.

  log_duration  a target counts by the logarithm of its seconds, an hour at most
  completion    by the share that was played
"""

from experiments import ablations
from fmjax.config import Completion, Experiment, LogDuration

_PLAYED = {"synthetic": "completion", "kuairand": "watch_ratio"}


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    {data: changes(played) for data, played in _PLAYED.items()}
  )


def changes(played: str) -> ablations.Changes:
  return {
    "log_duration": {"data.weighting": LogDuration()},
    "completion": {"data.weighting": Completion(feature=played)},
  }

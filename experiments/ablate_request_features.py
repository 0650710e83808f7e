r"""What is it worth to know where and on what people ask?

  fmjax sweep experiments/ablate_request_features.py --runs runs/ablations
  fmjax report experiments/ablate_request_features.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_request_features \
    --result analysis/results/ablate_request_features

Request-time features are known before the item is: the surface, the device, the
locale. Of KuaiRand also who asks, and the hour and weekday, which it tells as
features. MovieTweetings has none beside the time.

  post_action_only  only what became of past events is told
"""

from experiments import ablations
from fmjax.config import Experiment, PostActionOnly


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(dict.fromkeys(("synthetic", "kuairand"), changes()))


def changes() -> ablations.Changes:
  return {"post_action_only": {"model.features": PostActionOnly()}}

r"""Does it help to predict more of the next item than which one it is?

  fmjax sweep experiments/ablate_heads.py --runs runs/ablations
  fmjax report experiments/ablate_heads.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_heads \
    --result analysis/results/ablate_heads

The reference predicts the item alone.

  auxiliary       heads of their own for the item's genres and for what the
                  person will do (MovieTweetings: the rating)
  by_language     the item is predicted among those of a predicted language
                  (synthetic service)
  by_genre        the genres' probabilities are added to the item's logit
                  (MovieTweetings, whose films have several)

Every attribute and every field has a tenth of the item's weight in the loss.
"""

from experiments import ablations
from fmjax.config import Auxiliary, Experiment, HierarchicalItems

AUXILIARY = {
  "synthetic": ("genre", "language", "action", "duration_ms"),
  "movietweetings": ("genre", "rating"),
}
_WEIGHT = 0.1  # of each
_HIERARCHY = {"synthetic": "language", "movietweetings": "genre"}


def experiments() -> dict[str, Experiment]:
  return ablations.ablate({data: changes(data) for data in AUXILIARY})


def changes(data: str) -> ablations.Changes:
  targets, attribute = AUXILIARY[data], _HIERARCHY[data]
  return {
    "auxiliary": {
      "model.auxiliary": Auxiliary(
        targets=targets, weight=_WEIGHT * len(targets)
      )
    },
    f"by_{attribute}": {
      "model.hierarchy": HierarchicalItems(attribute=attribute, weight=_WEIGHT)
    },
  }

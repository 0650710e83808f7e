r"""How many ids should a training step go without?

  fmjax sweep experiments/ablate_id_dropout.py --runs runs/ablations
  fmjax report experiments/ablate_id_dropout.py --runs runs/ablations \
    --reference age_gate --out runs/ablations/ablate_id_dropout \
    --result analysis/results/ablate_id_dropout

In every step some items are metadata alone, so that these learn to stand for
items that nobody has met. The share that the age gate drops is no arm: a tenth
on the synthetic service, nine tenths on MovieTweetings.

  id_dropout_0, id_dropout_10, id_dropout_30, id_dropout_90   percent of items
"""

from experiments import ablations
from fmjax.config import Experiment


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    dict.fromkeys(("synthetic", "movietweetings"), changes()), of="age_gate"
  )


def changes() -> ablations.Changes:
  return {
    f"id_dropout_{percent}": {"model.items.mixer.id_dropout": percent / 100}
    for percent in (0, 10, 30, 90)
  }

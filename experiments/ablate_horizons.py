r"""Does it help to predict more than the next token?

  fmjax sweep experiments/ablate_horizons.py --runs runs/ablations
  fmjax report experiments/ablate_horizons.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_horizons \
    --result analysis/results/ablate_horizons

The reference predicts the next token; the arms the next two or four, with
half the weight on all that come after the next.
"""

from experiments import ablations
from fmjax.config import Experiment, MultiToken

HORIZONS = (2, 4)


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    dict.fromkeys(("synthetic", "movielens_1m"), changes())
  )


def changes() -> ablations.Changes:
  return {
    f"horizons_{n}": {"model.horizons": MultiToken(horizons=n, weight=0.5)}
    for n in HORIZONS
  }

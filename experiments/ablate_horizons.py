r"""Does it help to predict more than the next token?

  fmjax sweep experiments/ablate_horizons.py --runs runs/ablations
  fmjax report experiments/ablate_horizons.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_horizons \
    --result analysis/results/ablate_horizons

The reference predicts the next token; the arms the next four or, on
MovieLens-1M, two, with half the weight on all that come after the next.
"""

from experiments import ablations
from fmjax.config import Experiment, MultiToken

HORIZONS = {"synthetic": (4,), "movielens_1m": (2, 4)}


def experiments() -> dict[str, Experiment]:
  return ablations.ablate({data: changes(data) for data in HORIZONS})


def changes(data: str) -> ablations.Changes:
  return {
    f"horizons_{n}": {"model.horizons": MultiToken(horizons=n, weight=0.5)}
    for n in HORIZONS[data]
  }

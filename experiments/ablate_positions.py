r"""Should positions be learned or rotate queries and keys?

  fmjax sweep experiments/ablate_positions.py --runs runs/ablations
  fmjax report experiments/ablate_positions.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_positions \
    --result analysis/results/ablate_positions

The reference adds a learned embedding of the position in the window.

  rotary  queries and keys are rotated by position: attention sees differences
"""

from experiments import ablations
from fmjax.config import Experiment, RotaryPositions


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    dict.fromkeys(("synthetic", "movielens_1m"), changes())
  )


def changes() -> ablations.Changes:
  return {"rotary": {"model.positions": RotaryPositions()}}

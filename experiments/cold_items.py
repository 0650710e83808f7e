r"""Does a larger model rank new titles better, with metadata and without?

  fmjax sweep experiments/cold_items.py --jobs 2
  fmjax report experiments/cold_items.py --out runs/cold_items

The ladder of parameters_data.py at one length of training, and once more with
items that are their id alone. A title that was never trained on then has its
age and its counts, and nothing that tells whom it is for.

  metadata-dW  age-gated id and metadata
  ids-dW       ids
"""

from experiments import parameters_data
from fmjax.config import Experiment, IdOnly, override
from fmjax.scaling.ladder import ladder, train_on

WIDTHS = parameters_data.WIDTHS
TOKENS = 2_000_000


def experiments() -> dict[str, Experiment]:
  base = train_on(parameters_data.base(), TOKENS)
  arms = {"metadata": {}, "ids": {"model.items.mixer": IdOnly()}}
  return {
    f"{arm}-{name}": experiment
    for arm, changes in arms.items()
    for name, experiment in ladder(override(base, changes), WIDTHS).items()
  }

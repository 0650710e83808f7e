r"""Does a larger model rank new titles better, with metadata and without?

  fmjax sweep experiments/cold_items.py --jobs 2
  for width in 16 32 48 64 128 192; do
    fmjax report runs/cold_items/synthetic-*_d$width-s0-* \
      --reference ids_d$width --out runs/cold_items/report_d$width \
      --result analysis/results/cold_items
  done

The ladder of parameters_data.py at one length of training, and once more with
items that are their id alone. A title that was never trained on then has its
age and its counts, and nothing that tells whom it is for.

  metadata_dW  age-gated id and metadata
  ids_dW       ids
"""

from experiments import parameters_data
from fmjax.config import Experiment, IdOnly, override
from fmjax.scaling.ladder import ladder, train_on
from fmjax.scaling.reports.arms import arms

WIDTHS = parameters_data.WIDTHS
TOKENS = 2_000_000


def experiments() -> dict[str, Experiment]:
  base = train_on(parameters_data.base(), TOKENS)
  changes = {"metadata": {}, "ids": {"model.items.mixer": IdOnly()}}
  entries = {
    f"{arm}_{name}": experiment
    for arm, change in changes.items()
    for name, experiment in ladder(override(base, change), WIDTHS).items()
  }
  return arms("synthetic", entries, seeds=1)

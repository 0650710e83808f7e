r"""Does a larger model rank new titles better, with metadata and without?

  fmjax sweep experiments/cold_items.py --jobs 2
  fmjax report experiments/cold_items.py --reference ids \
    --out runs/cold_items --result analysis/results/cold_items

The ladder of parameters_data.py at one length of training, and once more with
items that are their id alone. A title that was never trained on then has its
age and its counts, and nothing that tells whom it is for.

  metadata  age-gated id and metadata
  ids       ids
"""

from experiments import parameters_data
from fmjax.config import Experiment, IdOnly, override
from fmjax.scaling.ladder import ladder, train_on
from fmjax.scaling.reports.arms import arms

WIDTHS = parameters_data.WIDTHS
TOKENS = 2_000_000  # a length of that grid, so its runs are half of these


def experiments() -> dict[str, Experiment]:
  base = train_on(parameters_data.base(), TOKENS)
  return {
    name: experiment
    for size, rung in ladder(base, WIDTHS).items()
    for name, experiment in arms(
      f"synthetic_{size}",
      {
        "metadata": rung,
        "ids": override(rung, {"model.items.mixer": IdOnly()}),
      },
      seeds=1,
    ).items()
  }

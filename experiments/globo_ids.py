r"""How often should an article go without its id?

  fmjax sweep experiments/globo_ids.py --runs runs/globo
  fmjax report experiments/globo_ids.py --runs runs/globo \
    --reference reference --out runs/globo/ids \
    --result analysis/results/globo_ids

The smallest model of globo.py at its longest training. What an id learns of
news is old within a day; an article without its id has the age and the counts
of now.

  id_dropout_0, id_dropout_90  percent of items, drawn every step
  rate_8                       the learning rate of parameters_data.py, 8e-3
"""

from experiments import globo
from fmjax.config import Experiment, override
from fmjax.scaling.ladder import rung, train_on
from fmjax.scaling.reports.arms import arms

_CHANGES = {
  "reference": {},
  "id_dropout_0": {"model.items.mixer.id_dropout": 0.0},
  "id_dropout_90": {"model.items.mixer.id_dropout": 0.9},
  "rate_8": {"optim.learning_rate": 8e-3},
}


def experiments() -> dict[str, Experiment]:
  base = rung(train_on(globo.base(), max(globo.TOKENS)), min(globo.WIDTHS))
  entries = {name: override(base, change) for name, change in _CHANGES.items()}
  return arms("globo", entries, seeds=1)

r"""Is the whole model better than SASRec where a log has an order alone?

  fmjax sweep experiments/movielens_order.py
  fmjax report experiments/movielens_order.py --reference sasrec_ce \
    --out runs/movielens_order --result analysis/results/movielens_1m

MovieLens-1M, leave-last-out, the file that SASRec was evaluated on, seen items
filtered: no times, so no calendar, no ages and no counts. The reference has
gated blocks and knows the films' genres and years; `sasrec_ce` is the published
SASRec with full cross-entropy (experiments/movielens_1m.py).
"""

from experiments import movielens_1m
from fmjax.config import (
  Experiment,
  GatedBlock,
  ItemsConfig,
  SumMixer,
  override,
)
from fmjax.scaling.reports.arms import arms

SEEDS = 3
_EPOCHS = 48


def experiments() -> dict[str, Experiment]:
  entries = {"reference": reference(), "sasrec_ce": movielens_1m.sasrec_ce()}
  return arms("movielens_1m", entries, seeds=SEEDS)


def reference() -> Experiment:
  """Chosen on validation."""
  steps = _EPOCHS * movielens_1m.EPOCH
  return override(
    movielens_1m.sasrec_ce(),
    {
      "model.block": GatedBlock(),
      "model.heads": 2,
      "model.dropout": 0.2,
      "model.items": ItemsConfig(mixer=SumMixer()),
      "run.steps": steps,
      "run.evaluate_every": 4 * movielens_1m.EPOCH,
      "run.checkpoint_every": 4 * movielens_1m.EPOCH,
    },
  )

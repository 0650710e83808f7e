r"""What lets a recommender's transformer be deep?

  fmjax sweep experiments/ablate_depth.py --runs runs/ablations
  fmjax report experiments/ablate_depth.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_depth \
    --result analysis/results/ablate_depth

The reference has two blocks with gated residuals. Published SASRecs collapse at
eight blocks, and gates are said to prevent it. Eight blocks are dear, so the
synthetic service has one seed.

  plain_2           two blocks, x + f(x)
  sasrec_2          two blocks of SASRec
  gated_8, plain_8, sasrec_8
                    eight
"""

from experiments import ablations
from fmjax.config import (
  Experiment,
  GatedBlock,
  GatedResidual,
  PlainResidual,
  SasrecBlock,
)

_BLOCKS = {
  "gated": GatedBlock(residual=GatedResidual()),
  "plain": GatedBlock(residual=PlainResidual()),
  "sasrec": SasrecBlock(),
}


def experiments() -> dict[str, Experiment]:
  return {
    **ablations.ablate({"synthetic": changes()}, seeds=1),
    **ablations.ablate({"movielens_1m": changes()}),
  }


def changes() -> ablations.Changes:
  return {
    f"{name}_{layers}": {"model.block": block, "model.layers": layers}
    for layers in (2, 8)
    for name, block in _BLOCKS.items()
  }

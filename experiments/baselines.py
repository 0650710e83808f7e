r"""Where do the models of the literature stand when all have the same parts?

  fmjax sweep experiments/baselines.py
  fmjax report experiments/baselines.py --reference sasrec_ce \
    --out runs/baselines --result analysis/results/baselines

MovieLens-1M, leave-last-out, the file that SASRec was evaluated on, seen items
filtered. Each is a frozen configuration and answers to a published number
(`PUBLISHED`). Widths, depths, heads and dropout are as published. Ours are the
batches (packed rows: a step has the tokens of about 128 padded ones), the rate
of 2e-3, which rises at first and then falls, and the decay of AdamW.

  sasrec_bce  one negative a token, any item but the target; published: one that
              the user has not met
  sasrec_ce   softmax over the catalog
  gsasrec     gBCE against 256 negatives a token; published with an output table
              of its own, here with one for both sides
  bert4rec    a fifth of the items hidden, read in both directions; published
              with GELU and the norm after each half of a block, here with
              SwiGLU and the norm before
  hstu        pointwise attention with a bias of position, without time;
              published with time and 128 sampled negatives, here with all items
"""

import dataclasses

from experiments import movielens_1m
from fmjax.config import (
  BidirectionalAttention,
  BinaryCrossEntropy,
  Experiment,
  GatedBlock,
  GeneralizedBce,
  HstuBlock,
  Masked,
  PlainResidual,
  override,
)
from fmjax.scaling.reports.arms import arms

EPOCH = movielens_1m.EPOCH
SASREC_SEEDS = 3  # of the one that all are compared with
_EVALUATIONS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """What others report of a model, test, full ranking, seen filtered.

  Attributes:
    hr: HR@10.
    ndcg: NDCG@10.
    source: repository.
    steps: that it took there, if they say so.
  """

  hr: float
  ndcg: float
  source: str
  steps: int | None = None


_ANTKLEN = "github.com/antklen/sasrec-bert4rec-recsys23"
PUBLISHED = {
  "sasrec_bce": Published(hr=0.2500, ndcg=0.1341, source=_ANTKLEN),
  "sasrec_ce": Published(hr=0.3152, ndcg=0.1821, source=_ANTKLEN),
  "gsasrec": Published(
    hr=0.3003,
    ndcg=0.1726,
    source="github.com/asash/gSASRec-pytorch",
    steps=86_064,
  ),
  "bert4rec": Published(hr=0.2843, ndcg=0.1537, source=_ANTKLEN),
  "hstu": Published(
    hr=0.3097,
    ndcg=0.1720,
    source="github.com/facebookresearch/generative-recommenders",
  ),
}


def experiments() -> dict[str, Experiment]:
  entries = {
    "sasrec_bce": sasrec_bce(),
    "gsasrec": gsasrec(),
    "bert4rec": bert4rec(),
    "hstu": hstu(),
  }
  reference = {"sasrec_ce": movielens_1m.sasrec_ce()}
  return {
    **arms("movielens_1m", reference, seeds=SASREC_SEEDS),
    **arms("movielens_1m", entries, seeds=1),
  }


def sasrec_bce() -> Experiment:
  return _trained(
    movielens_1m.sasrec_ce(),
    {"objective": BinaryCrossEntropy(negatives=1)},
    epochs=120,
  )


def gsasrec() -> Experiment:
  return _trained(
    movielens_1m.sasrec_ce(),
    {
      "objective": GeneralizedBce(negatives=256, calibration=0.75),
      "model.width": 128,
      "model.dropout": 0.5,
    },
    epochs=36,
  )


def bert4rec() -> Experiment:
  return _trained(
    movielens_1m.sasrec_ce(),
    {
      "model.reading": Masked(share=0.2),
      "model.attention": BidirectionalAttention(),
      "model.block": GatedBlock(residual=PlainResidual()),
      "model.heads": 2,
    },
    epochs=120,
  )


def hstu() -> Experiment:
  return _trained(
    movielens_1m.sasrec_ce(),
    {
      "model.block": HstuBlock(),
      "model.width": 50,
      "model.dropout": 0.2,
    },
    epochs=48,
  )


def _trained(base: Experiment, changes: dict, *, epochs: int) -> Experiment:
  every = epochs // _EVALUATIONS * EPOCH
  return override(
    base,
    {
      **changes,
      "run.steps": _EVALUATIONS * every,
      "run.evaluate_every": every,
      "run.checkpoint_every": every,
    },
  )

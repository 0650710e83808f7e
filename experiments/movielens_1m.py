"""Does fmjax reach the published SASRec with full cross-entropy?

  fmjax train experiments/movielens_1m.py:sasrec_ce

MovieLens-1M, the file of SASRec, leave-last-out, seen items filtered. The
published run (antklen/sasrec-bert4rec-recsys23, "SASRec+") has test HR@10 .3152
and NDCG@10 .1821.
"""

from fmjax.config import (
  DataConfig,
  EventTokens,
  Experiment,
  FullAttention,
  FullSoftmax,
  IdOnly,
  ItemOnly,
  LeaveLastOut,
  ModelConfig,
  MovieLensSasrec,
  NoTime,
  OptimConfig,
  RunConfig,
  SasrecBlock,
)

_EPOCH = 77  # steps: 987,531 training tokens in packed rows of 200, 64 a batch
_EPOCHS = 24


def experiments() -> dict[str, Experiment]:
  return {"sasrec_ce": sasrec_ce()}


def sasrec_ce() -> Experiment:
  """The published width, depth, heads, dropout, context and loss."""
  return Experiment(
    data=DataConfig(
      source=MovieLensSasrec(),
      granularity=EventTokens(),
      split=LeaveLastOut(),
      window=200,
      stride=200,
      rows=64,  # full rows: the tokens of about 128 padded ones
    ),
    model=ModelConfig(
      width=64,
      layers=2,
      heads=1,
      dropout=0.1,
      features=ItemOnly(),
      time=NoTime(),
      mixer=IdOnly(),
      attention=FullAttention(),
      block=SasrecBlock(),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(learning_rate=2e-3, warmup=0.02),
    run=RunConfig(
      steps=_EPOCHS * _EPOCH,
      evaluate_every=4 * _EPOCH,
      checkpoint_every=4 * _EPOCH,
    ),
  )

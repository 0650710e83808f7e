"""Does fmjax reach what is published on MovieLens-1M, and what is time worth?

  fmjax train experiments/movielens_1m.py:sasrec_ce
  fmjax train experiments/movielens_1m.py:timed

Leave-last-out, seen items filtered. `sasrec_ce` is the published SASRec with
full cross-entropy (antklen/sasrec-bert4rec-recsys23, "SASRec+": test HR@10
.3152, NDCG@10 .1821) on the file of SASRec, which has no times. `timed` is the
whole model on the ratings of users 1 to 2,999, which have theirs; it answers to
RecTools' HSTU with query time, on the same rows (experiments/bench/
peer_quality.py). `unseen` is `timed` on films that training never saw
(experiments/unseen.py).
"""

from fmjax.config import (
  AgeGate,
  CalendarTime,
  CosineDecay,
  DataConfig,
  EventTokens,
  Experiment,
  FullAttention,
  FullSoftmax,
  HeldOutItems,
  IdOnly,
  ItemOnly,
  ItemsConfig,
  LeaveLastOut,
  LogBucketBias,
  LogGap,
  ModelConfig,
  MovieLens,
  MovieLensSasrec,
  NoTime,
  OptimConfig,
  RunConfig,
  SasrecBlock,
  override,
)

EPOCH = 77  # steps: 987,531 training tokens in packed rows of 200, 64 a batch
_EPOCHS = 24
_TIMED_EPOCH = 42  # steps: 481,652 training tokens, likewise
_TIMED_EPOCHS = 40


def experiments() -> dict[str, Experiment]:
  return {"sasrec_ce": sasrec_ce(), "timed": timed()}


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
      items=ItemsConfig(mixer=IdOnly()),
      attention=FullAttention(),
      block=SasrecBlock(),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(learning_rate=2e-3, schedule=CosineDecay(warmup=0.02)),
    run=RunConfig(
      steps=_EPOCHS * EPOCH,
      evaluate_every=4 * EPOCH,
      checkpoint_every=4 * EPOCH,
    ),
  )


def unseen() -> Experiment:
  """`timed`, but training never saw a tenth of the films: only their metadata.

  Without `id_dropout` every film that is a target would have an id. With more
  of it unseen films rank no better on validation, and the others worse.
  """
  return override(
    timed(),
    {
      "model.items.mixer.id_dropout": 0.2,
      "data.held_out": HeldOutItems(share=0.1),
    },
  )


def timed() -> Experiment:
  """All that the log tells: of films genres and year, so their age; of users
  gender, age and occupation; the time of the query; the ratings given before.
  """
  steps = _TIMED_EPOCHS * _TIMED_EPOCH
  return Experiment(
    data=DataConfig(
      source=MovieLens(),
      granularity=EventTokens(),
      split=LeaveLastOut(),
      window=200,
      stride=200,
      rows=64,
    ),
    model=ModelConfig(
      width=64,
      layers=2,
      heads=2,
      dropout=0.2,
      time=CalendarTime(slow_terms=1),
      relative_time=LogBucketBias(),
      gap=LogGap(),
      items=ItemsConfig(mixer=AgeGate(id_dropout=0.0)),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(learning_rate=2e-3, schedule=CosineDecay(warmup=0.02)),
    run=RunConfig(
      steps=steps,
      evaluate_every=2 * _TIMED_EPOCH,
      checkpoint_every=4 * _TIMED_EPOCH,
    ),
  )

r"""How does the loss fall with parameters and data?

  fmjax sweep experiments/parameters_data.py --jobs 2
  fmjax report experiments/parameters_data.py --out runs/parameters_data

On the synthetic streaming service, whose irreducible loss is known: six
widths, a hundredfold in backbone parameters, by five lengths of training. No
token is seen twice. The lengths of a rung branch off one stable run; what moves
the loss beside size and data is told by three seeds of the two smallest rungs
and two of the others.
"""

from fmjax.config import (
  AgeGate,
  Auxiliary,
  CalendarTime,
  CandidateAge,
  DataConfig,
  DynamicCounts,
  Experiment,
  FullSoftmax,
  GatedBlock,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  MaximalUpdate,
  ModelConfig,
  OptimConfig,
  PlainResidual,
  RunConfig,
  StableDecay,
  Synthetic,
  TemporalSplit,
)
from fmjax.scaling.ladder import grid

WIDTHS = (16, 32, 48, 64, 128, 192)
TOKENS = (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
SEEDS = {16: 3, 32: 3}  # of cheap rungs; of the others two


def experiments() -> dict[str, Experiment]:
  return {
    name: experiment
    for width in WIDTHS
    for name, experiment in grid(
      base(), widths=[width], tokens=TOKENS, seeds=SEEDS.get(width, 2)
    ).items()
  }


def base() -> Experiment:
  return Experiment(
    data=DataConfig(
      # More events than any run sees. Of one profile: of twelve, all hangs on
      # finding what the one that asks has watched, and narrow models take long
      # to learn how.
      source=Synthetic(
        events=5_000_000, users=2_500, items=2_000, days=180, profiles=1
      ),
      # All targets are asked for, thirty of a user.
      split=TemporalSplit(validation=0.01, test=0.015),
      window=256,
      stride=256,
      rows=4,
    ),
    model=ModelConfig(
      width=16,
      layers=2,
      heads=1,
      dropout=0.0,  # no token is seen twice
      # The better ones at two layers (ablate_depth.py).
      block=GatedBlock(residual=PlainResidual()),
      time=CalendarTime(slow_terms=0),
      relative_time=LogBucketBias(),
      gap=LogGap(),
      items=ItemsConfig(
        mixer=AgeGate(id_dropout=0.1),
        age=CandidateAge(),
        dynamics=DynamicCounts(),
      ),
      auxiliary=Auxiliary(targets=("genre", "action"), weight=0.2),
      # One rate for all widths; mup_transfer.py asks whether it is the best.
      scale=MaximalUpdate(base_width=16),
    ),
    objective=FullSoftmax(chunk=256),
    optim=OptimConfig(
      learning_rate=8e-3, schedule=StableDecay(), weight_decay=0.0
    ),
    run=RunConfig(
      steps=1_000, evaluate_every=1_000, checkpoint_every=250, targets="all"
    ),
  )

r"""What does it cost to train against a few negatives, and what corrects it?

  fmjax sweep experiments/ablate_loss.py --runs runs/ablations
  fmjax report experiments/ablate_loss.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_loss \
    --result analysis/results/ablate_loss

The reference has the softmax over the whole catalog; the arms see 256 negatives
a step, or 32 a token. logQ takes from a negative's logit what its proposal
prefers it by; without it popular items are pushed down, and all negatives
together weigh less against the target.

  mixed         sampled softmax: half of the negatives are any items, half are
                drawn by popularity; logQ in full
  mixed_logq_0  the same without logQ
  in_batch      the batch's targets (MovieLens-1M)
  gbce          each token against negatives of its own (MovieLens-1M)
"""

from experiments import ablations
from fmjax.config import (
  Experiment,
  GeneralizedBce,
  InBatchProposal,
  MixedProposal,
  Objective,
  SampledSoftmax,
)

_SHARED = 256  # negatives of a step
_OWN = 32  # of a token
OBJECTIVES: dict[str, Objective] = {
  "mixed": SampledSoftmax(negatives=_SHARED, proposal=MixedProposal()),
  "mixed_logq_0": SampledSoftmax(
    negatives=_SHARED, proposal=MixedProposal(), logq=0.0
  ),
  "in_batch": SampledSoftmax(negatives=_SHARED, proposal=InBatchProposal()),
  "gbce": GeneralizedBce(negatives=_OWN),
}


def experiments() -> dict[str, Experiment]:
  found = {arm: {"objective": loss} for arm, loss in OBJECTIVES.items()}
  small = {arm: found[arm] for arm in ("mixed", "mixed_logq_0")}
  return ablations.ablate({"synthetic": small, "movielens_1m": found})

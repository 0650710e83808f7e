"""What cannot run is refused before any work, with what to use instead."""

import pytest

from fmjax.config import (
  Auxiliary,
  BidirectionalAttention,
  ConfigError,
  Experiment,
  FullAttention,
  FusedAttention,
  GeneralizedBce,
  HierarchicalItems,
  HstuBlock,
  ItemOnly,
  LogBucketBias,
  LogDuration,
  LowRankAttention,
  Masked,
  MixedProposal,
  MultiToken,
  NoTime,
  RotaryPositions,
  SampledSoftmax,
  SometimesNeutral,
  WindowAttention,
  override,
  validate,
)

ATTENTION, BLOCK = "model.attention", "model.block"
MASKED = {
  "model.reading": Masked(),
  ATTENTION: BidirectionalAttention(),
  "model.features": ItemOnly(),
  "model.time": NoTime(),
}


@pytest.mark.parametrize(
  "changes",
  [
    MASKED,
    {ATTENTION: LowRankAttention(block=16, rank=16)},
    {ATTENTION: WindowAttention(span=64), BLOCK: HstuBlock()},
    {"model.horizons": MultiToken(horizons=64)},
    {"model.positions": RotaryPositions()},
  ],
  ids=str,
)
def test_what_can_run_is_not_refused(changes):
  validate(override(Experiment(), changes))


@pytest.mark.parametrize(
  "changes,sentence",
  [
    (
      {ATTENTION: LowRankAttention(block=24)},
      "model.attention.block=24 does not divide data.window=64",
    ),
    (
      {ATTENTION: LowRankAttention(block=32)},
      "no slot is ever read; use FullAttention(), or a smaller block",
    ),
    (
      {ATTENTION: LowRankAttention(block=8, rank=9)},
      "model.attention.rank=9 exceeds model.attention.block=8",
    ),
    ({ATTENTION: WindowAttention(span=0)}, "span=0 is not positive"),
    (
      {ATTENTION: WindowAttention(span=65)},
      "exceeds data.window=64: every position is seen; use FullAttention()",
    ),
    (
      {ATTENTION: FusedAttention(), "model.relative_time": LogBucketBias()},
      "has no bias for",
    ),
    (
      {
        "model.width": 6,
        "model.heads": 2,
        "model.positions": RotaryPositions(),
      },
      "use fewer heads, or LearnedPositions()",
    ),
    (
      {BLOCK: HstuBlock(), ATTENTION: LowRankAttention()},
      "needs FullAttention() or WindowAttention()",
    ),
    (
      {BLOCK: HstuBlock(), "model.positions": RotaryPositions()},
      "use LearnedPositions()",
    ),
    ({**MASKED, BLOCK: HstuBlock()}, "use GatedBlock() or SasrecBlock()"),
    ({ATTENTION: BidirectionalAttention()}, "need each other"),
    ({**MASKED, ATTENTION: FullAttention()}, "need each other"),
    ({**MASKED, "model.reading": Masked(share=1.0)}, "share=1.0 is not in"),
    (
      {**MASKED, "model.relative_time": LogBucketBias()},
      "shows its item alone; use NoRelativeTime()",
    ),
    (
      {**MASKED, "model.request": SometimesNeutral(names=("surface",))},
      "use AsLogged()",
    ),
    ({**MASKED, "model.horizons": MultiToken()}, "use NextToken()"),
    ({"model.horizons": MultiToken(horizons=1)}, "fewer than 2; use NextToken"),
    (
      {"model.horizons": MultiToken(horizons=65)},
      "model.horizons.horizons=65 exceeds data.window=64",
    ),
    ({"model.horizons": MultiToken(weight=-0.1)}, "weight=-0.1 is negative"),
    (
      {"model.auxiliary": Auxiliary(targets=("genre", "genre"))},
      "each once; for none use NoAuxiliary()",
    ),
    (
      {
        "model.auxiliary": Auxiliary(targets=("genre",)),
        "model.hierarchy": HierarchicalItems(attribute="genre"),
      },
      "predicts already; leave it out of one",
    ),
    (
      {
        "model.hierarchy": HierarchicalItems(attribute="genre"),
        "objective": SampledSoftmax(),
      },
      "use FullSoftmax()",
    ),
    ({"model.request": SometimesNeutral(names=())}, "for none use AsLogged()"),
    ({"objective": SampledSoftmax(logq=1.5)}, "objective.logq=1.5 is not in"),
    (
      {"objective": SampledSoftmax(proposal=MixedProposal(uniform=-0.5))},
      "objective.proposal.uniform=-0.5 is not in",
    ),
    (
      {
        "objective": SampledSoftmax(
          negatives=128, proposal=MixedProposal(uniform=0.003)
        )
      },
      "is 0 of them and mixes nothing; use PopularityProposal()",
    ),
    (
      {"objective": SampledSoftmax(proposal=MixedProposal(uniform=1.0))},
      "is 128 of them and mixes nothing; use UniformProposal()",
    ),
    (
      {"objective": GeneralizedBce(calibration=2.0)},
      "objective.calibration=2.0 is not in",
    ),
    ({"objective": GeneralizedBce(negatives=0)}, "negatives=0 is not positive"),
    ({"data.weighting": LogDuration(cap_s=0)}, "cap_s=0 is not positive"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_run_is_one_sentence_with_a_remedy(changes, sentence):
  with pytest.raises(ConfigError) as error:
    validate(override(Experiment(), changes))
  assert sentence in str(error.value)
  assert "\n" not in str(error.value)

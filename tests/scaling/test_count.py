import itertools

import jax
import numpy as np
import pytest

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  AllFeatures,
  Auxiliary,
  BidirectionalAttention,
  BinaryCrossEntropy,
  CalendarTime,
  CandidateAge,
  ConcatMixer,
  DataConfig,
  DynamicCounts,
  Experiment,
  FixedGate,
  FullSoftmax,
  FusedAttention,
  GatedBlock,
  GeneralizedBce,
  HierarchicalItems,
  HstuBlock,
  IdOnly,
  InBatchProposal,
  ItemOnly,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  LowRankAttention,
  Masked,
  MetadataOnly,
  MixedProposal,
  ModelConfig,
  MultiToken,
  NoRemat,
  NoTime,
  Objective,
  PlainResidual,
  PopularityProposal,
  PostActionOnly,
  RematBlocks,
  RematElementwise,
  RotaryPositions,
  SampledSoftmax,
  SasrecBlock,
  SomeMetadata,
  SumMixer,
  WindowAttention,
  override,
)
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind, When
from fmjax.scaling import count
from fmjax.scaling.abstract import abstract_step
from fmjax.scaling.traced import jaxpr_flops, xla_flops


@pytest.fixture(autouse=True)
def one_device():
  with mesh.use(mesh.make_mesh()):
    yield


def field(
  name: str, kind: Kind, when: When = When.POST_ACTION, log=False, **sizes
):
  feature = Feature(name=name, kind=kind, when=when, log=log)
  return Encoded(feature=feature, **sizes)


RICH = DataSpec(
  items=300,
  features=(
    field("action", Kind.BAG, size=5, values=2),
    field("duration_ms", Kind.NUMERIC, log=True),
    field("seen_at", Kind.TIMESTAMP),
    field("tab", Kind.CATEGORICAL, When.REQUEST, size=7),
    field("hour", Kind.NUMERIC, When.REQUEST),
    field("profile", Kind.VECTOR, When.REQUEST, size=6),
  ),
  metadata=(
    field("genres", Kind.BAG, size=9, values=3),
    field("minutes", Kind.NUMERIC, log=True),
    field("year", Kind.NUMERIC),
    field("language", Kind.CATEGORICAL, size=4),
    field("uploaded", Kind.TIMESTAMP),
    field("text", Kind.VECTOR, size=5),
  ),
)
# No lookup tables: numbers are data, so fewer products have gradients.
NUMBERS = DataSpec(
  items=129,
  features=(field("duration_ms", Kind.NUMERIC),),
  metadata=(field("text", Kind.VECTOR, size=5),),
)
BARE = DataSpec(items=50)

MODELS = {
  "gated": ModelConfig(width=16, layers=3, heads=2),
  "gated, ids only": ModelConfig(
    width=24,
    layers=1,
    heads=1,
    features=ItemOnly(),
    items=ItemsConfig(mixer=IdOnly()),
    block=GatedBlock(feed_forward=1.5),
  ),
  "gated, no time": ModelConfig(width=16, layers=2, heads=4, time=NoTime()),
  "sasrec": ModelConfig(
    width=16,
    layers=2,
    heads=1,
    features=ItemOnly(),
    time=NoTime(),
    items=ItemsConfig(mixer=IdOnly()),
    block=SasrecBlock(),
  ),
  "gated, relative time": ModelConfig(
    width=16,
    layers=2,
    heads=4,
    features=PostActionOnly(),
    time=NoTime(),
    relative_time=LogBucketBias(buckets=8),
    gap=LogGap(buckets=5),
  ),
  "fused attention": ModelConfig(
    width=16, layers=2, heads=2, attention=FusedAttention()
  ),
  "sasrec, everything": ModelConfig(
    width=16,
    layers=1,
    heads=2,
    features=AllFeatures(),
    time=CalendarTime(slow_terms=2),
    relative_time=LogBucketBias(buckets=5),
    gap=LogGap(),
    items=ItemsConfig(mixer=SumMixer()),
    block=SasrecBlock(),
  ),
}
# What differs between these is the backbone: one specification is enough.
BACKBONES = {
  "window": ModelConfig(
    width=16, layers=2, heads=2, attention=WindowAttention(span=40)
  ),
  "low rank": ModelConfig(
    width=16,
    layers=1,
    heads=2,
    attention=LowRankAttention(block=5, rank=3),
    relative_time=LogBucketBias(buckets=5),
    positions=RotaryPositions(),
  ),
  "bidirectional": ModelConfig(
    width=16,
    layers=1,
    heads=2,
    features=ItemOnly(),
    time=NoTime(),
    attention=BidirectionalAttention(),
    reading=Masked(),
  ),
  "plain residuals": ModelConfig(
    width=16, layers=2, heads=2, block=GatedBlock(residual=PlainResidual())
  ),
  "hstu": ModelConfig(
    width=16,
    layers=2,
    heads=2,
    block=HstuBlock(),
    relative_time=LogBucketBias(buckets=5),
  ),
  "hstu, window": ModelConfig(
    width=16,
    layers=1,
    heads=2,
    block=HstuBlock(),
    attention=WindowAttention(span=3),
  ),
}
SPECS = {"rich": RICH, "numbers": NUMBERS, "bare": BARE}
each_case = pytest.mark.parametrize(
  "model,spec",
  list(itertools.product(MODELS.values(), SPECS.values())),
  ids=[f"{m} on {s}" for m, s in itertools.product(MODELS, SPECS)],
)


OBJECTIVES = (
  FullSoftmax(chunk=8),
  SampledSoftmax(negatives=5),
  BinaryCrossEntropy(negatives=2),
)
# Where negatives come from is no matrix product, nor is what targets count.
TWINS = (
  *(
    (SampledSoftmax(negatives=5, proposal=proposal), OBJECTIVES[1])
    for proposal in (
      PopularityProposal(),
      InBatchProposal(),
      MixedProposal(uniform=0.4),
    )
  ),
  (GeneralizedBce(negatives=2), OBJECTIVES[2]),
)


ITEMS = (
  ItemsConfig(mixer=MetadataOnly(), dynamics=DynamicCounts()),
  ItemsConfig(mixer=SumMixer(id_dropout=0.1), age=CandidateAge()),
  ItemsConfig(mixer=ConcatMixer(), metadata=SomeMetadata(names=("text",))),
  ItemsConfig(mixer=FixedGate()),
  ItemsConfig(mixer=AgeGate()),
  ItemsConfig(
    mixer=AgeGate(id_dropout=0.0), age=CandidateAge(), dynamics=DynamicCounts()
  ),
)


def experiment(
  model: ModelConfig,
  *,
  objective: Objective = OBJECTIVES[0],
  window: int = 8,
) -> Experiment:
  return Experiment(
    data=DataConfig(rows=4, window=window, stride=window),
    model=model,
    objective=objective,
  )


def step_flops(
  model: ModelConfig,
  spec: DataSpec,
  *,
  objective: Objective = OBJECTIVES[0],
  rows: int = 4,
  window: int = 8,
  looks: int = 0,
) -> count.StepFlops:
  return count.step_flops(
    model, spec, objective=objective, rows=rows, window=window, looks=looks
  )


HEADS = ("horizons", "auxiliary", "hierarchy")


def by_part(sizes: dict[str, int]) -> dict[str, int]:
  return {
    "item_tables": sizes["items"],
    "features": sizes["events"],
    "backbone": sizes["blocks"] + sizes["final_norm"],
    "head": sum(sizes.get(part, 0) for part in HEADS),
    "total": sum(sizes.values()),
  }


@each_case
def test_parameters_equal_those_of_the_abstract_model(model, spec):
  step = abstract_step(experiment(model), spec)
  counted = count.parameters(model, spec, window=8)
  assert counted.to_dict() == by_part(step.part_sizes())


def assert_counted(config: Experiment, spec: DataSpec):
  step = abstract_step(config, spec)
  counted = step_flops(
    config.model,
    spec,
    objective=config.objective,
    window=config.data.window,
    looks=step.looks,
  )
  assert jaxpr_flops(step.loss, step.params, step.batch) == (
    counted.forward.total
  )
  assert jaxpr_flops(step.gradient, step.params, step.batch) == (
    counted.executed.total
  )


@each_case
def test_flops_equal_the_matrix_products_of_the_jaxpr(model, spec):
  assert_counted(experiment(model), spec)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_counted(name):
  # Several blocks of far queries, and none at all.
  for window in (8, 300):
    config = experiment(BACKBONES[name], window=window)
    assert_counted(config, BARE)
    counted = count.parameters(config.model, BARE, window=window)
    sizes = abstract_step(config, BARE).part_sizes()
    assert counted.to_dict() == by_part(sizes)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_flops_of_every_objective_are_those_of_its_jaxpr(objective, spec):
  assert_counted(experiment(MODELS["gated"], objective=objective), spec)


@pytest.mark.parametrize("objective,twin", TWINS, ids=str)
def test_proposals_and_calibration_cost_no_matrix_products(objective, twin):
  model = ModelConfig(width=16, layers=1, heads=2, items=ITEMS[1])
  assert_counted(experiment(model, objective=objective), RICH)
  one, other = (
    step_flops(model, RICH, objective=o, looks=1) for o in (objective, twin)
  )
  assert one == other


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("items", ITEMS, ids=str)
def test_every_mixer_is_counted(items, objective):
  model = ModelConfig(width=16, layers=1, heads=2, items=items)
  spec = NUMBERS if items.mixer == AgeGate() else RICH
  config = experiment(model, objective=objective)
  assert_counted(config, spec)
  counted = count.parameters(model, spec, window=8)
  assert counted.to_dict() == by_part(abstract_step(config, spec).part_sizes())


EVERY_KIND = Auxiliary(targets=("action", "duration_ms", "language"))


@pytest.mark.parametrize(
  "heads",
  [
    {"horizons": MultiToken(horizons=3), "auxiliary": EVERY_KIND},
    {"hierarchy": HierarchicalItems(attribute="language")},
    {
      "horizons": MultiToken(horizons=2),
      "hierarchy": HierarchicalItems(attribute="genres"),
    },
  ],
  ids=lambda heads: "-".join(heads),
)
def test_what_else_is_predicted_is_counted(heads):
  items = ItemsConfig(mixer=AgeGate(), metadata=SomeMetadata(names=("text",)))
  model = ModelConfig(width=16, layers=1, heads=2, items=items, **heads)
  assert_counted(experiment(model), RICH)
  sizes = abstract_step(experiment(model), RICH).part_sizes()
  counted = count.parameters(model, RICH, window=8)
  assert counted.to_dict() == by_part(sizes)
  assert counted.head > 0


def test_further_horizons_of_a_sampled_loss_are_counted():
  model = ModelConfig(
    width=16, layers=1, heads=2, horizons=MultiToken(horizons=3)
  )
  assert_counted(experiment(model, objective=OBJECTIVES[1]), NUMBERS)


@pytest.mark.parametrize(
  "remat", [NoRemat(), RematElementwise(), RematBlocks()], ids=str
)
def test_what_remat_computes_again_is_executed_but_no_cost_of_the_model(remat):
  for stored in (
    MODELS["gated"],
    MODELS["sasrec"],
    BACKBONES["plain residuals"],
    BACKBONES["hstu"],
    BACKBONES["low rank"],
  ):
    model = override(stored, {"remat": remat})
    assert_counted(experiment(model), BARE)
    assert step_flops(model, BARE).model == step_flops(stored, BARE).model


@pytest.mark.parametrize("window", [63, 65, 200, 2_000])
def test_attention_is_counted_by_its_blocks_of_queries(window):
  model = MODELS["sasrec"]
  assert_counted(experiment(model, window=window), BARE)
  products = 2 * 2 * 2 * 4 * window**2 * 16  # two layers, every pair
  counted = step_flops(model, BARE, window=window).forward.attention
  projections = 2 * 2 * 4 * window * 4 * 16**2
  blocks = min(16, -(-window // 64))
  share = (counted - projections) / products
  assert share == pytest.approx(1 / 2 + 1 / 2 / blocks, rel=0.01)


def test_flops_do_not_depend_on_how_the_softmax_is_cut():
  model = MODELS["gated"]
  steps = [
    abstract_step(experiment(model, objective=FullSoftmax(chunk=chunk)), RICH)
    for chunk in (4, 32)
  ]
  one, other = (jaxpr_flops(s.gradient, s.params, s.batch) for s in steps)
  assert one == other


def test_xla_counts_what_the_formula_does_and_the_additions_beside_it():
  model = ModelConfig(width=64, layers=3, heads=2)
  config = experiment(model)
  step = abstract_step(config, RICH)
  exact = step_flops(model, RICH).executed.total
  xla = xla_flops(step.gradient, step.params, step.batch)
  assert 0.9 * exact < xla < 1.2 * exact


def test_parts_add_up_and_scale_with_the_batch():
  model = ModelConfig(width=32, layers=2, heads=2)
  params = count.parameters(model, RICH, window=8).to_dict()
  total = params.pop("total")
  assert total == sum(params.values())
  one = step_flops(model, RICH).model
  two = step_flops(model, RICH, rows=8).model
  assert two.attention == 2 * one.attention
  assert two.head == 2 * one.head
  # The catalog is embedded once a step, whatever the batch.
  assert one.embedders < two.embedders < 2 * one.embedders


def test_six_nd_uses_the_backbone():
  params = count.Parameters(item_tables=10**9, features=7, backbone=1_000)
  assert count.six_nd(params, tokens=50) == 300_000


def test_the_backbone_of_a_gated_block_is_what_its_matrices_hold():
  # Four d×d projections and two d×d gates are 6·d²; f = 88 for d = 32.
  params = count.parameters(
    ModelConfig(width=32, layers=1, heads=2), BARE, window=8
  )
  assert params.backbone == 6 * 32**2 + 3 * 32 * 88 + 3 * 32


def test_counting_builds_nothing():
  before = jax.live_arrays()
  huge = ModelConfig(width=65_536, layers=96, heads=512)
  spec = DataSpec(items=100_000_000)
  assert count.parameters(huge, spec, window=8_192).backbone > 5e12
  flops = step_flops(huge, spec, rows=512, window=8_192)
  assert np.isfinite(float(flops.model.total))
  assert len(jax.live_arrays()) == len(before)

"""Exact parameter and FLOP counts of an experiment, from its config alone.

Nothing is built: `fmjax list` counts a ladder at once. Tests hold every formula
to `jax.eval_shape` and to the matrix products in the jaxpr (traced.py).

A product of [m, k] and [k, n] is 2·m·k·n FLOPs. Lookups are no products:
formulas that count an embedding lookup as one distort small models. Padding
positions are computed like any other, so a step costs the same however full its
rows are.
"""

import dataclasses

from fmjax.config import (
  AgeGate,
  Attention,
  BidirectionalAttention,
  BinaryCrossEntropy,
  ConcatMixer,
  FullAttention,
  FullSoftmax,
  FusedAttention,
  GatedBlock,
  GatedResidual,
  GeneralizedBce,
  HierarchicalItems,
  HstuBlock,
  LearnedPositions,
  LogBucketBias,
  LowRankAttention,
  ModelConfig,
  MultiToken,
  NextToken,
  NoRemat,
  Objective,
  PlainResidual,
  RematBlocks,
  RematElementwise,
  SampledSoftmax,
  SasrecBlock,
  WindowAttention,
)
from fmjax.data.schema import DataSpec, Encoded, Kind
from fmjax.model import (
  age,
  auxiliary,
  daily,
  features,
  hierarchy,
  items,
  mixers,
  readout,
)
from fmjax.model.attention import query_blocks
from fmjax.model.block import feed_forward_width
from fmjax.model.low_rank import far_queries
from fmjax.model.window import chunking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
  """Trained numbers by part; the five counts of every report.

  Attributes:
    item_tables: id rows, metadata tables and their projection, the mixer, and
      directions of what changes by day.
    features: event embedder: tables of features, projections, start token,
      positions.
    backbone: blocks and the last norm: the x axis of a scaling figure.
    head: maps of further horizons, and readouts of fields and of the items'
      attribute. The item head itself is tied to the item tables.
  """

  item_tables: int
  features: int
  backbone: int
  head: int = 0

  @property
  def total(self) -> int:
    return self.item_tables + self.features + self.backbone + self.head

  def to_dict(self) -> dict[str, int]:
    return {**dataclasses.asdict(self), "total": self.total}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
  """Matrix-product FLOPs of one call, by part.

  Attributes:
    embedders: event and item embedder, of tokens and of the whole catalog.
    attention: the projections, and queries by keys by values; what the blocks
      of queries compute is counted, masked or not.
    feed_forward: with its gates.
    head: logits over the whole catalog, or over the negatives that all tokens
      share, and what else states predict. A logit of one item alone is no
      matrix product.
  """

  embedders: int = 0
  attention: int = 0
  feed_forward: int = 0
  head: int = 0

  @property
  def total(self) -> int:
    return self.embedders + self.attention + self.feed_forward + self.head

  def to_dict(self) -> dict[str, int]:
    return {**dataclasses.asdict(self), "total": self.total}

  def __add__(self, other: "Flops") -> "Flops":
    mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
    return Flops(**{part: mine[part] + theirs[part] for part in mine})

  def times(self, factor: int) -> "Flops":
    parts = dataclasses.asdict(self)
    return Flops(**{part: factor * value for part, value in parts.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFlops:
  """FLOPs of one training step.

  Attributes:
    forward: the loss of a batch.
    backward: its gradient: a product whose two sides both need one costs twice
      itself, one that multiplies plain data costs once itself.
    recomputed: what the backward pass computes a second time to save memory.
      Executed, but no part of the model's cost.
  """

  forward: Flops
  backward: Flops
  recomputed: Flops

  @property
  def model(self) -> Flops:
    """What the model costs to train, recomputation left out."""
    return self.forward + self.backward

  @property
  def executed(self) -> Flops:
    """What the jaxpr of the gradient executes."""
    return self.forward + self.backward + self.recomputed


def parameters(
  model: ModelConfig, spec: DataSpec, *, window: int
) -> Parameters:
  """Parameters by part, equal to those of `Recommender`."""
  d = model.width
  metadata = mixers.metadata_fields(model.items, spec)
  item_tables = _tables(metadata) + _width(metadata) * d
  if mixers.has_ids(model.items.mixer):
    item_tables += items.padded_rows(spec.items) * d
  match model.items.mixer:
    case ConcatMixer():
      item_tables += 2 * d * d
    case AgeGate():
      item_tables += (age.BUCKETS + 2) * mixers.GATE_WIDTH
  if read := daily.features_width(model.items):
    hidden, values = daily.HIDDEN, daily.VALUES
    item_tables += (read + 1) * hidden + hidden * values + values * d

  request, previous = features.event_fields(model, spec)
  event_width = _width(request) + _width(previous) + features.clock_width(model)
  event = _tables(request) + _tables(previous) + event_width * d
  event += d  # start token
  if isinstance(model.positions, LearnedPositions):
    event += window * d

  match model.block:
    case GatedBlock() as block:
      f = feed_forward_width(block, d)
      # Queries, keys, values and output; three matrices; two norms of a scale.
      layer = 4 * d * d + 3 * d * f + 2 * d
      if isinstance(block.residual, GatedResidual):
        layer += 2 * d * d
      final_norm = d
    case SasrecBlock():
      # The same without gates, with biases, and norms of a scale and a bias.
      layer = (4 * d * d + 4 * d) + (2 * d * d + 2 * d) + 4 * d
      final_norm = 2 * d
    case HstuBlock():
      # One matrix inward and one outward; two norms of a scale and a bias.
      layer = 5 * d * d + 4 * d
      final_norm = 2 * d
      match model.attention:
        case WindowAttention(span=distances):
          pass
        case _:
          distances = window
      layer += model.heads * distances
  match model.attention:
    case LowRankAttention(block=length, rank=rank):
      layer += 2 * model.heads * rank * length
  if isinstance(model.relative_time, LogBucketBias):
    layer += model.heads * model.relative_time.buckets
  return Parameters(
    item_tables=item_tables,
    features=event,
    backbone=model.layers * layer + final_norm,
    head=_head(model, spec),
  )


def step_flops(
  model: ModelConfig,
  spec: DataSpec,
  *,
  objective: Objective,
  rows: int,
  window: int,
  looks: int = 0,
) -> StepFlops:
  """FLOPs of a training step.

  Args:
    model: the model's choices.
    spec: what the data holds.
    objective: what is trained for.
    rows: in a batch.
    window: positions of a row.
    looks: of candidates (`model.daily`), which depend on the log; reading them
      is far below a percent of a step.
  """
  n, d = rows * window, model.width
  forward, backward = Flops(), Flops()

  def add(part: str, flops: int, *, gradients: int):
    nonlocal forward, backward
    forward += Flops(**{part: flops})
    backward += Flops(**{part: gradients * flops})

  def add_fields(fields: tuple[Encoded, ...], count: int, extra: int = 0):
    """Bags averaged, then everything projected."""
    for field in fields:
      if field.feature.kind == Kind.BAG:
        # The weights of a bag's values are data.
        flops = 2 * count * field.values * features.FIELD_WIDTH
        add("embedders", flops, gradients=1)
    width = _width(fields) + extra
    # Without tables the projected numbers are data: only the projection has a
    # gradient.
    both = 1 + (_tables(fields) > 0)
    add("embedders", 2 * count * width * d, gradients=both)

  # States that predict items: a token has one for each horizon.
  s = n * _horizons(model)
  # Items whose embeddings the loss asks for, and candidates of every state.
  match objective:
    case FullSoftmax():
      v = items.padded_rows(spec.items)
      embedded, candidates, pairs_each = (v,), v, 1
    case SampledSoftmax(negatives=q):
      embedded, candidates, pairs_each = (s, q), q, 1
    case BinaryCrossEntropy(negatives=q) | GeneralizedBce(negatives=q):
      embedded, candidates, pairs_each = (s,) * (1 + q), 0, 1 + q
  metadata = mixers.metadata_fields(model.items, spec)
  for count in (n, *embedded):
    if metadata:
      add_fields(metadata, count)
    if isinstance(model.items.mixer, ConcatMixer):
      add("embedders", 2 * count * 2 * d * d, gradients=2)
  request, previous = features.event_fields(model, spec)
  add_fields(previous, n)
  add_fields(request, n, extra=features.clock_width(model))

  pairs = _pairs(model.attention, window=window)
  for _ in range(model.layers):
    match model.block:
      case GatedBlock() as block:
        f = feed_forward_width(block, d)
        projections, hidden = 4 * d * d, 3 * d * f
        if isinstance(block.residual, GatedResidual):
          projections, hidden = projections + d * d, hidden + d * d
      case SasrecBlock():
        projections, hidden = 4 * d * d, 2 * d * d
      case HstuBlock():
        projections, hidden = 5 * d * d, 0
    add("attention", 2 * n * projections, gradients=2)
    add("attention", 2 * 2 * rows * pairs * d, gradients=2)
    add("feed_forward", 2 * n * hidden, gradients=2)

  # What an age gate weighs is a product of its own.
  products = 2 if isinstance(model.items.mixer, AgeGate) else 1
  add("head", products * 2 * s * d * candidates, gradients=2)
  if read := daily.features_width(model.items):
    values = daily.VALUES
    for _ in embedded:
      add("embedders", 2 * looks * read * daily.HIDDEN, gradients=1)
      add("embedders", 2 * looks * daily.HIDDEN * values, gradients=2)
    add("embedders", pairs_each * 2 * s * values * d, gradients=2)
    if candidates:
      add("head", 2 * s * d * values, gradients=2)
      add("head", 2 * s * values * candidates, gradients=2)
  add("head", 2 * (s - n) * d * d, gradients=2)
  for field, _ in auxiliary.targets_of(model.auxiliary, spec):
    add("head", 2 * n * d * readout.readout_size(field), gradients=2)
  match model.hierarchy:
    case HierarchicalItems() as hierarchical:
      size = hierarchy.classes(hierarchical, spec)
      # Of the target's logit, and of the attribute's own loss.
      add("head", 2 * (s + n) * d * size, gradients=2)
      if hierarchy.attribute_field(hierarchical, spec).feature.kind == Kind.BAG:
        # Every candidate's: which values it has is data.
        add("head", 2 * s * d * size, gradients=2)
        add("head", 2 * s * size * candidates, gradients=1)
  match model.remat:
    case NoRemat() | RematElementwise():
      recomputed = Flops()
    case RematBlocks():
      recomputed = Flops(
        attention=forward.attention, feed_forward=forward.feed_forward
      )
      # Without a gate nothing but the sum reads the last product of a block.
      match model.block:
        case GatedBlock(residual=PlainResidual()) as block:
          f = feed_forward_width(block, d)
          last = Flops(feed_forward=2 * n * f * d)
        case GatedBlock():
          last = Flops()
        case SasrecBlock():
          last = Flops(feed_forward=2 * n * d * d)
        case HstuBlock():
          last = Flops(attention=2 * n * d * d)
      recomputed += last.times(-model.layers)
  return StepFlops(forward=forward, backward=backward, recomputed=recomputed)


def six_nd(parameters: Parameters, *, tokens: int) -> int:
  """6·N·D with the backbone's N: the count most published laws are drawn on."""
  return 6 * parameters.backbone * tokens


def _horizons(model: ModelConfig) -> int:
  match model.horizons:
    case NextToken():
      return 1
    case MultiToken(horizons=horizons):
      return horizons


def _head(model: ModelConfig, spec: DataSpec) -> int:
  d = model.width
  total = (_horizons(model) - 1) * d * d
  for field, _ in auxiliary.targets_of(model.auxiliary, spec):
    total += (d + 1) * readout.readout_size(field)
  match model.hierarchy:
    case HierarchicalItems() as hierarchical:
      total += (d + 1) * hierarchy.classes(hierarchical, spec)
  return total


def _pairs(attention: Attention, *, window: int) -> int:
  """Pairs of positions of a row that are computed, masked or not.

  A pair costs a product for its weight and one for its value. Of summary slots
  this is two products over the positions of two blocks.
  """
  match attention:
    case FullAttention():
      return sum((end - start) * end for start, end in query_blocks(window))
    case FusedAttention() | BidirectionalAttention():
      # Fused: what XLA computes; cuDNN's kernel does about half.
      return window**2
    case WindowAttention(span=span):
      return _band(window, span)
    case LowRankAttention(block=length, rank=rank):
      slots = -(-window // length) * rank
      far = sum(
        (end - start) * chunks * rank
        for start, end, chunks in far_queries(window, length)
      )
      return _band(window, 2 * length) + far + slots * 2 * length


def _band(window: int, span: int) -> int:
  size, back = chunking(window, span)
  return -(-window // size) * size * (back + 1) * size


def _tables(fields: tuple[Encoded, ...]) -> int:
  """Parameters in the lookup tables of categoricals and bags."""
  return sum(
    field.size * features.FIELD_WIDTH
    for field in fields
    if field.feature.kind in (Kind.CATEGORICAL, Kind.BAG)
  )


def _width(fields: tuple[Encoded, ...]) -> int:
  """Of the fields side by side, before the projection."""
  return sum(features.field_width(field) for field in fields)

"""A small world for the model: features of every kind, a batch, a mesh."""

import functools

import numpy as np
import pytest
from flax import nnx
from item_world import moved

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  CandidateAge,
  ConcatMixer,
  DynamicCounts,
  FixedGate,
  FullAttention,
  FusedAttention,
  GatedBlock,
  HstuBlock,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  LowRankAttention,
  ModelConfig,
  NoRelativeTime,
  PlainResidual,
  RotaryPositions,
  SasrecBlock,
  WindowAttention,
)
from fmjax.data.batch import Batch
from fmjax.data.catalog import Catalog, Daily
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind, When
from fmjax.model.recommender import Recommender

ITEMS, ROWS, WINDOW = 40, 2, 8
BLOCKS = (
  GatedBlock(),
  GatedBlock(residual=PlainResidual()),
  SasrecBlock(),
  HstuBlock(),
)


@pytest.fixture(autouse=True)
def single_device_mesh():
  with mesh.use(mesh.make_mesh()):
    yield


def encoded(name, kind, when=When.POST_ACTION, *, log=False, **sizes):
  feature = Feature(name=name, kind=kind, when=when, log=log)
  return Encoded(feature=feature, **sizes)


def make_spec() -> DataSpec:
  return DataSpec(
    items=ITEMS,
    features=(
      encoded("action", Kind.BAG, size=5, values=3),
      encoded("rating", Kind.NUMERIC),
      encoded("watched_ms", Kind.NUMERIC, log=True),
      encoded("mood", Kind.VECTOR, size=3),
      encoded("seen_at", Kind.TIMESTAMP),
      encoded("device", Kind.CATEGORICAL, When.REQUEST, size=7),
      encoded("interests", Kind.BAG, When.REQUEST, size=6, values=2),
      encoded("age", Kind.NUMERIC, When.REQUEST),
      encoded("joined", Kind.TIMESTAMP, When.REQUEST),
      encoded("profile", Kind.VECTOR, When.REQUEST, size=4),
    ),
    metadata=(
      encoded("genre", Kind.BAG, size=9, values=4),
      encoded("year", Kind.CATEGORICAL, size=12),
      encoded("minutes", Kind.NUMERIC, log=True),
      encoded("text", Kind.VECTOR, size=6),
    ),
  )


def make_catalog(spec: DataSpec) -> Catalog:
  rng = np.random.default_rng(0)
  v = spec.items
  untrained = np.arange(v) % 7 == 0
  return Catalog(
    item_ids=np.array([str(row) for row in range(v)], dtype=object),
    titles=np.array([f"title {row}" for row in range(v)], dtype=object),
    launch_us_v=np.zeros(v, np.int64),
    launch_declared_v=np.zeros(v, bool),
    first_seen_us_v=np.zeros(v, np.int64),
    train_count_v=np.where(untrained, 0, 3).astype(np.int32),
    metadata={
      "genre": rng.integers(0, 9, (v, 4)).astype(np.int32),
      "year": rng.integers(0, 12, v).astype(np.int32),
      "minutes": rng.normal(size=v).astype(np.float32),
      "text": rng.normal(size=(v, 6)).astype(np.float32),
    },
    daily=Daily(
      day=np.array([0], np.int32),
      item=np.array([1], np.int32),
      events=np.array([1], np.int32),
    ),
  )


SPEC = make_spec()
CATALOG = make_catalog(SPEC)


@pytest.fixture
def spec() -> DataSpec:
  return SPEC


@pytest.fixture
def catalog() -> Catalog:
  return CATALOG


def features(rng, specs, shape):
  """Random values of declared features, missing ones among them."""
  values = {}
  for field in specs:
    name = field.feature.name
    match field.feature.kind:
      case Kind.CATEGORICAL:
        values[name] = rng.integers(0, field.size, shape).astype(np.int32)
      case Kind.BAG:
        bag = (*shape, field.values)
        values[name] = rng.integers(0, field.size, bag).astype(np.int32)
        values[f"{name}_count"] = rng.integers(1, 4, bag).astype(np.float32)
      case Kind.NUMERIC:
        value = rng.normal(size=shape).astype(np.float32)
        values[name] = np.where(rng.random(shape) < 0.3, np.nan, value)
      case Kind.TIMESTAMP:
        known = rng.integers(1_300_000_000, 1_400_000_000, shape)
        missing = rng.random(shape) < 0.3
        values[name] = np.where(missing, 0, known).astype(np.int32)
      case Kind.VECTOR:
        wide = (*shape, field.size)
        values[name] = rng.normal(size=wide).astype(np.float32)
  return values


def make_batch(spec, *, rows=ROWS, window=WINDOW, seed=0) -> Batch:
  """Rows of one full window each: whole histories of `window` tokens."""
  rng = np.random.default_rng(seed)
  shape = (rows, window)
  item_bt = rng.integers(1, spec.items, shape).astype(np.int32)
  position_bt = np.tile(np.arange(window, dtype=np.int32), (rows, 1))
  previous = features(rng, spec.known_at(When.POST_ACTION), shape)
  previous = {
    name: np.where(
      position_bt.reshape(*shape, *[1] * (value.ndim - 2)) == 0, 0, value
    ).astype(value.dtype)
    for name, value in previous.items()
  }
  previous_item_bt = np.zeros_like(item_bt)
  previous_item_bt[:, 1:] = item_bt[:, :-1]
  time_bt = np.sort(rng.integers(13e8, 14e8, shape), axis=1).astype(np.int32)
  previous_time_bt = np.zeros_like(time_bt)
  previous_time_bt[:, 1:] = time_bt[:, :-1]
  request = features(rng, spec.known_at(When.REQUEST), shape)
  return Batch(
    item_bt=item_bt,
    weight_bt=np.ones(shape, np.float32),
    segment_bt=np.ones(shape, np.int32),
    position_bt=position_bt,
    time_bt=time_bt,
    user_bt=np.tile(np.arange(rows, dtype=np.int32)[:, None], (1, window)),
    index_bt=position_bt,
    request={k: v for k, v in request.items() if not k.endswith("_count")},
    previous={
      "item": previous_item_bt,
      "time": previous_time_bt,
      **previous,
    },
  )


@pytest.fixture
def batch_of(spec):
  return functools.partial(make_batch, spec)


@pytest.fixture
def batch(batch_of) -> Batch:
  return batch_of()


@pytest.fixture(params=BLOCKS, ids=str)
def block(request):
  return request.param


def reading(block, attention, **choices) -> ModelConfig:
  defaults = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "relative_time": LogBucketBias(),
    "gap": LogGap(),
  }
  return ModelConfig(block=block, attention=attention, **(defaults | choices))


# Every block, every causal attention, both kinds of positions, and every mixer
# of ids with metadata; a model is slow to compile.
READING = (
  reading(GatedBlock(), FullAttention()),
  reading(
    GatedBlock(),
    FusedAttention(),
    relative_time=NoRelativeTime(),
    items=ItemsConfig(
      mixer=AgeGate(), age=CandidateAge(), dynamics=DynamicCounts()
    ),
  ),
  reading(
    SasrecBlock(),
    WindowAttention(span=3),
    positions=RotaryPositions(),
    items=ItemsConfig(mixer=ConcatMixer()),
  ),
  reading(
    GatedBlock(residual=PlainResidual()),
    LowRankAttention(block=2, rank=1),
    positions=RotaryPositions(),
    items=ItemsConfig(mixer=FixedGate()),
  ),
  reading(HstuBlock(), WindowAttention(span=3)),
  reading(HstuBlock(), FullAttention()),
)


@pytest.fixture(
  params=READING,
  ids=lambda config: "-".join(
    type(part).__name__ for part in (config.block, config.attention)
  ),
)
def config(request) -> ModelConfig:
  return request.param


@pytest.fixture(scope="session")
def reading_models() -> tuple[ModelConfig, ...]:
  return READING


@functools.cache
def fresh(config: ModelConfig) -> Recommender:
  return Recommender(
    config, SPEC, CATALOG, window=WINDOW, rngs=nnx.Rngs(params=0)
  )


@functools.cache
def trained(config: ModelConfig) -> Recommender:
  """At initialization gates are half open and biases 0: mistakes hide."""
  return moved(fresh(config))


@pytest.fixture
def build():
  """Makes a fresh model; equal ones are made once."""
  return lambda config: nnx.clone(fresh(config))


@pytest.fixture
def model(config) -> Recommender:
  return nnx.clone(trained(config))

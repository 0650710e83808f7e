"""A small catalog with a past, and item tables on it, far from initialization.

Some launches are declared, one of them after the log's last day; some items are
first seen in the middle of the log, some never. Every seventh has no training
events.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.config import (
  AgeGate,
  CandidateAge,
  ConcatMixer,
  DynamicCounts,
  FixedGate,
  IdOnly,
  ItemsConfig,
  MetadataOnly,
  NoAge,
  NoDynamics,
  SumMixer,
)
from fmjax.data.catalog import NEVER_US, Catalog, Daily
from fmjax.data.dynamic import launch_seconds
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind
from fmjax.model import age
from fmjax.model.items import ItemTable

ITEMS, WIDTH = 30, 8
FIRST_DAY, DAYS = 16_000, 40  # of the log
DAY_S = 86_400

MIXERS = (
  IdOnly(),
  MetadataOnly(),
  SumMixer(id_dropout=0.3),
  ConcatMixer(id_dropout=0.3),
  FixedGate(id_weight=0.3, id_dropout=0.3),
  AgeGate(id_dropout=0.3),
)
STILL = tuple(ItemsConfig(mixer=mixer) for mixer in MIXERS)
DATED = tuple(
  ItemsConfig(mixer=mixer, age=CandidateAge(), dynamics=DynamicCounts())
  for mixer in MIXERS
)
# Every mixer and every form of logits: each is a program to compile.
CONFIGS = (STILL[0], STILL[2], STILL[3], STILL[5], DATED[1], DATED[4], DATED[5])


def name(config: ItemsConfig) -> str:
  return type(config.mixer).__name__ + (" dated" if config in DATED else "")


def encoded(name: str, kind: Kind, **sizes: int) -> Encoded:
  return Encoded(feature=Feature(name=name, kind=kind), **sizes)


SPEC = DataSpec(
  items=ITEMS,
  metadata=(
    encoded("genre", Kind.BAG, size=9, values=3),
    encoded("year", Kind.CATEGORICAL, size=5),
    encoded("text", Kind.VECTOR, size=4),
  ),
)


def make_catalog() -> Catalog:
  rng = np.random.default_rng(0)
  v = np.arange(ITEMS)
  declared_v = v % 3 == 0
  first_seen_us_v = (
    (FIRST_DAY + rng.integers(0, DAYS, ITEMS)) * DAY_S
    + rng.integers(0, DAY_S, ITEMS)
  ) * 1_000_000
  first_seen_us_v[v % 10 == 8] = NEVER_US
  launch_us_v = (FIRST_DAY + rng.integers(-50_000, 45, ITEMS)) * (
    DAY_S * 1_000_000
  )
  launch_us_v[9] = (FIRST_DAY + DAYS + 9) * DAY_S * 1_000_000
  happened = [
    (day, item, rng.integers(1, 5))
    for day in range(FIRST_DAY, FIRST_DAY + DAYS)
    for item in np.flatnonzero(rng.random(ITEMS) < 0.2)
    if item and first_seen_us_v[item] // (DAY_S * 1_000_000) <= day
  ]
  day, item, events = np.array(happened, np.int32).T
  return Catalog(
    item_ids=np.array([str(row) for row in v], dtype=object),
    titles=np.array([f"title {row}" for row in v], dtype=object),
    launch_us_v=np.where(declared_v, launch_us_v, first_seen_us_v),
    launch_declared_v=declared_v,
    first_seen_us_v=first_seen_us_v,
    train_count_v=np.where(v % 7 == 0, 0, 3).astype(np.int32),
    metadata={
      "genre": rng.integers(0, 9, (ITEMS, 3)).astype(np.int32),
      "year": rng.integers(0, 5, ITEMS).astype(np.int32),
      "text": rng.normal(size=(ITEMS, 4)).astype(np.float32),
    },
    daily=Daily(day=day, item=item, events=events),
  )


CATALOG = make_catalog()


def moved(module: nnx.Module, *, seed: int = 1) -> nnx.Module:
  """Parameters as far from their initial values as training would take them."""
  definition, params, content = nnx.split(module, nnx.Param, ...)
  rng = np.random.default_rng(seed)  # unlike JAX's, nothing to compile

  def move(leaf: jax.Array) -> jax.Array:
    noise = rng.normal(size=leaf.shape).astype(leaf.dtype)
    return jax.device_put(np.asarray(leaf) + 0.3 * noise, leaf.sharding)

  return nnx.merge(definition, jax.tree.map(move, params), content)


def make_table(config: ItemsConfig, *, spec=SPEC, catalog=CATALOG) -> ItemTable:
  """A mesh must be in scope."""
  table = ItemTable(config, spec, catalog, width=WIDTH, rngs=nnx.Rngs(params=0))
  return moved(table)


def plain_candidates(
  table: ItemTable, config: ItemsConfig, day_n: np.ndarray, catalog=CATALOG
):
  """The twin: e(v, day) of every (token, candidate), by definition, e_nvd."""
  age_nv = plain_ages(day_n, catalog)
  has_id_v1 = jnp.asarray(catalog.train_count_v > 0, jnp.float32)[:, None]
  id_vd = metadata_vd = 0.0
  if table.id_vd is not None:
    id_vd = jax.sharding.reshard(table.id_vd[...], jax.P(None, None))[:ITEMS]
  if table.metadata is not None:
    content = {k: jnp.asarray(a) for k, a in catalog.metadata.items()}
    metadata_vd = table.metadata(content) @ table.metadata_md[...]
  match config.mixer:
    case IdOnly():
      e_nvd = (id_vd * has_id_v1)[None]
    case MetadataOnly():
      e_nvd = metadata_vd[None]
    case SumMixer():
      e_nvd = (id_vd * has_id_v1 + metadata_vd)[None]
    case ConcatMixer():
      both_vf = jnp.concatenate([id_vd * has_id_v1, metadata_vd], axis=1)
      matrices = [table.mixer.id_fd[...], table.mixer.metadata_fd[...]]
      e_nvd = (both_vf @ jnp.concatenate(matrices))[None]
    case FixedGate(id_weight=weight):
      known_vd = metadata_vd + 2 * id_vd * has_id_v1
      e_nvd = (weight * known_vd + (1 - weight) * metadata_vd)[None]
    case AgeGate():
      bucket_nv = plain_buckets(age_nv)
      query_nve = table.mixer.age_ge[...][bucket_nv]
      logits_nvm = query_nve @ table.mixer.key_me[...].T / 8**0.5
      weight_nvm = jax.nn.softmax(logits_nvm)
      known_vd = metadata_vd + 2 * id_vd * has_id_v1
      e_nvd = (
        weight_nvm[..., :1] * known_vd[None]
        + weight_nvm[..., 1:] * metadata_vd[None]
      )
  if (config.age, config.dynamics) != (NoAge(), NoDynamics()):
    feature_nvf = plain_features(
      config, age_nv, plain_counts(day_n, catalog=catalog)
    )
    read = table.looks
    value_nvm = plain_network(
      feature_nvf, read.hidden_fh[...], read.bias_h[...], read.value_hm[...]
    )
    e_nvd = e_nvd + value_nvm @ table.term_md[...]
  return jnp.broadcast_to(e_nvd, (len(day_n), ITEMS, WIDTH))


def plain_features(
  config: ItemsConfig, age_nv: np.ndarray, count_nvm: np.ndarray
) -> np.ndarray:
  """What a look holds, of ages and of counts by window; float32 [n, v, f]."""
  features = []
  if isinstance(config.age, CandidateAge):
    age_nv = np.vectorize(plain_age_level)(age_nv)
    seen_nv = age_nv >= 0
    days_nv = np.maximum(age_nv, 0)
    features += [np.log1p(days_nv) / np.log(1025) * seen_nv]
    features += [np.exp(-days_nv / decay) * seen_nv for decay in (1, 7, 30)]
    features += [1.0 - seen_nv]
  if isinstance(config.dynamics, DynamicCounts):
    level_nvm = np.vectorize(plain_count_level)(count_nvm)
    read_nvm = config.dynamics.strength * np.log1p(level_nvm)
    features += list(np.moveaxis(read_nvm, 2, 0))
  return np.stack(features, axis=2).astype(np.float32)


def plain_age_level(age: int) -> int:
  """Rounded down: every day of the first month, then fewer."""
  if age <= 30:
    return age
  begins = (30, 42, 60, 90, 120, 180, 240, 365, 512, 1024)
  return max(begin for begin in begins if begin <= age)


def plain_count_level(count: int) -> int:
  """Rounded down to half an octave: its two highest bits."""
  rest = max(0, int(count).bit_length() - 2)
  return int(count) >> rest << rest


def plain_network(feature_nvf, hidden_fh, bias_h, value_hm):
  hidden_nvh = jnp.asarray(feature_nvf) @ hidden_fh + bias_h[None, None]
  # GELU, as its tanh form is published.
  inner_nvh = hidden_nvh + 0.044715 * hidden_nvh**3
  hidden_nvh *= 0.5 * (1 + jnp.tanh((2 / np.pi) ** 0.5 * inner_nvh))
  return hidden_nvh @ value_hm


def plain_ages(day_n: np.ndarray, catalog=CATALOG) -> np.ndarray:
  """Days since launch at the start of a day; -1: not out, or not known yet."""
  age_nv = np.full((len(day_n), ITEMS), -1)
  for n, day in enumerate(day_n):
    start_us = int(day) * DAY_S * 1_000_000
    for v in range(1, ITEMS):
      launch_day = int(catalog.launch_us_v[v]) // (DAY_S * 1_000_000)
      if catalog.launch_declared_v[v]:
        age_nv[n, v] = max(int(day) - launch_day, -1)
      elif catalog.first_seen_us_v[v] < start_us:
        age_nv[n, v] = int(day) - launch_day
  return age_nv


def plain_counts(day_n: np.ndarray, catalog=CATALOG) -> np.ndarray:
  """Target tokens in the 1, 3, 7, 30 days before the start of a day."""
  count_nvm = np.zeros((len(day_n), ITEMS, 4), int)
  daily = catalog.daily
  for n, day in enumerate(day_n):
    for m, window in enumerate((1, 3, 7, 30)):
      for d, item, events in zip(
        daily.day, daily.item, daily.events, strict=True
      ):
        if day - window <= d < day:
          count_nvm[n, item, m] += events
  return count_nvm


def plain_buckets(age: np.ndarray) -> np.ndarray:
  edges = np.array([0] + [2**k for k in range(11)])
  return (age[..., None] >= edges).sum(-1)


def age_at_event(catalog: Catalog, item_n, time_n) -> np.ndarray:
  """Ages as the model tells them on its input side."""
  return np.asarray(
    age.at_event(
      np.asarray(time_n, np.int32),
      launch_s_n=launch_seconds(catalog).astype(np.int32)[item_n],
      declared_n=catalog.launch_declared_v[item_n],
    )
  )

"""Packed rows for attention, and every form of it written out whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.data.batch import Batch
from fmjax.model.attention import Bidirectional, Full, Fused
from fmjax.model.hstu import Pointwise, PointwiseFull, PointwiseWindow
from fmjax.model.low_rank import LowRank
from fmjax.model.time import log_bucket
from fmjax.model.time_bias import TimeBias
from fmjax.model.window import Window

HEADS, WIDTH, BUCKETS = 2, 4, 7
_DAY = 86_400


def time_bias() -> TimeBias:
  return TimeBias(HEADS, BUCKETS)


def moved(form: nnx.Module) -> nnx.Module:
  """Biases that start at zero, and means that start equal, hide mistakes."""
  rng = np.random.default_rng(7)
  definition, params = nnx.split(form)
  params = jax.tree.map(
    lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), params
  )
  return nnx.merge(definition, params)


def low_rank(block: int, rank: int, **choices) -> LowRank:
  choices = {"dropout": 0.5, "time_bias": time_bias(), **choices}
  return LowRank(heads=HEADS, block=block, rank=rank, **choices)


FORMS = {
  "full": lambda: Full(dropout=0.5, time_bias=time_bias()),
  "full, no bias": lambda: Full(dropout=0.5),
  "fused": Fused,
  "window": lambda: Window(span=5, dropout=0.5, time_bias=time_bias()),
  "wide window": lambda: Window(span=40, dropout=0.5),
  "low rank": lambda: low_rank(4, 2),
  "low rank, odd": lambda: low_rank(5, 3, time_bias=None),
  "pointwise": lambda: PointwiseFull(
    heads=HEADS, distances=80, time_bias=time_bias()
  ),
  "pointwise window": lambda: PointwiseWindow(
    heads=HEADS, distances=6, time_bias=time_bias()
  ),
}


@functools.cache
def form(name: str) -> nnx.Module:
  if name == "bidirectional":
    return Bidirectional(dropout=0.5)
  return moved(FORMS[name]())


def packed(window: int, *, rows: int = 3, seed: int = 0) -> Batch:
  """Rows of segments that begin anywhere; padding at the end of some."""
  rng = np.random.default_rng(seed)
  shape = rows, window
  segment_bt = np.sort(rng.integers(0, 4, shape), axis=1)[:, ::-1]
  segment_bt = np.where(segment_bt == 0, 0, 4 - segment_bt).astype(np.int32)
  segment_bt[0] = 1  # a whole row
  new_bt = np.diff(segment_bt, axis=1, prepend=-1) != 0
  start_bt = np.maximum.accumulate(np.where(new_bt, np.arange(window), 0), 1)
  position_bt = (np.arange(window) - start_bt).astype(np.int32)
  position_bt = np.where(segment_bt == 0, 0, position_bt)
  time_bt = 1_300_000_000 + np.cumsum(rng.integers(0, 2 * _DAY, shape), axis=1)
  time_bt = time_bt.astype(np.int32)
  zero_bt = np.zeros(shape, np.int32)
  return Batch(
    item_bt=zero_bt,
    weight_bt=np.ones(shape, np.float32),
    segment_bt=segment_bt,
    position_bt=position_bt,
    time_bt=time_bt,
    user_bt=zero_bt,
    index_bt=position_bt,
    request={},
    previous={"time": np.roll(time_bt, 1, axis=1)},
  )


def arrays(window: int, *, rows: int = 3, seed: int = 1):
  """Queries, keys and values."""
  rng = np.random.default_rng(seed)
  shape = rows, window, HEADS, WIDTH
  return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in "qkv")


def run(form, arrays, batch: Batch, *, key=None) -> jax.Array:
  return form(*arrays, sight=form.prepare(batch), dropout_key=key)


def dense(form, arrays, batch: Batch) -> jax.Array:
  """The plain twin: every pair of positions, then a mask."""
  q_bthe, k_bshe, v_bshe = arrays
  t = q_bthe.shape[1]
  position_bt = jnp.asarray(batch.position_bt)
  distance_bts = position_bt[:, :, None] - position_bt[:, None, :]
  same_bts = batch.segment_bt[:, :, None] == batch.segment_bt[:, None, :]
  causal_ts = np.tril(np.ones((t, t), bool))
  key_time_bs = jnp.where(
    batch.index_bt == 0, batch.time_bt, batch.previous["time"]
  )
  mask_bts = same_bts & causal_ts
  match form:
    case Bidirectional():
      mask_bts = same_bts
    case Window(span=span):
      mask_bts = mask_bts & (distance_bts < span)
    case PointwiseWindow(farthest=farthest):
      mask_bts = mask_bts & (distance_bts <= farthest)
    case LowRank(block=block):
      age_bts = position_bt[:, :, None] // block - position_bt[:, None] // block
      mask_bts = mask_bts & (age_bts < 2)
  logits_bhts = jnp.einsum("bthe,bshe->bhts", q_bthe, k_bshe) / WIDTH**0.5
  logits_bhts = logits_bhts + bias_of(form, batch, key_time_bs[:, None])
  if isinstance(form, Pointwise):
    distance_bts = jnp.clip(distance_bts, 0, form.farthest)
    bias_hbts = form.bias_hs[...][:, distance_bts]
    logits_bhts = logits_bhts + jnp.moveaxis(bias_hbts, 0, 1)
    seen_bt = mask_bts.sum(-1)
    weights_bhts = jax.nn.silu(logits_bhts) / seen_bt[:, None, :, None]
    weights_bhts = jnp.where(mask_bts[:, None], weights_bhts, 0.0)
    return jnp.einsum("bhts,bshe->bthe", weights_bhts, v_bshe)
  logits_bhts = jnp.where(mask_bts[:, None], logits_bhts, -jnp.inf)
  if isinstance(form, LowRank):
    far_bhts, far_v_bshe = summaries(form, arrays, batch, key_time_bs)
    logits_bhts = jnp.concatenate([logits_bhts, far_bhts], axis=-1)
    v_bshe = jnp.concatenate([v_bshe, far_v_bshe], axis=1)
  return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(logits_bhts), v_bshe)


def bias_of(form, batch: Batch, key_time_bhs) -> jax.Array:
  """bias_bhts of keys with times."""
  if getattr(form, "time_bias", None) is None:
    return jnp.zeros((1, 1, 1, 1))
  span_bhts = batch.time_bt[:, None, :, None] - key_time_bhs[:, :, None, :]
  bucket_bhts = log_bucket(span_bhts, buckets=BUCKETS)
  head_h = jnp.arange(HEADS)[None, :, None, None]
  return form.time_bias.bias_hi[...][head_h, bucket_bhts]


def summaries(form: LowRank, arrays, batch: Batch, key_time_bs):
  """(logits_bhts, v_bshe) of r slots for every position that ends a block."""
  q_bthe, k_bshe, v_bshe = arrays
  b, t = batch.segment_bt.shape
  length, rank = form.block, form.key_hrs.shape[1]
  position_bt = np.asarray(batch.position_bt)
  block_bt, place_bt = position_bt // length, position_bt % length
  same_bts = batch.segment_bt[:, :, None] == batch.segment_bt[:, None, :]
  member_bts = same_bts & (block_bt[:, :, None] == block_bt[:, None, :])
  member_bts = member_bts & (place_bt == length - 1)[:, :, None]

  def slots(weight_hrs, x_bshe):
    weight_hrbs = weight_hrs[...][:, :, place_bt]
    return jnp.einsum(
      "bts,hrbs,bshe->btrhe", member_bts.astype(np.float32), weight_hrbs, x_bshe
    ).reshape(b, t * rank, HEADS, -1)

  weight_hrbs = jnp.abs(form.key_hrs[...][:, :, place_bt])
  ago_bts = (key_time_bs[:, :, None] - key_time_bs[:, None, :]) * member_bts
  ago_bhtr = jnp.einsum("bts,hrbs->bhtr", ago_bts * 1.0, weight_hrbs)
  total_bhtr = jnp.einsum("bts,hrbs->bhtr", member_bts * 1.0, weight_hrbs)
  ago_bhtr = jnp.round(ago_bhtr / jnp.maximum(total_bhtr, 1e-9)).astype(int)
  time_bhs = (key_time_bs[:, None, :, None] - ago_bhtr).reshape(b, HEADS, -1)

  logits_bhts = jnp.einsum(
    "bthe,bshe->bhts", q_bthe, slots(form.key_hrs, k_bshe)
  )
  logits_bhts = logits_bhts / WIDTH**0.5
  logits_bhts = logits_bhts + bias_of(form, batch, time_bhs)
  old_bts = block_bt[:, :, None] - block_bt[:, None, :] >= 2
  seen_bts = same_bts & old_bts & (place_bt == length - 1)[:, None, :]
  seen_bts = seen_bts & np.tril(np.ones((t, t), bool))
  seen_bts = jnp.repeat(seen_bts, rank, axis=2)
  logits_bhts = jnp.where(seen_bts[:, None], logits_bhts, -jnp.inf)
  return logits_bhts, slots(form.value_hrs, v_bshe)

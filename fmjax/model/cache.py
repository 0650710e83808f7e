"""Attention one position at a time: keys and values are kept between calls.

Rows are single histories, each as long as it is. What `extend` returns equals
the last position of one pass over all of them. Queries and keys come rotated,
where they are: by the cache's `length_b`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.model.attention import Full, Fused
from fmjax.model.hstu import Pointwise, PointwiseFull, PointwiseWindow, weigh
from fmjax.model.low_rank import LowRank, slot_times
from fmjax.model.window import Window

Cached = Full | Fused | Window | LowRank | PointwiseFull | PointwiseWindow


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
  """What an attention remembers of the positions so far.

  Position p is kept at p modulo the number of places s: older ones make room.

  Attributes:
    length_b: positions so far.
    k_bhse, v_bhse: keys and values.
    time_bs: seconds, of the tokens that the keys hold.
    slot_k_bhjre, slot_v_bhjre: the r summary slots of each block j (`LowRank`);
      otherwise there are no blocks.
    slot_time_bhjr: seconds.
  """

  length_b: jax.Array
  k_bhse: jax.Array
  v_bhse: jax.Array
  time_bs: jax.Array
  slot_k_bhjre: jax.Array
  slot_v_bhjre: jax.Array
  slot_time_bhjr: jax.Array


def init_cache(
  attention: Cached,
  *,
  rows: int,
  heads: int,
  width: int,
  capacity: int,
  dtype: Any = jnp.float32,
) -> Cache:
  """An empty cache.

  Args:
    attention: whose.
    rows: histories side by side.
    heads: of the attention.
    width: of a head.
    capacity: most positions of a history.
    dtype: of keys and values.

  Raises:
    ValueError: the attention knows no history that long.
  """
  blocks, rank = 0, 1
  match attention:
    case PointwiseFull(farthest=farthest) if capacity > farthest + 1:
      raise ValueError(
        f"{capacity=} exceeds the {farthest + 1} positions whose distances the"
        " attention has learned"
      )
    case Full() | Fused() | PointwiseFull():
      places = capacity
    case Window(span=span):
      places = min(span, capacity)
    case PointwiseWindow(farthest=farthest):
      places = min(farthest + 1, capacity)
    case LowRank(block=block):
      places = 2 * block
      blocks, rank = capacity // block, attention.key_hrs.shape[1]
  kept_bhse = jnp.zeros((rows, heads, places, width), dtype)
  slot_bhjre = jnp.zeros((rows, heads, blocks, rank, width), dtype)
  return Cache(
    length_b=jnp.zeros(rows, jnp.int32),
    k_bhse=kept_bhse,
    v_bhse=kept_bhse,
    time_bs=jnp.zeros((rows, places), jnp.int32),
    slot_k_bhjre=slot_bhjre,
    slot_v_bhjre=slot_bhjre,
    slot_time_bhjr=jnp.zeros((rows, heads, blocks, rank), jnp.int32),
  )


def extend(
  attention: Cached,
  cache: Cache,
  q_bhe: jax.Array,
  k_bhe: jax.Array,
  v_bhe: jax.Array,
  *,
  time_b: jax.Array,
  key_time_b: jax.Array,
) -> tuple[jax.Array, Cache]:
  """Attends from one more position of each row.

  Args:
    attention: the one that `cache` was made for.
    cache: of the positions before.
    q_bhe: queries.
    k_bhe: keys.
    v_bhe: values.
    time_b: request times, seconds.
    key_time_b: of the tokens that the keys hold, as `time.key_times` has them.

  Returns:
    o_bhe, and the cache with the position.
  """
  places = cache.time_bs.shape[1]
  position_b = cache.length_b
  place_s = jnp.arange(places)[None]
  new_bs = place_s == (position_b % places)[:, None]
  cache = dataclasses.replace(
    cache,
    length_b=position_b + 1,
    k_bhse=jnp.where(_wide(new_bs), k_bhe[:, :, None], cache.k_bhse),
    v_bhse=jnp.where(_wide(new_bs), v_bhe[:, :, None], cache.v_bhse),
    time_bs=jnp.where(new_bs, key_time_b[:, None], cache.time_bs),
  )
  before_bs = (position_b[:, None] - place_s) % places
  seen_bs = before_bs <= position_b[:, None]
  if isinstance(attention, LowRank):
    own_b = position_b % attention.block
    seen_bs = seen_bs & (before_bs <= own_b[:, None] + attention.block)
    cache = _summarize(attention, cache, position_b)
  logits_bhs = _logits(
    attention, q_bhe, cache.k_bhse, time_b, cache.time_bs[:, None]
  )
  v_bhse = cache.v_bhse
  match attention:
    case Pointwise():
      bias_hbs = attention.distance_bias(before_bs)
      logits_bhs = logits_bhs + jnp.moveaxis(bias_hbs, 0, 1)
      count_b = jnp.minimum(position_b, attention.farthest)
      weights_bhs = weigh(
        logits_bhs[:, :, None],
        seen_bs[:, None, None],
        count_b[:, None, None],
      )[:, :, 0]
      return _mix(weights_bhs, v_bhse), cache
    case LowRank():
      logits_bhs = jnp.where(seen_bs[:, None], logits_bhs, -jnp.inf)
      far_bhs = _far_logits(attention, cache, q_bhe, time_b, position_b)
      logits_bhs = jnp.concatenate([logits_bhs, far_bhs], axis=-1)
      b, h, j, r, e = cache.slot_v_bhjre.shape
      slot_bhse = cache.slot_v_bhjre.reshape(b, h, j * r, e)
      v_bhse = jnp.concatenate([v_bhse, slot_bhse], axis=2)
    case _:
      logits_bhs = jnp.where(seen_bs[:, None], logits_bhs, -jnp.inf)
  return _mix(jax.nn.softmax(logits_bhs, axis=-1), v_bhse), cache


def _wide(mask_bs: jax.Array) -> jax.Array:
  return mask_bs[:, None, :, None]


def _mix(weights_bhs: jax.Array, v_bhse: jax.Array) -> jax.Array:
  return jnp.einsum("bhs,bhse->bhe", weights_bhs.astype(v_bhse.dtype), v_bhse)


def _logits(
  attention: Cached,
  q_bhe: jax.Array,
  k_bhse: jax.Array,
  time_b: jax.Array,
  key_time_bhs: jax.Array,
) -> jax.Array:
  logits_bhs = jnp.einsum("bhe,bhse->bhs", q_bhe, k_bhse)
  logits_bhs = logits_bhs.astype(jnp.float32) * q_bhe.shape[-1] ** -0.5
  if isinstance(attention, Fused) or attention.time_bias is None:
    return logits_bhs
  bias_bhts = attention.time_bias.of_times(
    time_b[:, None, None, None], key_time_bhs[:, :, None]
  )
  return logits_bhs + bias_bhts[:, :, 0]


def _far_logits(
  attention: LowRank,
  cache: Cache,
  q_bhe: jax.Array,
  time_b: jax.Array,
  position_b: jax.Array,
) -> jax.Array:
  """logits_bhs on all slots; -inf but for blocks before the last two."""
  b, h, j, r, e = cache.slot_k_bhjre.shape
  logits_bhs = _logits(
    attention,
    q_bhe,
    cache.slot_k_bhjre.reshape(b, h, j * r, e),
    time_b,
    cache.slot_time_bhjr.reshape(b, h, j * r),
  )
  block_s = (jnp.arange(j * r) // r)[None]
  seen_bs = block_s <= (position_b // attention.block - 2)[:, None]
  return jnp.where(seen_bs[:, None], logits_bhs, -jnp.inf)


def _summarize(
  attention: LowRank, cache: Cache, position_b: jax.Array
) -> Cache:
  """The cache with the slots of a block that ends at the position."""
  length, blocks = attention.block, cache.slot_k_bhjre.shape[2]
  block_b = position_b // length
  ends_b = position_b % length == length - 1
  # Even blocks lie in the first half of the places, odd ones in the second.
  odd_b = block_b % 2 == 1

  def half(x_bhse: jax.Array) -> jax.Array:
    odd = odd_b.reshape(-1, *(1,) * (x_bhse.ndim - 1))
    return jnp.where(odd, x_bhse[:, :, length:], x_bhse[:, :, :length])

  k_bhre, v_bhre = (
    jnp.einsum("hrs,bhse->bhre", weight_hrs[...].astype(x.dtype), half(x))
    for weight_hrs, x in (
      (attention.key_hrs, cache.k_bhse),
      (attention.value_hrs, cache.v_bhse),
    )
  )
  time_bjs = half(cache.time_bs[:, None])
  b, h, _, r, _ = cache.slot_k_bhjre.shape
  weight_bhjrs = jnp.broadcast_to(
    attention.key_hrs[...][None, :, None], (b, h, 1, r, length)
  )
  time_bhr = slot_times(weight_bhjrs, time_bjs, jnp.ones_like(time_bjs, bool))
  new_bj = jnp.arange(blocks)[None] == block_b[:, None]
  new_bhjr = (new_bj & ends_b[:, None])[:, None, :, None]
  return dataclasses.replace(
    cache,
    slot_k_bhjre=jnp.where(
      new_bhjr[..., None], k_bhre[:, :, None], cache.slot_k_bhjre
    ),
    slot_v_bhjre=jnp.where(
      new_bhjr[..., None], v_bhre[:, :, None], cache.slot_v_bhjre
    ),
    slot_time_bhjr=jnp.where(
      new_bhjr, time_bhr[:, :, None], cache.slot_time_bhjr
    ),
  )

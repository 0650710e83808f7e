"""Attention that is exact nearby and compressed far back.

A history is cut in blocks of L positions from its start. A query attends
exactly to its own block and the one before, and to r summary slots of every
earlier one: the cost of a position is 2 · L + r · T / L instead of T.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.data.batch import Batch
from fmjax.model import dropout, time
from fmjax.model.time_bias import TimeBias
from fmjax.model.window import Band, cut, cut_behind, join

# Queries that meet the same slots: of fewer the least computes slots that only
# the last see, of more the more products there are.
_FAR = 256
_MOST_FAR = 16


def far_queries(window: int, block: int) -> list[tuple[int, int, int]]:
  """(start, end) of queries side by side, and the chunks whose slots they meet.

  A slot is of the block that ends in a chunk of `block` positions of the row,
  and no query before `end` sees the last two blocks.
  """
  count = min(-(-window // _FAR), _MOST_FAR)
  edges = [window * i // count for i in range(count + 1)]
  return [
    (start, end, max(end - 2, 0) // block)
    for start, end in itertools.pairwise(edges)
  ]


def piece_means(block: int, rank: int) -> np.ndarray:
  """weight_rs: slot i averages the i-th of `rank` pieces of a block."""
  piece_s = np.arange(block) * rank // block
  member_rs = np.arange(rank)[:, None] == piece_s[None]
  return (member_rs / member_rs.sum(1, keepdims=True)).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
  """What queries see; the same in every layer.

  A row is cut in chunks of L positions. Blocks are L long, too, but a segment
  begins anywhere: each chunk holds the end of one block at most, whose slots
  are the chunk's. So the slots that a query sees are of chunks side by side.

  Attributes:
    near: the query's own block and the one before.
    place_bjs: of each position of a chunk and of the one before it, its place
      in the block that ends in the chunk; L: it lies in another.
    first_bt, last_bt: chunks whose slots a query sees; last < first: none.
    query_time_bt: request times, seconds.
    key_time_bjs: times of the tokens that the keys of `place_bjs` hold.
  """

  near: Band
  place_bjs: jax.Array
  first_bt: jax.Array
  last_bt: jax.Array
  query_time_bt: jax.Array
  key_time_bjs: jax.Array


class LowRank(nnx.Module):
  """Softmax attention on exact keys nearby and on slots of blocks far back.

  A slot's key, value and time are weighted sums over the places of its block,
  with learned weights by head: at first means of pieces, those of keys
  multiplied by √(L / r), so that a slot of unlike keys is as long as a key.
  """

  def __init__(
    self,
    *,
    heads: int,
    block: int,
    rank: int,
    dropout: float,
    time_bias: TimeBias | None = None,
  ):
    self.block = block
    self.dropout = dropout
    self.time_bias = time_bias
    mean_hrs = jnp.tile(piece_means(block, rank)[None], (heads, 1, 1))
    self.key_hrs = nnx.Param(mean_hrs * math.sqrt(block / rank))
    self.value_hrs = nnx.Param(mean_hrs)

  def prepare(self, batch: Batch) -> Sight:
    """What queries see, the same in every layer."""
    length = self.block
    position_bt = jnp.asarray(batch.position_bt)
    row_bt = jnp.arange(position_bt.shape[1])[None]
    place_bt = position_bt % length
    before_bt = jnp.minimum(position_bt, place_bt + length)

    ends_bjs = cut(place_bt == length - 1, length, axis=1)
    end_bj = jnp.argmax(ends_bjs, axis=-1) + length
    place_bjs = jnp.arange(2 * length)[None, None] - (
      end_bj[..., None] - length + 1
    )
    inside_bjs = (place_bjs >= 0) & (place_bjs < length)
    inside_bjs = inside_bjs & jnp.any(ends_bjs, axis=-1, keepdims=True)
    return Sight(
      near=Band.of(before_bt, batch, span=2 * length),
      place_bjs=jnp.where(inside_bjs, place_bjs, length),
      first_bt=(row_bt - position_bt + length - 1) // length,
      last_bt=(row_bt - place_bt - length - 1) // length,
      query_time_bt=jnp.asarray(batch.time_bt),
      key_time_bjs=cut_behind(time.key_times(batch), length, 1, axis=1),
    )

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Sight,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `attention.Full`."""
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    window = q_bhte.shape[2]
    near_bhjts = jnp.where(
      sight.near.seen_bjts()[:, None],
      sight.near.logits(q_bhte, k_bhse, self.time_bias),
      -jnp.inf,
    )
    queries = far_queries(window, self.block)
    far = self._far_logits(q_bhte, k_bhse, sight, queries)
    value_bhse = self._slots(self.value_hrs, v_bhse, sight)

    # One softmax over both: exponents from one maximum, and one sum. The result
    # is the same whatever the maximum, so it needs no gradient.
    near_top_bht = join(jnp.max(near_bhjts, axis=-1), window)
    top_bht = jax.lax.stop_gradient(
      jnp.concatenate(
        [
          jnp.maximum(
            near_top_bht[:, :, start:end],
            jnp.max(logits_bhts, axis=-1, initial=-jnp.inf),
          )
          for (start, end, _), logits_bhts in zip(queries, far, strict=True)
        ],
        axis=2,
      )
    )
    keys = dropout.split(dropout_key, 1 + len(queries))
    size = near_bhjts.shape[3]
    near_bhjts = jnp.exp(near_bhjts - cut(top_bht, size, axis=2)[..., None])
    total_bht = join(jnp.sum(near_bhjts, axis=-1), window)
    near_bhjts = dropout.dropout(near_bhjts, self.dropout, key=keys[0])
    near_bhte = sight.near.mix(near_bhjts, v_bhse)
    mixed = []
    for (start, end, _), logits_bhts, key in zip(
      queries, far, keys[1:], strict=True
    ):
      o_bhte = near_bhte[:, :, start:end]
      sum_bht = total_bht[:, :, start:end]
      if slots := logits_bhts.shape[3]:
        far_bhts = jnp.exp(logits_bhts - top_bht[:, :, start:end, None])
        sum_bht = sum_bht + jnp.sum(far_bhts, axis=-1)
        far_bhts = dropout.dropout(far_bhts, self.dropout, key=key)
        o_bhte = o_bhte + jnp.einsum(
          "bhts,bhse->bhte",
          far_bhts.astype(v_bhse.dtype),
          value_bhse[:, :, :slots],
        )
      mixed.append(o_bhte / sum_bht[..., None].astype(o_bhte.dtype))
    return jnp.swapaxes(jnp.concatenate(mixed, axis=2), 1, 2)

  def _far_logits(
    self,
    q_bhte: jax.Array,
    k_bhse: jax.Array,
    sight: Sight,
    queries: list[tuple[int, int, int]],
  ) -> list[jax.Array]:
    """logits_bhts of queries side by side on the slots they may see."""
    rank = self.key_hrs.shape[1]
    slot_bhse = self._slots(self.key_hrs, k_bhse, sight)
    time_bhs = self._slot_times(sight)
    found = []
    for start, end, chunks in queries:
      slots = chunks * rank
      logits_bhts = jnp.einsum(
        "bhte,bhse->bhts", q_bhte[:, :, start:end], slot_bhse[:, :, :slots]
      )
      logits_bhts = logits_bhts.astype(jnp.float32) * q_bhte.shape[-1] ** -0.5
      if self.time_bias is not None:
        logits_bhts = logits_bhts + self.time_bias.of_times(
          sight.query_time_bt[:, None, start:end, None],
          time_bhs[:, :, None, :slots],
        )
      chunk_s = (jnp.arange(slots) // rank)[None, None]
      seen_bts = (chunk_s >= sight.first_bt[:, start:end, None]) & (
        chunk_s <= sight.last_bt[:, start:end, None]
      )
      found.append(jnp.where(seen_bts[:, None], logits_bhts, -jnp.inf))
    return found

  def _weights(self, weight_hrs: nnx.Param, sight: Sight) -> jax.Array:
    """weight_bhjrs of the positions that a chunk's slots are made of."""
    # Place L, of positions in another block, weighs nothing.
    padded_hrs = jnp.pad(weight_hrs[...], ((0, 0), (0, 0), (0, 1)))
    weight_shr = padded_hrs.transpose(2, 0, 1)
    partition = jax.typeof(sight.place_bjs).sharding.spec
    weight_bjshr = weight_shr.at[sight.place_bjs].get(
      out_sharding=jax.P(*partition, None, None), mode="promise_in_bounds"
    )
    return weight_bjshr.transpose(0, 3, 1, 4, 2)

  def _slots(
    self, weight_hrs: nnx.Param, x_bhse: jax.Array, sight: Sight
  ) -> jax.Array:
    """The slots of all chunks, x_bhse."""
    b, h, _, e = x_bhse.shape
    weight_bhjrs = self._weights(weight_hrs, sight).astype(x_bhse.dtype)
    x_bhjse = cut_behind(x_bhse, self.block, 1, axis=2)
    slot_bhjre = jnp.einsum("bhjrs,bhjse->bhjre", weight_bhjrs, x_bhjse)
    return slot_bhjre.reshape(b, h, -1, e)

  def _slot_times(self, sight: Sight) -> jax.Array:
    """time_bhs of the slots, int32 seconds: means over their keys' times."""
    weight_bhjrs = self._weights(self.key_hrs, sight)
    return slot_times(
      weight_bhjrs, sight.key_time_bjs, sight.place_bjs < self.block
    )


def slot_times(
  weight_bhjrs: jax.Array, time_bjs: jax.Array, inside_bjs: jax.Array
) -> jax.Array:
  """Weighted means of times where `inside_bjs`; any sign of a weight counts."""
  b, h = weight_bhjrs.shape[:2]
  # Seconds before the last one: an epoch's are too many for a float32.
  last_bj = jnp.max(jnp.where(inside_bjs, time_bjs, 0), axis=-1)
  ago_bjs = jnp.where(inside_bjs, last_bj[..., None] - time_bjs, 0)
  weight_bhjrs = jnp.abs(jax.lax.stop_gradient(weight_bhjrs))
  total_bhjr = jnp.sum(
    weight_bhjrs * ago_bjs[:, None, :, None].astype(jnp.float32), axis=-1
  )
  weight_bhjr = jnp.maximum(jnp.sum(weight_bhjrs, axis=-1), 1e-9)
  ago_bhjr = jnp.round(total_bhjr / weight_bhjr).astype(jnp.int32)
  return (last_bj[:, None, :, None] - ago_bhjr).reshape(b, h, -1)

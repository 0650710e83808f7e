"""Causal attention over packed rows. Alternatives are types.

An attention takes projected queries, keys and values and returns the mixed
values; the projections belong to the block.
"""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  FullAttention,
  FusedAttention,
  LogBucketBias,
  ModelConfig,
  NoRelativeTime,
)
from fmjax.data.batch import Array
from fmjax.model import dropout

# Queries are cut in at most 16 blocks of about 64: each computes the keys up to
# its end only, so hardly more than the triangle that causality leaves.
_BLOCK = 64
_MOST_BLOCKS = 16


def query_blocks(window: int) -> list[tuple[int, int]]:
  """(start, end) of the blocks of queries, as equal as they can be."""
  count = min(-(-window // _BLOCK), _MOST_BLOCKS)
  edges = [window * i // count for i in range(count + 1)]
  return list(itertools.pairwise(edges))


class TimeBias(nnx.Module):
  """A learned bias by head of how long before the request a token was."""

  def __init__(self, heads: int, buckets: int):
    self.bias_hi = nnx.Param(jnp.zeros((heads, buckets)))

  def __call__(self, bucket_bts: jax.Array) -> jax.Array:
    """bias_bhts of some queries on some keys, float32."""
    heads, buckets = self.bias_hi.shape
    # One flat table, read where the result lies: with a row a head, or a row a
    # bucket to be transposed, the step took half as much again for it on CPU.
    first_h = jnp.arange(heads) * buckets
    place_bhts = bucket_bts[:, None] + first_h[None, :, None, None]
    return (
      self.bias_hi[...]
      .reshape(-1)
      .at[place_bhts]
      .get(
        out_sharding=jax.typeof(place_bhts).sharding.spec,
        mode="promise_in_bounds",
      )
    )


class Full(nnx.Module):
  """Softmax attention of each position on itself and all before it."""

  def __init__(self, *, dropout: float, time_bias: TimeBias | None = None):
    self.dropout = dropout
    self.time_bias = time_bias

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    segment_bt: Array,
    bucket_bts: jax.Array | None = None,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """Attends within segments, causally.

    Args:
      q_bthe: queries, h heads of width e.
      k_bshe: keys.
      v_bshe: values.
      segment_bt: int32; positions of different segments never meet.
      bucket_bts: of the time from key to query, for a bias of it.
      dropout_key: drops attention weights; None: deterministic.

    Returns:
      o_bthe, in the dtype of the values.
    """
    # One batch axis of rows and heads: XLA's CPU backend takes twice as long
    # where the heads stand between the positions and their vectors.
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    blocks = query_blocks(q_bthe.shape[1])
    keys = dropout.split(dropout_key, len(blocks))
    biases = [None] * len(blocks)
    if self.time_bias is not None:
      assert bucket_bts is not None
      biases = [
        self.time_bias(bucket_bts[:, start:end, :end]) for start, end in blocks
      ]
    mixed = [
      attend(
        q_bhte[:, :, start:end],
        k_bhse[:, :, :end],
        v_bhse[:, :, :end],
        mask_bts=visible(segment_bt, start, end),
        bias_bhts=bias_bhts,
        rate=self.dropout,
        dropout_key=key,
      )
      for (start, end), bias_bhts, key in zip(blocks, biases, keys, strict=True)
    ]
    return jnp.swapaxes(jnp.concatenate(mixed, axis=2), 1, 2)


def visible(segment_bt: Array, start: int, end: int) -> jax.Array:
  """mask_bts of the queries from `start` to `end` on the keys before `end`."""
  query_bt, key_bs = segment_bt[:, start:end], segment_bt[:, :end]
  same_bts = query_bt[:, :, None] == key_bs[:, None, :]
  past_ts = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
  return same_bts & past_ts[None]


def attend(
  q_bhte: jax.Array,
  k_bhse: jax.Array,
  v_bhse: jax.Array,
  *,
  mask_bts: jax.Array,
  bias_bhts: jax.Array | None,
  rate: float,
  dropout_key: jax.Array | None,
) -> jax.Array:
  """softmax(q kᵀ / √e + bias, where mask) v → o_bhte.

  A query sees itself, so no row of the softmax is empty.
  """
  logits_bhts = jnp.einsum("bhte,bhse->bhts", q_bhte, k_bhse)
  logits_bhts = logits_bhts.astype(jnp.float32) * q_bhte.shape[-1] ** -0.5
  if bias_bhts is not None:
    logits_bhts = logits_bhts + bias_bhts
  logits_bhts = jnp.where(mask_bts[:, None], logits_bhts, -jnp.inf)
  weights_bhts = jax.nn.softmax(logits_bhts, axis=-1).astype(v_bhse.dtype)
  weights_bhts = dropout.dropout(weights_bhts, rate, key=dropout_key)
  return jnp.einsum("bhts,bhse->bhte", weights_bhts, v_bhse)


class Fused(nnx.Module):
  """`Full` by `jax.nn.dot_product_attention`, which drops no weights.

  Where cuDNN's kernel can run, it does: weights are never stored, and keys
  after a query are skipped. Its gradient differs in the last bits from run to
  run, unless XLA_FLAGS has --xla_gpu_deterministic_ops. Elsewhere XLA computes
  every pair of positions.
  """

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    segment_bt: Array,
    bucket_bts: jax.Array | None = None,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `Full`, without a bias; the key is not used."""
    assert bucket_bts is None
    del dropout_key

    def attend(q_bthe, k_bshe, v_bshe, segment_bt):
      same_bts = segment_bt[:, :, None] == segment_bt[:, None, :]
      return jax.nn.dot_product_attention(
        q_bthe,
        k_bshe,
        v_bshe,
        mask=same_bts[:, None],
        is_causal=True,
        implementation=fused_kernel(q_bthe),
      )

    # Each device its own rows: cuDNN's kernel does not know of explicit axes.
    rows = mesh.spec("rows", None, None, None)
    specs = (rows, rows, rows, mesh.spec("rows", None))
    arrays = jax.sharding.reshard((q_bthe, k_bshe, v_bshe, segment_bt), specs)
    return jax.shard_map(attend, in_specs=specs, out_specs=rows)(*arrays)


def fused_kernel(q_bthe: jax.Array) -> Literal["cudnn", "xla"]:
  """What computes `Fused` on this machine, for queries like these.

  cuDNN's kernel needs an NVIDIA GPU of the Ampere generation or later, bfloat16
  and heads of a width ≤ 128 that 8 divides; to train with a mask, an even
  window, too.
  """
  capability = getattr(jax.devices()[0], "compute_capability", "")
  major = capability.partition(".")[0]  # of "9.0"; AMD's read "gfx942"
  t, e = q_bthe.shape[1], q_bthe.shape[3]
  able = (
    (major.isdigit() and int(major) >= 8)
    and q_bthe.dtype == jnp.bfloat16
    and (e <= 128 and e % 8 == 0)
    and t % 2 == 0
  )
  return "cudnn" if able else "xla"


def make_attention(config: ModelConfig) -> Full | Fused:
  match config.relative_time:
    case NoRelativeTime():
      time_bias = None
    case LogBucketBias(buckets=buckets):
      time_bias = TimeBias(config.heads, buckets)
  match config.attention:
    case FullAttention():
      return Full(dropout=config.dropout, time_bias=time_bias)
    case FusedAttention():
      return Fused()

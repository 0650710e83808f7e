"""Attention over packed rows. Alternatives are types.

An attention takes projected queries, keys and values and returns the mixed
values; the projections belong to the block. What no layer changes it makes of a
batch once, in `prepare`.
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  BidirectionalAttention,
  FullAttention,
  FusedAttention,
  LogBucketBias,
  LowRankAttention,
  ModelConfig,
  NoRelativeTime,
  WindowAttention,
)
from fmjax.data.batch import Array, Batch
from fmjax.model import dropout, time
from fmjax.model.low_rank import LowRank
from fmjax.model.time_bias import TimeBias
from fmjax.model.window import Window

# Queries are cut in at most 16 blocks of about 64: each computes the keys up to
# its end only, so hardly more than the triangle that causality leaves.
_BLOCK = 64
_MOST_BLOCKS = 16


def query_blocks(window: int) -> list[tuple[int, int]]:
  """(start, end) of the blocks of queries, as equal as they can be."""
  count = min(-(-window // _BLOCK), _MOST_BLOCKS)
  edges = [window * i // count for i in range(count + 1)]
  return list(itertools.pairwise(edges))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
  """What queries see; the same in every layer.

  Attributes:
    segment_bt: positions of different segments never meet.
    bucket_bts: of the time from key to query, for a bias of it.
  """

  segment_bt: Array
  bucket_bts: jax.Array | None = None

  @classmethod
  def of(cls, batch: Batch, time_bias: TimeBias | None) -> "Sight":
    if time_bias is None:
      return cls(segment_bt=batch.segment_bt)
    # Once for all layers.
    bucket_bts = time.relative_buckets(batch, buckets=time_bias.buckets)
    return cls(segment_bt=batch.segment_bt, bucket_bts=bucket_bts)


class Full(nnx.Module):
  """Softmax attention of each position on itself and all before it."""

  def __init__(self, *, dropout: float, time_bias: TimeBias | None = None):
    self.dropout = dropout
    self.time_bias = time_bias

  def prepare(self, batch: Batch) -> Sight:
    """What queries see, the same in every layer."""
    return Sight.of(batch, self.time_bias)

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Sight,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """Attends within segments, causally.

    Args:
      q_bthe: queries, h heads of width e.
      k_bshe: keys.
      v_bshe: values.
      sight: from `prepare`.
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
      assert sight.bucket_bts is not None
      biases = [
        self.time_bias(sight.bucket_bts[:, start:end, :end])
        for start, end in blocks
      ]
    mixed = [
      attend(
        q_bhte[:, :, start:end],
        k_bhse[:, :, :end],
        v_bhse[:, :, :end],
        mask_bts=visible(sight.segment_bt, start, end),
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

  def prepare(self, batch: Batch) -> Sight:
    """What queries see, the same in every layer."""
    return Sight(segment_bt=batch.segment_bt)

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Sight,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `Full`, without a bias; the key is not used."""
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
    arrays = jax.sharding.reshard(
      (q_bthe, k_bshe, v_bshe, sight.segment_bt), specs
    )
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


class Bidirectional(nnx.Module):
  """Softmax attention of each position on its whole segment."""

  def __init__(self, *, dropout: float):
    self.dropout = dropout

  def prepare(self, batch: Batch) -> Sight:
    """What queries see, the same in every layer."""
    return Sight(segment_bt=batch.segment_bt)

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Sight,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `Full`."""
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    segment_bt = sight.segment_bt
    blocks = query_blocks(q_bthe.shape[1])
    keys = dropout.split(dropout_key, len(blocks))
    mixed = [
      attend(
        q_bhte[:, :, start:end],
        k_bhse,
        v_bhse,
        mask_bts=segment_bt[:, start:end, None] == segment_bt[:, None],
        bias_bhts=None,
        rate=self.dropout,
        dropout_key=key,
      )
      for (start, end), key in zip(blocks, keys, strict=True)
    ]
    return jnp.swapaxes(jnp.concatenate(mixed, axis=2), 1, 2)


Attention = Full | Fused | Window | LowRank | Bidirectional


def make_time_bias(config: ModelConfig) -> TimeBias | None:
  match config.relative_time:
    case NoRelativeTime():
      return None
    case LogBucketBias(buckets=buckets):
      return TimeBias(config.heads, buckets)


def make_attention(config: ModelConfig) -> Attention:
  rate, time_bias = config.dropout, make_time_bias(config)
  match config.attention:
    case FullAttention():
      return Full(dropout=rate, time_bias=time_bias)
    case FusedAttention():
      return Fused()
    case WindowAttention(span=span):
      return Window(span=span, dropout=rate, time_bias=time_bias)
    case LowRankAttention(block=block, rank=rank):
      return LowRank(
        heads=config.heads,
        block=block,
        rank=rank,
        dropout=rate,
        time_bias=time_bias,
      )
    case BidirectionalAttention():
      return Bidirectional(dropout=rate)

"""The kinds of transformer block; HSTU's is in hstu.py.

Tokens are flat (x_nd, n = b · t) everywhere but inside attention: token-wise
layers on [b, t, d] cost about twice as much on XLA's CPU backend.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  GatedBlock,
  GatedResidual,
  HstuBlock,
  ModelConfig,
  SasrecBlock,
)
from fmjax.data.batch import Array
from fmjax.model import dropout
from fmjax.model.attention import make_attention
from fmjax.model.features import linear
from fmjax.model.hstu import Hstu
from fmjax.model.layers import LayerNorm, RMSNorm, matmul, mix
from fmjax.model.rotary import make_rotary


def retrieval(
  d: int, *, gated: bool, rngs: nnx.Rngs
) -> tuple[nnx.Param, nnx.Param]:
  """Projections of an attention that finds what is alike and brings it along.

  Keys start as the queries, and the output as the values' transpose: a token
  attends to tokens like it and adds what they hold, by and large unchanged.
  Queries and keys drawn apart, or values and output, have to find each other
  first. After the structure that Trockman and Kolter ("Mimetic Initialization
  of Self-Attention Layers", 2023) saw in trained transformers; they have the
  values negative.

  Returns:
    [d, 3 · d] or [d, 4 · d], side by side for queries, keys, values and, where
    `gated`, the gate; [d, d].
  """
  query_dd, value_dd, *gate = (
    linear(d, d, rngs=rngs)[...] for _ in range(2 + gated)
  )
  inward_df = jnp.concatenate([query_dd, query_dd, value_dd, *gate], axis=1)
  return nnx.Param(inward_df), nnx.Param(value_dd.T)


def feed_forward_width(block: GatedBlock, width: int) -> int:
  """A multiple of 8, so that it divides over a mesh of eight."""
  return -(-int(block.feed_forward * width) // 8) * 8


class Gated(nnx.Module):
  """Pre-norm block with SwiGLU and gated or plain residuals.

  x + σ(x̂ · W) ⊙ f(x̂) with x̂ = norm(x) for both halves f: LiGR (Borisyuk et
  al., 2025, "From Features to Transformers"). The gates keep deep stacks of
  recommender blocks from collapsing; plain ones are x + f(x̂).
  """

  def __init__(self, config: ModelConfig, block: GatedBlock, *, rngs: nnx.Rngs):
    d = config.width
    f = feed_forward_width(block, d)
    self.heads = config.heads
    self.dropout = config.dropout
    self.attention = make_attention(config)
    self.rotary = make_rotary(config)
    self.norm_attention = RMSNorm(d)
    self.gated = isinstance(block.residual, GatedResidual)
    self.qkv_gate_df, self.out_dd = retrieval(d, gated=self.gated, rngs=rngs)
    self.norm_feed_forward = RMSNorm(d)
    self.up_df = linear(d, f, rngs=rngs, axes=(None, "feed_forward"))
    self.gate_df = linear(d, f, rngs=rngs, axes=(None, "feed_forward"))
    self.down_fd = linear(f, d, rngs=rngs, axes=("feed_forward", None))
    if self.gated:
      self.gate_feed_forward_dd = linear(d, d, rngs=rngs)

  def __call__(
    self,
    x_nd: jax.Array,
    *,
    position_bt: Array,
    sight: Any,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    keys = dropout.split(dropout_key, 3)
    with jax.named_scope("attention"):
      norm_nd = self.norm_attention(x_nd)
      q_nd, k_nd, v_nd, *gate = jnp.split(
        matmul(norm_nd, self.qkv_gate_df), 3 + self.gated, axis=-1
      )
      mixed_nd = mix(
        self.attention,
        [q_nd, k_nd, v_nd],
        heads=self.heads,
        rotary=self.rotary,
        position_bt=position_bt,
        sight=sight,
        dropout_key=keys[0],
      )
      out_nd = matmul(mixed_nd, self.out_dd)
      out_nd = dropout.dropout(out_nd, self.dropout, key=keys[1])
      if self.gated:
        out_nd = jax.nn.sigmoid(*gate) * out_nd
      x_nd = x_nd + out_nd
    with jax.named_scope("feed_forward"):
      norm_nd = self.norm_feed_forward(x_nd)
      up_nf = matmul(norm_nd, self.up_df)
      hidden_nf = up_nf * jax.nn.silu(matmul(norm_nd, self.gate_df))
      out_nd = jnp.einsum(
        "nf,fd->nd",
        hidden_nf,
        self.down_fd[...].astype(x_nd.dtype),
        out_sharding=mesh.spec("tokens", None),
      )
      out_nd = dropout.dropout(out_nd, self.dropout, key=keys[2])
      if self.gated:
        gate_nd = jax.nn.sigmoid(matmul(norm_nd, self.gate_feed_forward_dd))
        out_nd = gate_nd * out_nd
      return x_nd + out_nd


class Sasrec(nnx.Module):
  """The block of SASRec (Kang and McAuley, 2018), for baselines.

  Queries are layer-normed, keys and values are not, and the residual starts
  from the normed input, as in the authors' code.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    d = config.width
    self.heads = config.heads
    self.dropout = config.dropout
    self.attention = make_attention(config)
    self.rotary = make_rotary(config)
    self.norm_attention = LayerNorm(d)
    self.query_dd = linear(d, d, rngs=rngs)
    self.query_d = nnx.Param(jnp.zeros(d))
    self.key_value_df = linear(d, 2 * d, rngs=rngs)
    self.key_value_f = nnx.Param(jnp.zeros(2 * d))
    self.out_dd = linear(d, d, rngs=rngs)
    self.out_d = nnx.Param(jnp.zeros(d))
    self.norm_feed_forward = LayerNorm(d)
    self.up_df = linear(d, d, rngs=rngs)
    self.up_f = nnx.Param(jnp.zeros(d))
    self.down_fd = linear(d, d, rngs=rngs)
    self.down_d = nnx.Param(jnp.zeros(d))

  def __call__(
    self,
    x_nd: jax.Array,
    *,
    position_bt: Array,
    sight: Any,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    keys = dropout.split(dropout_key, 3)
    with jax.named_scope("attention"):
      norm_nd = self.norm_attention(x_nd)
      q_nd = matmul(norm_nd, self.query_dd, self.query_d)
      kv_nf = matmul(x_nd, self.key_value_df, self.key_value_f)
      k_nd, v_nd = jnp.split(kv_nf, 2, axis=-1)
      mixed_nd = mix(
        self.attention,
        [q_nd, k_nd, v_nd],
        heads=self.heads,
        rotary=self.rotary,
        position_bt=position_bt,
        sight=sight,
        dropout_key=keys[0],
      )
      x_nd = norm_nd + matmul(mixed_nd, self.out_dd, self.out_d)
    with jax.named_scope("feed_forward"):
      norm_nd = self.norm_feed_forward(x_nd)
      up_nf = jax.nn.relu(matmul(norm_nd, self.up_df, self.up_f))
      up_nf = dropout.dropout(up_nf, self.dropout, key=keys[1])
      out_nd = matmul(up_nf, self.down_fd, self.down_d)
      return norm_nd + dropout.dropout(out_nd, self.dropout, key=keys[2])


def make_block(
  config: ModelConfig, *, window: int, rngs: nnx.Rngs
) -> Gated | Sasrec | Hstu:
  match config.block:
    case GatedBlock() as block:
      return Gated(config, block, rngs=rngs)
    case SasrecBlock():
      return Sasrec(config, rngs=rngs)
    case HstuBlock():
      return Hstu(config, window=window, rngs=rngs)


def make_final_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
  match config.block:
    case GatedBlock():
      return RMSNorm(config.width)
    case SasrecBlock() | HstuBlock():
      return LayerNorm(config.width)

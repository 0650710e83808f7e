"""The two kinds of transformer block.

Tokens are flat (x_nd, n = b · t) everywhere but inside attention: token-wise
layers on [b, t, d] cost about twice as much on XLA's CPU backend.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import GatedBlock, ModelConfig, SasrecBlock
from fmjax.data.batch import Array
from fmjax.model import dropout
from fmjax.model.attention import make_attention
from fmjax.model.features import linear

_NORM_EPSILON = 1e-6


class RMSNorm(nnx.Module):
  """x / rms(x) · scale (Zhang and Sennrich, 2019), in float32."""

  def __init__(self, width: int):
    self.scale_d = nnx.Param(jnp.ones(width))

  def __call__(self, x_nd: jax.Array) -> jax.Array:
    wide_nd = x_nd.astype(jnp.float32)
    square_n = jnp.mean(jnp.square(wide_nd), axis=-1, keepdims=True)
    norm_nd = wide_nd * jax.lax.rsqrt(square_n + _NORM_EPSILON)
    return (norm_nd * self.scale_d[...][None]).astype(x_nd.dtype)


class LayerNorm(nnx.Module):
  """Zero mean, unit variance, scale and bias, in float32."""

  def __init__(self, width: int):
    self.scale_d = nnx.Param(jnp.ones(width))
    self.bias_d = nnx.Param(jnp.zeros(width))

  def __call__(self, x_nd: jax.Array) -> jax.Array:
    wide_nd = x_nd.astype(jnp.float32)
    center_nd = wide_nd - jnp.mean(wide_nd, axis=-1, keepdims=True)
    square_n = jnp.mean(jnp.square(center_nd), axis=-1, keepdims=True)
    norm_nd = center_nd * jax.lax.rsqrt(square_n + _NORM_EPSILON)
    norm_nd = norm_nd * self.scale_d[...][None] + self.bias_d[...][None]
    return norm_nd.astype(x_nd.dtype)


def mix(
  attention: nnx.Module,
  projections_nd: list[jax.Array],
  *,
  heads: int,
  segment_bt: Array,
  bucket_bts: jax.Array | None,
  dropout_key: jax.Array | None,
) -> jax.Array:
  """Queries, keys and values, each x_nd, attended to and flat again."""
  b, t = segment_bt.shape
  n, d = projections_nd[0].shape
  rows = mesh.spec("rows", None, None, None)
  mixed_bthe = attention(
    *(
      x_nd.reshape((b, t, heads, d // heads), out_sharding=rows)
      for x_nd in projections_nd
    ),
    segment_bt=segment_bt,
    bucket_bts=bucket_bts,
    dropout_key=dropout_key,
  )
  return mixed_bthe.reshape((n, d), out_sharding=mesh.spec("tokens", None))


def matmul(
  x_nd: jax.Array, w_df: nnx.Param, bias_f: nnx.Param | None = None
) -> jax.Array:
  """x_nd · w_df + bias_f in the dtype of x."""
  y_nf = jnp.einsum("nd,df->nf", x_nd, w_df[...].astype(x_nd.dtype))
  if bias_f is None:
    return y_nf
  return y_nf + bias_f[...][None].astype(x_nd.dtype)


def retrieval(d: int, *, rngs: nnx.Rngs) -> tuple[nnx.Param, nnx.Param]:
  """Projections of an attention that finds what is alike and brings it along.

  Keys start as the queries, and the output as the values' transpose: a token
  attends to tokens like it and adds what they hold, by and large unchanged.
  Queries and keys drawn apart, or values and output, have to find each other
  first. After the structure that Trockman and Kolter ("Mimetic Initialization
  of Self-Attention Layers", 2023) saw in trained transformers; they have the
  values negative.

  Returns:
    [d, 4 · d], side by side for queries, keys, values and gate; [d, d].
  """
  query_dd, value_dd, gate_dd = (linear(d, d, rngs=rngs)[...] for _ in range(3))
  inward_df = jnp.concatenate([query_dd, query_dd, value_dd, gate_dd], axis=1)
  return nnx.Param(inward_df), nnx.Param(value_dd.T)


def feed_forward_width(block: GatedBlock, width: int) -> int:
  """A multiple of 8, so that it divides over a mesh of eight."""
  return -(-int(block.feed_forward * width) // 8) * 8


class Gated(nnx.Module):
  """Pre-norm block with SwiGLU and gated residuals.

  x + σ(x̂ · W) ⊙ f(x̂) with x̂ = norm(x) for both halves f: LiGR (Borisyuk et
  al., 2025, "From Features to Transformers"). The gates keep deep stacks of
  recommender blocks from collapsing.
  """

  def __init__(self, config: ModelConfig, block: GatedBlock, *, rngs: nnx.Rngs):
    d = config.width
    f = feed_forward_width(block, d)
    self.heads = config.heads
    self.dropout = config.dropout
    self.attention = make_attention(config)
    self.norm_attention = RMSNorm(d)
    self.qkv_gate_df, self.out_dd = retrieval(d, rngs=rngs)
    self.norm_feed_forward = RMSNorm(d)
    self.up_df = linear(d, f, rngs=rngs, axes=(None, "feed_forward"))
    self.gate_df = linear(d, f, rngs=rngs, axes=(None, "feed_forward"))
    self.down_fd = linear(f, d, rngs=rngs, axes=("feed_forward", None))
    self.gate_feed_forward_dd = linear(d, d, rngs=rngs)

  def __call__(
    self,
    x_nd: jax.Array,
    *,
    segment_bt: Array,
    bucket_bts: jax.Array | None,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    keys = dropout.split(dropout_key, 3)
    with jax.named_scope("attention"):
      norm_nd = self.norm_attention(x_nd)
      *qkv, gate_nd = jnp.split(matmul(norm_nd, self.qkv_gate_df), 4, axis=-1)
      mixed_nd = mix(
        self.attention,
        qkv,
        heads=self.heads,
        segment_bt=segment_bt,
        bucket_bts=bucket_bts,
        dropout_key=keys[0],
      )
      out_nd = matmul(mixed_nd, self.out_dd)
      out_nd = dropout.dropout(out_nd, self.dropout, key=keys[1])
      x_nd = x_nd + jax.nn.sigmoid(gate_nd) * out_nd
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
      gate_nd = jax.nn.sigmoid(matmul(norm_nd, self.gate_feed_forward_dd))
      out_nd = dropout.dropout(out_nd, self.dropout, key=keys[2])
      return x_nd + gate_nd * out_nd


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
    segment_bt: Array,
    bucket_bts: jax.Array | None,
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
        segment_bt=segment_bt,
        bucket_bts=bucket_bts,
        dropout_key=keys[0],
      )
      x_nd = norm_nd + matmul(mixed_nd, self.out_dd, self.out_d)
    with jax.named_scope("feed_forward"):
      norm_nd = self.norm_feed_forward(x_nd)
      up_nf = jax.nn.relu(matmul(norm_nd, self.up_df, self.up_f))
      up_nf = dropout.dropout(up_nf, self.dropout, key=keys[1])
      out_nd = matmul(up_nf, self.down_fd, self.down_d)
      return norm_nd + dropout.dropout(out_nd, self.dropout, key=keys[2])


def make_block(config: ModelConfig, *, rngs: nnx.Rngs) -> Gated | Sasrec:
  match config.block:
    case GatedBlock() as block:
      return Gated(config, block, rngs=rngs)
    case SasrecBlock():
      return Sasrec(config, rngs=rngs)


def make_final_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
  match config.block:
    case GatedBlock():
      return RMSNorm(config.width)
    case SasrecBlock():
      return LayerNorm(config.width)

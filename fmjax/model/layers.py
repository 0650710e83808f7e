"""What the kinds of block have in common."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.data.batch import Array
from fmjax.model.rotary import Rotary

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
  rotary: Rotary | None,
  position_bt: Array,
  sight: Any,
  dropout_key: jax.Array | None,
) -> jax.Array:
  """Queries, keys and values, each x_nd, attended to and flat again.

  Args:
    attention: of the block.
    projections_nd: in that order.
    heads: in how many to cut them.
    rotary: turns queries and keys.
    position_bt: within the window.
    sight: what `attention` has prepared.
    dropout_key: drops attention weights; None: deterministic.
  """
  q_bthe, k_bshe, v_bshe = (
    by_head(x_nd, like_bt=position_bt, heads=heads) for x_nd in projections_nd
  )
  if rotary is not None:
    q_bthe = rotary(q_bthe, position_bt=position_bt)
    k_bshe = rotary(k_bshe, position_bt=position_bt)
  mixed_bthe = attention(
    q_bthe, k_bshe, v_bshe, sight=sight, dropout_key=dropout_key
  )
  flat = mesh.spec("tokens", None)
  return mixed_bthe.reshape(projections_nd[0].shape, out_sharding=flat)


def by_head(x_nd: jax.Array, *, like_bt: Array, heads: int) -> jax.Array:
  """x_nd → x_bthe, with the rows and positions of `like_bt`."""
  rows = mesh.spec("rows", None, None, None)
  shape = (*like_bt.shape, heads, x_nd.shape[1] // heads)
  return x_nd.reshape(shape, out_sharding=rows)


def matmul(
  x_nd: jax.Array, w_df: nnx.Param, bias_f: nnx.Param | None = None
) -> jax.Array:
  """x_nd · w_df + bias_f in the dtype of x."""
  y_nf = jnp.einsum("nd,df->nf", x_nd, w_df[...].astype(x_nd.dtype))
  if bias_f is None:
    return y_nf
  return y_nf + bias_f[...][None].astype(x_nd.dtype)

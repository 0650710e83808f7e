"""HSTU (Zhai et al., 2024, "Actions Speak Louder than Words")."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import FullAttention, ModelConfig, WindowAttention
from fmjax.data.batch import Array, Batch
from fmjax.model import attention, dropout
from fmjax.model.features import linear
from fmjax.model.layers import LayerNorm, matmul, mix
from fmjax.model.time_bias import TimeBias
from fmjax.model.window import Band


class Pointwise(nnx.Module):
  """silu(q kᵀ / √e + biases) / n, where n positions are seen: no softmax.

  So how many positions agree with a query is not lost. The biases are of the
  distance in positions and, where there is one, in time.
  """

  def __init__(
    self, *, heads: int, distances: int, time_bias: TimeBias | None = None
  ):
    self.time_bias = time_bias
    self.bias_hs = nnx.Param(jnp.zeros((heads, distances)))

  def distance_bias(self, distance_ts: jax.Array) -> jax.Array:
    """bias_hts of positions so far apart."""
    # Of no meaning out of bounds: there the key is not seen.
    return self.bias_hs[...][:, jnp.clip(distance_ts, 0, self.farthest)]

  @property
  def farthest(self) -> int:
    return self.bias_hs.shape[-1] - 1


class PointwiseFull(Pointwise):
  """On a position itself and all before it."""

  def prepare(self, batch: Batch) -> tuple[attention.Sight, Array]:
    """What queries see and each one's n, the same in every layer."""
    return attention.Sight.of(batch, self.time_bias), batch.position_bt

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: tuple[attention.Sight, Array],
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `attention.Full`; drops no weights."""
    del dropout_key
    seen, before_bt = sight
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    mixed = []
    for start, end in attention.query_blocks(q_bhte.shape[2]):
      logits_bhts = jnp.einsum(
        "bhte,bhse->bhts", q_bhte[:, :, start:end], k_bhse[:, :, :end]
      )
      logits_bhts = logits_bhts.astype(jnp.float32) * q_bhte.shape[-1] ** -0.5
      distance_ts = jnp.arange(start, end)[:, None] - jnp.arange(end)[None]
      logits_bhts = logits_bhts + self.distance_bias(distance_ts)[None]
      if self.time_bias is not None:
        assert seen.bucket_bts is not None
        logits_bhts = logits_bhts + self.time_bias(
          seen.bucket_bts[:, start:end, :end]
        )
      mask_bts = attention.visible(seen.segment_bt, start, end)
      weights_bhts = weigh(
        logits_bhts, mask_bts[:, None], before_bt[:, None, start:end]
      )
      mixed.append(
        jnp.einsum(
          "bhts,bhse->bhte",
          weights_bhts.astype(v_bhse.dtype),
          v_bhse[:, :, :end],
        )
      )
    return jnp.swapaxes(jnp.concatenate(mixed, axis=2), 1, 2)


class PointwiseWindow(Pointwise):
  """On a position itself and those just before it: as many as distances."""

  def prepare(self, batch: Batch) -> Band:
    """What queries see, the same in every layer."""
    before_bt = jnp.minimum(batch.position_bt, self.farthest)
    return Band.of(before_bt, batch, span=self.farthest + 1)

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Band,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `attention.Full`; drops no weights."""
    del dropout_key
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    logits_bhjts = sight.logits(q_bhte, k_bhse, self.time_bias)
    bias_hts = self.distance_bias(sight.distance_ts())
    weights_bhjts = weigh(
      logits_bhjts + bias_hts[None, :, None],
      sight.seen_bjts()[:, None],
      sight.before_bjt[:, None],
    )
    return jnp.swapaxes(sight.mix(weights_bhjts, v_bhse), 1, 2)


def weigh(
  logits_bhts: jax.Array, mask_bhts: jax.Array, before_bht: Array
) -> jax.Array:
  """weights_bhts of queries that see `before_bht` positions and themselves."""
  share_bht = 1 / (jnp.asarray(before_bht, jnp.float32) + 1)
  weights_bhts = jax.nn.silu(logits_bhts) * share_bht[..., None]
  return jnp.where(mask_bhts, weights_bhts, 0.0)


class Hstu(nnx.Module):
  """x + W · (norm(A · V) ⊙ U) with U, V, Q, K = silu(norm(x) · W')."""

  def __init__(self, config: ModelConfig, *, window: int, rngs: nnx.Rngs):
    d = config.width
    self.heads = config.heads
    self.dropout = config.dropout
    time_bias = attention.make_time_bias(config)
    match config.attention:
      case FullAttention():
        self.attention = PointwiseFull(
          heads=config.heads, distances=window, time_bias=time_bias
        )
      case WindowAttention(span=span):
        self.attention = PointwiseWindow(
          heads=config.heads, distances=span, time_bias=time_bias
        )
      case choice:
        raise TypeError(f"no pointwise form of {choice}")
    self.norm = LayerNorm(d)
    self.inward_df = linear(d, 4 * d, rngs=rngs)
    self.norm_mixed = LayerNorm(d)
    self.out_dd = linear(d, d, rngs=rngs)

  def __call__(
    self,
    x_nd: jax.Array,
    *,
    position_bt: Array,
    sight: Any,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    with jax.named_scope("attention"):
      inward_nf = jax.nn.silu(matmul(self.norm(x_nd), self.inward_df))
      u_nd, v_nd, q_nd, k_nd = jnp.split(inward_nf, 4, axis=-1)
      mixed_nd = mix(
        self.attention,
        [q_nd, k_nd, v_nd],
        heads=self.heads,
        rotary=None,
        position_bt=position_bt,
        sight=sight,
        dropout_key=None,
      )
      out_nd = self.norm_mixed(mixed_nd) * u_nd
      out_nd = dropout.dropout(out_nd, self.dropout, key=dropout_key)
      return x_nd + matmul(out_nd, self.out_dd)

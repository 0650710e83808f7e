"""Causal attention over packed rows. Alternatives are types.

An attention takes projected queries, keys and values and returns the mixed
values; the projections belong to the block.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import FullAttention
from fmjax.data.batch import Array
from fmjax.model.dropout import dropout


class Full(nnx.Module):
  """Softmax attention of each position on itself and all before it."""

  def __init__(self, *, dropout: float):
    self.dropout = dropout

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    segment_bt: Array,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """Attends within segments, causally.

    Args:
      q_bthe: queries, h heads of width e.
      k_bshe: keys.
      v_bshe: values.
      segment_bt: int32; positions of different segments never meet.
      dropout_key: drops attention weights; None: deterministic.

    Returns:
      o_bthe, in the dtype of the values.
    """
    t = q_bthe.shape[1]
    logits_bhts = jnp.einsum("bthe,bshe->bhts", q_bthe, k_bshe)
    logits_bhts = logits_bhts.astype(jnp.float32) * q_bthe.shape[-1] ** -0.5
    causal_ts = jnp.tril(jnp.ones((t, t), dtype=bool))
    mask_bts = (segment_bt[:, :, None] == segment_bt[:, None, :]) & causal_ts[
      None
    ]
    # A position always sees itself, so no row of the softmax is empty.
    logits_bhts = jnp.where(mask_bts[:, None], logits_bhts, -jnp.inf)
    weights_bhts = jax.nn.softmax(logits_bhts, axis=-1).astype(v_bshe.dtype)
    weights_bhts = dropout(weights_bhts, self.dropout, key=dropout_key)
    return jnp.einsum("bhts,bshe->bthe", weights_bhts, v_bshe)


def make_attention(config: FullAttention, *, dropout: float) -> nnx.Module:
  match config:
    case FullAttention():
      return Full(dropout=dropout)

"""The plain forms of the fast parts: what they are measured against.

They compute the same (dropout: draw from the same distribution) and are what
one would write first. fmjax itself holds the fast forms alone.
"""

import jax
import jax.numpy as jnp

from fmjax import mesh
from fmjax.model import dropout
from fmjax.model.features import flatten
from fmjax.model.heads import ItemHead


def dense_attention(
  self, q_bthe, k_bshe, v_bshe, *, sight, dropout_key
) -> jax.Array:
  """`attention.Full`: every pair of positions, masked afterwards."""
  assert sight.bucket_bts is None, "the twin has no relative time"
  segment_bt = sight.segment_bt
  t, e = q_bthe.shape[1], q_bthe.shape[3]
  logits_bhts = jnp.einsum("bthe,bshe->bhts", q_bthe, k_bshe) * e**-0.5
  same_bts = segment_bt[:, :, None] == segment_bt[:, None, :]
  seen_bts = same_bts & jnp.tril(jnp.ones((t, t), bool))[None]
  logits_bhts = jnp.where(seen_bts[:, None], logits_bhts, -jnp.inf)
  weights_bhts = jax.nn.softmax(logits_bhts, axis=-1)
  weights_bhts = dropout.dropout(weights_bhts, self.dropout, key=dropout_key)
  return jnp.einsum("bhts,bshe->bthe", weights_bhts, v_bshe)


def library_dropout(x, rate: float, *, key) -> jax.Array:
  """`dropout.dropout` with JAX's own bits, 16 an entry."""
  if key is None or rate == 0.0:
    return x
  kept = jax.random.bits(key, x.shape, jnp.uint16) >= round(rate * 2**16)
  return jnp.where(kept, x / (1 - rate), 0.0)


def checkpointed_softmax(
  states_nd,
  head: ItemHead,
  *,
  item_bt,
  weight_bt,
  at_day_bt,
  chunk: int,
) -> jax.Array:
  """`loss.full_softmax`: its backward pass makes the logits a second time."""
  n, d = states_nd.shape
  parts = next(p for p in range(1, n + 1) if n % p == 0 and n // p <= chunk)

  @jax.checkpoint
  def add(total, scanned):
    states_nd, weight_n, at_day_n = scanned
    normalizer_n = jax.nn.logsumexp(head.logits(states_nd, at_day_n), axis=-1)
    return total + jnp.sum(normalizer_n * weight_n), None

  def split(array, *rest):
    spec = mesh.spec(None, "tokens", *(None for _ in rest))
    return array.reshape(parts, n // parts, *rest, out_sharding=spec)

  chunks = split(states_nd, d), split(weight_bt), split(at_day_bt)
  total, _ = jax.lax.scan(add, jnp.zeros(()), chunks)
  logit_n = head.logit(states_nd, flatten(item_bt), flatten(at_day_bt))
  return total - jnp.sum(flatten(weight_bt) * logit_n)


def whole_softmax(
  states_nd,
  head: ItemHead,
  *,
  item_bt,
  weight_bt,
  at_day_bt,
  chunk: int,
) -> jax.Array:
  """`loss.full_softmax` with all logits at once, whatever `chunk` says."""
  logits_nv = head.logits(states_nd, flatten(at_day_bt))
  logit_n = head.logit(states_nd, flatten(item_bt), flatten(at_day_bt))
  nll_n = jax.nn.logsumexp(logits_nv, axis=-1) - logit_n
  return jnp.sum(nll_n * flatten(weight_bt))

"""A bias of attention by how long before the request a token was."""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.model.time import bucket_edges, log_bucket


class TimeBias(nnx.Module):
  """A learned bias by head and log-scaled bucket of a span of time."""

  def __init__(self, heads: int, buckets: int):
    self.buckets = buckets
    self.bias_hi = nnx.Param(jnp.zeros((heads, buckets)))

  def __call__(self, bucket_bts: jax.Array) -> jax.Array:
    """bias_bhts of some queries on some keys, float32."""
    return _lookup(self.bias_hi[...], bucket_bts[:, None])

  def of_times(self, query_bhts: jax.Array, key_bhts: jax.Array) -> jax.Array:
    """As called with the buckets of the times' differences.

    Faster where a layer has few pairs, as no bucket is stored.

    Args:
      query_bhts: times, seconds; with more axes between h and t if need be.
      key_bhts: times; the two broadcast to the shape of the logits, but for the
        heads, which may be 1.
    """
    return _of_times(self.bias_hi[...], query_bhts, key_bhts)


def _lookup(bias_hi: jax.Array, bucket_bhts: jax.Array) -> jax.Array:
  heads, buckets = bias_hi.shape
  # One flat table, read where the result lies: with a row a head, or a row a
  # bucket to be transposed, the step took half as much again for it on CPU.
  place_bhts = bucket_bhts + _by_head(jnp.arange(heads) * buckets, bucket_bhts)
  return (
    bias_hi.reshape(-1)
    .at[place_bhts]
    .get(
      out_sharding=jax.typeof(place_bhts).sharding.spec,
      mode="promise_in_bounds",
    )
  )


def _by_head(value_h: jax.Array, like: jax.Array) -> jax.Array:
  """A value a head, to be broadcast against [b, h, …]."""
  return value_h.reshape(1, -1, *(1,) * (like.ndim - 2))


@jax.custom_vjp
def _of_times(bias_hi, query_bhts, key_bhts):
  span_bhts = query_bhts - key_bhts
  # One comparison a bucket, in vectors. XLA's CPU backend would fuse the search
  # for a bucket into the lookup, and do both an entry at a time.
  bias_bhts = _by_head(bias_hi[:, 0], span_bhts)
  for bucket, edge in enumerate(bucket_edges(bias_hi.shape[1]), start=1):
    longer_bhts = _by_head(bias_hi[:, bucket], span_bhts)
    bias_bhts = jnp.where(span_bhts >= edge, longer_bhts, bias_bhts)
  return bias_bhts


def _forward(bias_hi, query_bhts, key_bhts):
  times = query_bhts, key_bhts
  return _of_times(bias_hi, *times), (bias_hi, *times)


def _backward(saved, grad_bhts):
  bias_hi, query_bhts, key_bhts = saved
  bucket_bhts = log_bucket(query_bhts - key_bhts, buckets=bias_hi.shape[1])
  _, pull = jax.vjp(lambda bias_hi: _lookup(bias_hi, bucket_bhts), bias_hi)
  return *pull(grad_bhts), None, None


_of_times.defvjp(_forward, _backward)

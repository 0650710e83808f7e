"""A bias of attention by how long before the request a token was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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
  how = _by_pair
  # Not of many short chunks: a turn of the loop costs more than their pairs.
  if grad_bhts.ndim == 4:
    how = functools.partial(
      jax.lax.platform_dependent, cpu=_by_row, default=_by_pair
    )
  return how(bias_hi, query_bhts, key_bhts, grad_bhts), None, None


def _by_pair(bias_hi, query_bhts, key_bhts, grad_bhts):
  """Gradient of the biases: every pair adds to its bucket's."""
  bucket_bhts = log_bucket(query_bhts - key_bhts, buckets=bias_hi.shape[1])
  _, pull = jax.vjp(lambda bias_hi: _lookup(bias_hi, bucket_bhts), bias_hi)
  return pull(grad_bhts)[0]


def _by_row(bias_hi, query_bhts, key_bhts, grad_bhts):
  """As `_by_pair`, on CPU in half the time: vectors instead of a scatter.

  A query at a time adds to sums of the pairs that span at least so long; their
  differences are the buckets'.
  """
  b, h, t, s = grad_bhts.shape
  buckets = bias_hi.shape[1]
  least = np.iinfo(np.int32).min
  edge_bhis = jnp.asarray([least, *bucket_edges(buckets)], jnp.int32).reshape(
    1, 1, -1, 1
  )

  def add_query(n, sum_bhis):
    query_bhs, grad_bhs = (
      jax.lax.dynamic_index_in_dim(x, n, axis=2)
      for x in (query_bhts, grad_bhts)
    )
    longer_bhis = query_bhs - key_bhts >= edge_bhis
    return sum_bhis + jnp.where(longer_bhis, grad_bhs, 0.0)

  partition = jax.typeof(grad_bhts).sharding.spec
  empty_bhis = jnp.zeros(
    (b, h, buckets, s), out_sharding=jax.P(*partition[:2], None, partition[3])
  )
  sum_bhis = jax.lax.fori_loop(0, t, add_query, empty_bhis)
  sum_hi = jnp.sum(sum_bhis, axis=(0, 3))
  return sum_hi - jnp.pad(sum_hi[:, 1:], ((0, 0), (0, 1)))


_of_times.defvjp(_forward, _backward)

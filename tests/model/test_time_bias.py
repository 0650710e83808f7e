"""The bias of a span of time, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.model.time import bucket_edges
from fmjax.model.time_bias import TimeBias

HEADS, BUCKETS = 3, 32
# Axes between heads and queries, as attention far back and nearby has them.
BETWEEN = {"rows": (), "chunks": (4,)}


def times(rng, *shape):
  """Seconds of all magnitudes: every bucket has some differences."""
  return np.exp(rng.uniform(0, np.log(2e9), shape)).astype(np.int32)


@pytest.fixture(params=BETWEEN)
def world(request):
  """(bias, times of queries, of keys, gradient of the pairs, their buckets)."""
  rng, between = np.random.default_rng(0), BETWEEN[request.param]
  bias = TimeBias(HEADS, BUCKETS)
  bias.bias_hi[...] = jnp.asarray(
    rng.normal(size=(HEADS, BUCKETS)), jnp.float32
  )
  query_bhts = times(rng, 2, 1, *between, 50, 1)
  key_bhts = times(rng, 2, HEADS, *between, 1, 40)
  grad_bhts = rng.normal(size=(2, HEADS, *between, 50, 40)).astype(np.float32)
  bucket_bhts = np.searchsorted(
    bucket_edges(BUCKETS), query_bhts - key_bhts, side="right"
  )
  assert len(np.unique(bucket_bhts)) == BUCKETS
  return bias, query_bhts, key_bhts, grad_bhts, bucket_bhts


def test_a_pair_has_the_bias_of_its_bucket(world):
  bias, query_bhts, key_bhts, _, bucket_bhts = world
  head_bhts = np.indices(bucket_bhts.shape)[1]
  np.testing.assert_array_equal(
    bias.of_times(query_bhts, key_bhts),
    np.asarray(bias.bias_hi)[head_bhts, bucket_bhts],
  )


def test_the_pairs_of_a_bucket_and_no_others_move_its_bias(world):
  bias, query_bhts, key_bhts, grad_bhts, bucket_bhts = world
  want_hi = np.zeros((HEADS, BUCKETS))
  head_bhts = np.indices(bucket_bhts.shape)[1]
  np.add.at(want_hi, (head_bhts, bucket_bhts), grad_bhts)

  def total(bias):
    return jnp.sum(bias.of_times(query_bhts, key_bhts) * grad_bhts)

  found = jax.jit(jax.grad(total))(bias)
  # Sums of thousands of float32.
  np.testing.assert_allclose(found.bias_hi[...], want_hi, rtol=1e-5, atol=1e-4)

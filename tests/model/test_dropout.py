"""Dropout's hash behaves like independent coin tosses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fmjax.model.dropout import dropout, random_bits

LIKE = jnp.zeros((300, 400))


@pytest.fixture
def words():
  keys = jax.random.split(jax.random.key(0), 4)
  return [np.asarray(random_bits(key, LIKE)) for key in keys]


def test_every_bit_is_set_half_of_the_time(words):
  for word in words:
    bits = (word[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    share = bits.mean((0, 1))
    # Six standard deviations of 128 shares of 120,000 tosses.
    assert np.abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(word.size)


def test_words_are_uniform(words):
  for word in words:
    cells, _ = np.histogram(word, bins=256, range=(0, 2**32))
    assert stats.chisquare(cells).pvalue > 1e-4


def test_neighbors_and_keys_are_independent(words):
  uniform = [word / 2**32 - 0.5 for word in words]
  pairs = [(u[:, 1:], u[:, :-1]) for u in uniform]
  pairs += [(u[1:], u[:-1]) for u in uniform]
  pairs += [(u, v) for u, v in itertools.pairwise(uniform)]
  for one, other in pairs:
    correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(one.size)


def test_runs_along_a_row_are_as_long_as_those_of_coins(words):
  for word in words:
    dropped = (word < 0.1 * 2**32).astype(int)
    twice = (dropped[:, 1:] & dropped[:, :-1]).mean()
    assert twice == pytest.approx(0.01, abs=5 * 0.1 / np.sqrt(word.size))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_kept_and_the_mean_too(rate):
  x = jnp.ones((200, 300))
  dropped = dropout(x, rate, key=jax.random.key(1))
  share = float((dropped == 0).mean())
  deviation = np.sqrt(rate * (1 - rate) / x.size)
  assert abs(share - rate) < 5 * deviation
  kept = np.asarray(dropped[dropped != 0])
  np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-6)


def test_half_precision_is_rescaled_by_the_rate_and_rounded_once():
  x = jax.random.normal(jax.random.key(0), (200, 300)).astype(jnp.bfloat16)
  dropped = dropout(x, 0.1, key=jax.random.key(1))
  want = (x.astype(jnp.float32) / np.float32(0.9)).astype(jnp.bfloat16)
  assert dropped.dtype == jnp.bfloat16
  assert bool(jnp.all((dropped == want) | (dropped == 0)))


def test_the_same_key_draws_the_same_mask_forward_and_backward():
  key = jax.random.key(2)
  x = jnp.ones((50, 60))

  def total(x):
    return jnp.sum(dropout(x, 0.3, key=key))

  gradient = jax.grad(total)(x)
  assert (gradient == dropout(x, 0.3, key=key)).all()


def test_without_a_key_or_a_rate_nothing_changes():
  x = jnp.arange(6.0)
  assert (dropout(x, 0.3, key=None) == x).all()
  assert (dropout(x, 0.0, key=jax.random.key(0)) == x).all()

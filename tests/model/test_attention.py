"""Every form of attention equals attention written out whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.model.attention import Full, Fused, query_blocks


def dense(q_bthe, k_bshe, v_bshe, *, segment_bt):
  """The plain twin: every pair of positions, then a mask."""
  t, e = q_bthe.shape[1], q_bthe.shape[3]
  logits_bhts = jnp.einsum("bthe,bshe->bhts", q_bthe, k_bshe) / np.sqrt(e)
  same_bts = segment_bt[:, :, None] == segment_bt[:, None, :]
  seen_bts = same_bts & np.tril(np.ones((t, t), bool))[None]
  logits_bhts = jnp.where(seen_bts[:, None], logits_bhts, -jnp.inf)
  return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(logits_bhts), v_bshe)


def inputs(window, *, rows=3, heads=2, seed=0):
  rng = np.random.default_rng(seed)
  q_bthe, k_bshe, v_bshe = (
    jnp.asarray(rng.normal(size=(rows, window, heads, 4)), jnp.float32)
    for _ in range(3)
  )
  segment_bt = np.sort(rng.integers(0, 5, (rows, window)), axis=1)
  return (q_bthe, k_bshe, v_bshe), jnp.asarray(segment_bt, jnp.int32)


FORMS = [Full(dropout=0.5), Fused()]
each_form = pytest.mark.parametrize("attention", FORMS, ids=["full", "fused"])


@each_form
@pytest.mark.parametrize("window", [1, 8, 64, 65, 130, 200])
def test_every_form_equals_the_whole_written_out(attention, window):
  arrays, segment_bt = inputs(window)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=arrays[0].shape))

  def total(attend):
    return lambda arrays: jnp.sum(attend(*arrays) * weights)

  def blocks(*arrays):
    return attention(*arrays, segment_bt=segment_bt, dropout_key=None)

  def whole(*arrays):
    return dense(*arrays, segment_bt=segment_bt)

  np.testing.assert_allclose(blocks(*arrays), whole(*arrays), atol=1e-5)
  got = jax.grad(total(blocks))(arrays)
  want = jax.grad(total(whole))(arrays)
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@each_form
@pytest.mark.parametrize("window", [64, 200])
def test_no_form_sees_a_later_position_to_the_bit(attention, window):
  arrays, segment_bt = inputs(window)

  def run(arrays):
    return attention(
      *arrays, segment_bt=segment_bt, dropout_key=jax.random.key(0)
    )

  before = run(arrays)
  for cut in (1, 50, window - 1):
    later = tuple(x.at[:, cut:].add(1.0) for x in arrays)
    assert (run(later)[:, :cut] == before[:, :cut]).all()
    assert not (run(later)[:, cut:] == before[:, cut:]).all()


@pytest.mark.parametrize("window", [1, 63, 64, 65, 200, 1_024, 5_000])
def test_blocks_partition_the_window_evenly(window):
  blocks = query_blocks(window)
  assert [blocks[0][0], blocks[-1][1]] == [0, window]
  assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
  sizes = [end - start for start, end in blocks]
  assert max(sizes) - min(sizes) <= 1
  assert len(blocks) <= 16
  assert max(sizes) <= 64 or len(blocks) == 16


def test_dropped_weights_are_unbiased_and_drawn_by_key():
  arrays, segment_bt = inputs(130)
  attention = Full(dropout=0.3)
  want = attention(*arrays, segment_bt=segment_bt, dropout_key=None)

  @jax.jit
  @jax.vmap
  def draw(key):
    return attention(*arrays, segment_bt=segment_bt, dropout_key=key)

  drawn = draw(jax.random.split(jax.random.key(0), 400))
  assert not (drawn[0] == drawn[1]).all()
  error = np.asarray(drawn.mean(0) - want)
  scale = np.asarray(drawn.std(0)) / 20 + 1e-6
  assert np.abs(error / scale).mean() < 1.2  # of a normal: .8

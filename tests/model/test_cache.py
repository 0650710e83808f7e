"""Stepwise decoding equals one pass."""

import dataclasses

import attention_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.model.cache import extend, init_cache
from fmjax.model.rotary import Rotary
from fmjax.model.time import key_times

WINDOW, ROWS = 30, 2


def histories():
  """Each row one history."""
  batch = world.packed(WINDOW, rows=ROWS)
  position_bt = np.tile(np.arange(WINDOW, dtype=np.int32), (ROWS, 1))
  return dataclasses.replace(
    batch,
    segment_bt=np.ones((ROWS, WINDOW), np.int32),
    position_bt=position_bt,
    index_bt=position_bt,
  )


@pytest.mark.parametrize("name", world.FORMS)
def test_steps_equal_one_pass_wherever_it_is_cut(name):
  attention, batch, rotary = world.form(name), histories(), Rotary(100.0)
  q_bthe, k_bshe, v_bshe = world.arrays(WINDOW, rows=ROWS)

  @jax.jit
  def whole(q_bthe, k_bshe):
    arrays = (
      *(rotary(x, position_bt=batch.position_bt) for x in (q_bthe, k_bshe)),
      v_bshe,
    )
    return world.run(attention, arrays, batch)

  @jax.jit
  def steps(cache, arrays):
    """Positions of one length and as many rows, one after the other."""

    def step(cache, scanned):
      q_bhe, k_bhe, v_bhe, time_b, key_time_b = scanned
      q_bhe, k_bhe = (
        rotary(x[:, None], position_bt=cache.length_b[:, None])[:, 0]
        for x in (q_bhe, k_bhe)
      )
      o_bhe, cache = extend(
        attention,
        cache,
        q_bhe,
        k_bhe,
        v_bhe,
        time_b=time_b,
        key_time_b=key_time_b,
      )
      return cache, o_bhe

    arrays = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), arrays)
    cache, o_tbhe = jax.lax.scan(step, cache, arrays)
    return cache, jnp.moveaxis(o_tbhe, 0, 1)

  arrays = q_bthe, k_bshe, v_bshe, jnp.asarray(batch.time_bt), key_times(batch)
  cache = init_cache(
    attention, rows=ROWS, heads=2, width=world.WIDTH, capacity=WINDOW
  )
  found = []
  for cut in range(0, WINDOW, 15):  # the state goes out and comes in again
    part = jax.tree.map(lambda x, cut=cut: x[:, cut : cut + 15], arrays)
    cache, o_bthe = steps(cache, part)
    found.append(o_bthe)
  np.testing.assert_allclose(
    jnp.concatenate(found, axis=1), whole(q_bthe, k_bshe), atol=1e-5
  )


def test_a_row_is_decoded_at_its_own_length():
  attention, batch = world.form("low rank"), histories()
  arrays = world.arrays(WINDOW, rows=ROWS)
  times = jnp.asarray(batch.time_bt), key_times(batch)

  @jax.jit
  def step(cache, at_b):
    q_bhe, k_bhe, v_bhe, time_b, key_time_b = (
      x[jnp.arange(ROWS), at_b] for x in (*arrays, *times)
    )
    return extend(
      attention,
      cache,
      q_bhe,
      k_bhe,
      v_bhe,
      time_b=time_b,
      key_time_b=key_time_b,
    )

  cache = init_cache(
    attention, rows=ROWS, heads=2, width=world.WIDTH, capacity=WINDOW
  )
  # The first row takes two positions where the second takes one.
  for _ in range(13):
    _, ahead = step(cache, cache.length_b)
    cache = jax.tree.map(
      lambda new, old: jnp.concatenate([new[:1], old[1:]]), ahead, cache
    )
    last_bhe, cache = step(cache, cache.length_b)
  assert cache.length_b.tolist() == [26, 13]
  whole_bthe = jax.jit(world.run)(attention, arrays, batch)
  want_bhe = whole_bthe[jnp.arange(ROWS), cache.length_b - 1]
  np.testing.assert_allclose(last_bhe, want_bhe, atol=1e-5)


def test_a_low_rank_cache_keeps_slots_instead_of_keys():
  cache = init_cache(
    world.form("low rank"), rows=1, heads=2, width=4, capacity=64
  )
  assert cache.k_bhse.shape == (1, 2, 8, 4)
  assert cache.slot_k_bhjre.shape == (1, 2, 16, 2, 4)

"""Low-rank attention: what is exact, what is compressed, and what it costs."""

import attention_world as world
import jax
import numpy as np
import pytest

from fmjax.model.attention import Full
from fmjax.model.low_rank import far_queries, piece_means


def compiled(form):
  return jax.jit(lambda *args: world.run(form, *args))


@pytest.mark.parametrize("window", [8, 72])
def test_as_many_slots_as_places_are_full_attention(window):
  low_rank = world.low_rank(4, 4, dropout=0.0)
  full = Full(dropout=0.0, time_bias=world.time_bias())
  moved = world.form("full").time_bias.bias_hi[...]
  for form in (low_rank, full):
    form.time_bias.bias_hi[...] = moved
  batch, arrays = world.packed(window), world.arrays(window)
  real = batch.segment_bt > 0
  np.testing.assert_allclose(
    compiled(low_rank)(arrays, batch)[real],
    compiled(full)(arrays, batch)[real],
    atol=1e-5,
  )


def test_queries_far_apart_meet_slots_of_their_own(monkeypatch):
  window, form = 70, world.form("low rank")
  batch, arrays = world.packed(window), world.arrays(window)
  want = compiled(form)(arrays, batch)
  monkeypatch.setattr("fmjax.model.low_rank._FAR", 16)
  np.testing.assert_allclose(compiled(form)(arrays, batch), want, atol=1e-5)


@pytest.mark.parametrize("name", ["low rank", "window", "pointwise window"])
def test_a_segment_packed_anywhere_is_what_it_is_alone(name):
  window, form = 70, world.form(name)
  batch, arrays = world.packed(window), world.arrays(window)
  run = compiled(form)
  packed = run(arrays, batch)
  alone = []
  places = []
  for row in range(1, 3):
    for segment in np.unique(batch.segment_bt[row]):
      if segment > 0:
        places.append((row, np.flatnonzero(batch.segment_bt[row] == segment)))
  assert any(len(at) > 12 and at[0] % 4 for _, at in places)

  def take(array):
    array = np.asarray(array)
    found = np.zeros((len(places), *array.shape[1:]), array.dtype)
    for index, (row, at) in enumerate(places):
      found[index, : len(at)] = array[row, at]
    return found

  batch, arrays = jax.tree.map(take, (batch, arrays))
  alone = run(arrays, batch)
  for index, (row, at) in enumerate(places):
    np.testing.assert_allclose(
      alone[index, : len(at)], packed[row, at], atol=1e-5
    )


def test_slots_start_as_means_of_pieces():
  assert (piece_means(4, 4) == np.eye(4)).all()
  assert (piece_means(4, 2) == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).all()
  weight_rs = piece_means(32, 5)
  np.testing.assert_allclose(weight_rs.sum(1), 1, rtol=1e-6)
  assert (np.count_nonzero(weight_rs, axis=0) == 1).all()


@pytest.mark.parametrize("window", [1, 8, 256, 300, 4_096, 10_000])
def test_no_query_misses_a_slot_that_it_sees(window):
  block = 32
  parts = far_queries(window, block)
  assert [parts[0][0], parts[-1][1]] == [0, window]
  for start, end, chunks in parts:
    assert start < end
    # Of one segment, or of any that begins in the row, the last that is seen.
    last = max((t - t % block - block - 1) // block for t in range(start, end))
    assert last < chunks or last <= 0
    assert chunks <= window // block

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  BidirectionalAttention,
  IdOnly,
  ItemOnly,
  ItemsConfig,
  Masked,
  ModelConfig,
  NoTime,
)
from fmjax.model.reading import Cloze, make_reading

ROWS, WINDOW = 2, 8  # of `batch`
MASKED = ModelConfig(
  width=16,
  layers=2,
  heads=2,
  features=ItemOnly(),
  time=NoTime(),
  items=ItemsConfig(mixer=IdOnly()),
  reading=Masked(share=0.4),
  attention=BidirectionalAttention(),
)
# Of the first row, the last position is asked for, as in evaluation, and a
# window is packed before it; of the second, two are, as in training.
HIDDEN = np.zeros((ROWS, WINDOW), bool)
HIDDEN[0, -1] = HIDDEN[1, 2] = HIDDEN[1, 5] = True
SEGMENT = np.array([[1, 1, 1, 2, 2, 2, 2, 2], [1] * 8], np.int32)


@jax.jit
def encode(model, batch):
  return model.encode(batch).reshape(*batch.item_bt.shape, -1)


@pytest.fixture
def model(build):
  return build(MASKED)


@pytest.fixture
def asked(batch):
  return dataclasses.replace(
    batch,
    # No item twice: what is at one position is told by no other.
    item_bt=np.arange(1, ROWS * WINDOW + 1, dtype=np.int32).reshape(
      ROWS, WINDOW
    ),
    weight_bt=HIDDEN.astype(np.float32),
    segment_bt=SEGMENT,
  )


def test_no_state_depends_on_a_hidden_item(model, asked):
  base = encode(model, asked)
  hidden = dataclasses.replace(
    asked, item_bt=np.where(HIDDEN, 30, asked.item_bt).astype(np.int32)
  )
  np.testing.assert_array_equal(encode(model, hidden), base)


def test_no_state_reads_what_was_before_a_position(model, asked):
  base = encode(model, asked)
  # There the next position holds the item that this one hides.
  previous = {name: value[::-1] for name, value in asked.previous.items()}
  other = dataclasses.replace(
    asked, previous=previous, index_bt=asked.index_bt + 3
  )
  np.testing.assert_array_equal(encode(model, other), base)


def test_a_shown_item_reaches_its_whole_window_and_no_other(model, asked):
  base = encode(model, asked)
  for row, position in ((0, 4), (0, 1), (1, 7)):
    item_bt = asked.item_bt.copy()
    item_bt[row, position] = 30
    changed = np.any(
      encode(model, dataclasses.replace(asked, item_bt=item_bt)) != base, -1
    )
    same = SEGMENT[row, position] == SEGMENT
    same[1 - row] = False
    np.testing.assert_array_equal(changed, same)


def test_the_gradient_of_hidden_items_is_exactly_zero(model, asked):
  definition, params, content = nnx.split(model, nnx.Param, ...)

  @jax.jit
  @jax.grad
  def gradient(params):
    states_nd = nnx.merge(definition, params, content).encode(asked)
    return (states_nd**3 * HIDDEN.reshape(-1, 1)).sum()

  table_vd = np.asarray(gradient(params)["items"]["id_vd"][...])
  reached_v = np.any(table_vd != 0, axis=1)
  assert not reached_v[asked.item_bt[HIDDEN]].any()
  shown = ~HIDDEN
  shown[0, :3] = False  # a window of which nothing is asked
  shown[asked.item_bt % 7 == 0] = False  # has no id
  assert reached_v[asked.item_bt[shown]].all()


def test_a_shown_item_has_the_age_of_its_own_event(asked):
  shown = Cloze(0.4).shown(asked)
  assert set(shown.previous) == {"item", "time"}
  for name, own in (("item", asked.item_bt), ("time", asked.time_bt)):
    np.testing.assert_array_equal(
      shown.previous[name], np.where(HIDDEN, 0, own)
    )
  np.testing.assert_array_equal(shown.index_bt == 0, HIDDEN)


def test_a_step_asks_for_a_share_of_the_targets_and_of_nothing_else(batch_of):
  batch = batch_of(rows=64)
  weight_bt = np.random.default_rng(0).integers(0, 4, batch.item_bt.shape) / 2
  batch = dataclasses.replace(batch, weight_bt=weight_bt.astype(np.float32))
  ask = jax.jit(Cloze(0.4).ask)
  first, again, other = (
    np.asarray(ask(batch, jax.random.key(seed)).weight_bt) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
  asked = first > 0
  np.testing.assert_array_equal(first[asked], weight_bt[asked])
  targets = (weight_bt > 0).sum()
  error = (0.4 * 0.6 / targets) ** 0.5
  assert abs(asked.sum() / targets - 0.4) < 3 * error


def test_the_same_is_asked_on_every_mesh(batch_of):
  batch = batch_of(rows=8)
  drawn = []
  for devices in ((1, 1), (4, 2)):
    device_mesh = mesh.make_mesh(data=devices[0], model=devices[1])
    with mesh.use(device_mesh):
      spread = mesh.shard_batch(batch, device_mesh)
      asked = jax.jit(Cloze(0.4).ask)(spread, jax.random.key(3))
      drawn.append(np.asarray(asked.weight_bt))
  np.testing.assert_array_equal(*drawn)


def test_a_causal_model_is_shown_what_is_and_asked_for_all(batch):
  reading = make_reading(ModelConfig())
  assert reading.ask(batch, jax.random.key(0)) is batch
  assert reading.shown(batch) is batch

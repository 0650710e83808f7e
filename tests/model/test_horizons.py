"""Horizon k at position t predicts item t + k - 1 of the same segment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import mesh
from fmjax.config import MultiToken
from fmjax.model.heads import ItemHead
from fmjax.model.horizons import Horizons, ItemTargets
from fmjax.train.loss import full_softmax

B, T, D, V, HORIZONS, WEIGHT = 4, 6, 8, 20, 3, 0.6
RNG = np.random.default_rng(0)
SEGMENT_BT = np.array(
  [
    [1, 1, 1, 1, 1, 1],
    [1, 1, 2, 2, 2, 0],
    [1, 2, 3, 3, 3, 3],
    [1, 1, 1, 0, 0, 0],
  ],
  np.int32,
)
STATES_ND = RNG.normal(size=(B * T, D)).astype(np.float32)
AHEAD_PDF = RNG.normal(size=(HORIZONS - 1, D, D)).astype(np.float32)
ITEM_DV = RNG.normal(size=(D, V)).astype(np.float32)
# Some tokens are context: they are no targets of any horizon.
WEIGHT_BT = RNG.random((B, T)) * (RNG.random((B, T)) < 0.7) * (SEGMENT_BT > 0)
TARGETS = ItemTargets(
  item_bt=RNG.integers(1, V, (B, T)).astype(np.int32) * (SEGMENT_BT > 0),
  weight_bt=WEIGHT_BT.astype(np.float32),
  at_day_bt=RNG.integers(0, 9, (B, T)).astype(np.int32),
)


def stacked():
  horizons = Horizons(MultiToken(horizons=HORIZONS, weight=WEIGHT), width=D)
  horizons.ahead_pdf[...] = jnp.asarray(AHEAD_PDF)
  return horizons(jnp.asarray(STATES_ND), SEGMENT_BT, TARGETS)


def by_horizon(array):
  """[b, p · t] → [b, p, t]."""
  return np.asarray(array).reshape(B, HORIZONS, T, *array.shape[2:])


@pytest.fixture(autouse=True)
def one_device():
  with mesh.use(mesh.make_mesh()):
    yield


def test_horizon_k_at_t_predicts_item_t_plus_k_minus_1_of_its_segment():
  states_nd, targets = stacked()
  states_bptd = by_horizon(states_nd.reshape(B, HORIZONS * T, D))
  item_bpt, weight_bpt, day_bpt = map(
    by_horizon, (targets.item_bt, targets.weight_bt, targets.at_day_bt)
  )
  reached = 0
  for b, t, k in np.ndindex(B, T, HORIZONS):
    state_d = STATES_ND.reshape(B, T, D)[b, t]
    if k:
      state_d = state_d + state_d @ AHEAD_PDF[k - 1]
    np.testing.assert_allclose(
      states_bptd[b, k, t], state_d, rtol=1e-5, atol=1e-5
    )
    # Candidates look as they do when the prediction is made.
    assert day_bpt[b, k, t] == TARGETS.at_day_bt[b, t]
    inside = t + k < T and SEGMENT_BT[b, t + k] == SEGMENT_BT[b, t]
    share = WEIGHT / (HORIZONS - 1) if k else 1
    if inside:
      reached += k > 0
      assert item_bpt[b, k, t] == TARGETS.item_bt[b, t + k]
      want = share * TARGETS.weight_bt[b, t + k]
      assert weight_bpt[b, k, t] == pytest.approx(want)
    else:
      assert item_bpt[b, k, t] == 0
      assert weight_bpt[b, k, t] == 0
  assert reached > 10


def loss(states_nd, targets):
  head = ItemHead(item_dv=jnp.asarray(ITEM_DV), mask_v=jnp.arange(V) > 0)
  return full_softmax(
    states_nd,
    head,
    item_bt=targets.item_bt,
    weight_bt=targets.weight_bt,
    at_day_bt=targets.at_day_bt,
    chunk=8,
  )


@jax.jit
def whole_loss():
  return loss(*stacked())


def written_out():
  """The first horizon's loss, and `weight` × the mean of the others'."""
  logp_of = jax.nn.log_softmax
  totals = np.zeros(HORIZONS)
  for b, t, k in np.ndindex(B, T, HORIZONS):
    if t + k >= T or SEGMENT_BT[b, t + k] != SEGMENT_BT[b, t]:
      continue
    state_d = STATES_ND.reshape(B, T, D)[b, t]
    if k:
      state_d = state_d + state_d @ AHEAD_PDF[k - 1]
    item = TARGETS.item_bt[b, t + k]
    log_v = np.asarray(logp_of(state_d @ ITEM_DV[:, 1:])) if item else None
    if log_v is not None:
      totals[k] -= TARGETS.weight_bt[b, t + k] * log_v[item - 1]
  return totals[0] + WEIGHT * totals[1:].mean()


@pytest.mark.parametrize("shape", [(1, 1), (4, 2)], ids=str)
def test_the_loss_is_that_of_the_next_token_and_a_mean_of_the_others(shape):
  data, model = shape
  with mesh.use(mesh.make_mesh(data=data, model=model)):
    assert whole_loss() == pytest.approx(written_out(), rel=1e-5)


def test_horizons_begin_as_the_state_itself():
  horizons = Horizons(MultiToken(horizons=2), width=D)
  states_nd, _ = horizons(jnp.asarray(STATES_ND), SEGMENT_BT, TARGETS)
  np.testing.assert_array_equal(
    np.asarray(states_nd).reshape(B, 2, T, D)[:, 1],
    STATES_ND.reshape(B, T, D),
  )

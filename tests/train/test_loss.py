"""Every loss equals its plain twin, values and gradients."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import mesh
from fmjax.model.heads import ItemHead, pair_logits
from fmjax.train.loss import (
  binary_cross_entropy,
  full_softmax,
  log_normalizers,
  sampled_softmax,
)


@pytest.fixture(autouse=True)
def single_device_mesh():
  with mesh.use(mesh.make_mesh()):
    yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """States, candidates and targets; row 0 is no item."""

  states_nd: jax.Array
  item_dv: jax.Array
  mask_v: jax.Array
  target_bt: jax.Array
  weight_bt: jax.Array
  at_day_bt: jax.Array

  @property
  def target_n(self):
    return self.target_bt.reshape(-1)

  @property
  def weight_n(self):
    return self.weight_bt.reshape(-1)

  @property
  def at_day_n(self):
    return self.at_day_bt.reshape(-1)

  def head(self, item_dv):
    return ItemHead(item_dv=item_dv, mask_v=self.mask_v)


def world(seed=0, b=4, t=12, v=30, d=8) -> World:
  rng = np.random.default_rng(seed)
  return World(
    states_nd=jnp.asarray(rng.normal(size=(b * t, d)), jnp.float32),
    item_dv=jnp.asarray(rng.normal(size=(d, v)), jnp.float32),
    mask_v=jnp.arange(v) > 0,
    target_bt=jnp.asarray(rng.integers(1, v, (b, t)), jnp.int32),
    weight_bt=jnp.asarray(rng.random((b, t)) * (rng.random((b, t)) < 0.7)),
    at_day_bt=jnp.zeros((b, t), jnp.int32),
  )


def chunked(of: World, states_nd, item_dv, *, chunk):
  return full_softmax(
    states_nd,
    of.head(item_dv),
    item_bt=of.target_bt,
    weight_bt=of.weight_bt,
    at_day_bt=of.at_day_bt,
    chunk=chunk,
  )


def plain(of: World, states_nd, item_dv):
  """The twin: all logits at once, and autodiff."""
  logits_nv = jnp.where(of.mask_v[None], states_nd @ item_dv, -jnp.inf)
  log_nv = jax.nn.log_softmax(logits_nv)
  picked_n = log_nv[jnp.arange(of.target_n.shape[0]), of.target_n]
  return -jnp.sum(picked_n * of.weight_n)


def assert_equal_with_gradients(fast, slow, *arrays):
  everything = tuple(range(len(arrays)))
  got, got_grads = jax.value_and_grad(fast, argnums=everything)(*arrays)
  want, want_grads = jax.value_and_grad(slow, argnums=everything)(*arrays)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for got_grad, want_grad in zip(got_grads, want_grads, strict=True):
    scale = float(jnp.abs(want_grad).max())
    np.testing.assert_allclose(
      got_grad, want_grad, rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("chunk", [1, 7, 16, 48, 10_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_chunked_softmax_equals_the_plain_one(chunk, seed):
  of = world(seed)
  assert_equal_with_gradients(
    lambda *arrays: chunked(of, *arrays, chunk=chunk),
    lambda *arrays: plain(of, *arrays),
    of.states_nd,
    of.item_dv,
  )


def test_the_value_alone_equals_the_value_beside_the_gradient():
  of = world()
  value = chunked(of, of.states_nd, of.item_dv, chunk=8)
  both, _ = jax.value_and_grad(lambda s: chunked(of, s, of.item_dv, chunk=8))(
    of.states_nd
  )
  np.testing.assert_allclose(value, both, rtol=1e-6)


def test_a_scaled_loss_has_a_scaled_gradient():
  of = world()

  def gradient(factor):
    return jax.grad(lambda s: factor * chunked(of, s, of.item_dv, chunk=8))(
      of.states_nd
    )

  np.testing.assert_allclose(gradient(-4.0), -4 * gradient(1.0), rtol=1e-6)


def test_the_logits_are_never_stored_whole_nor_made_twice():
  of = world(b=8, t=64, v=500)

  def total(states_nd):
    return log_normalizers(
      states_nd,
      of.head(of.item_dv),
      item_bt=of.target_bt,
      weight_bt=of.weight_bt,
      at_day_bt=of.at_day_bt,
      chunk=16,
    )

  jaxpr = str(jax.make_jaxpr(jax.grad(total))(of.states_nd))
  assert "500]" in jaxpr
  for whole in ("[512,500]", "[8,64,500]", "[64,8,500]"):
    assert whole not in jaxpr
  # Logits, gradient of the states, gradient of the items.
  assert jaxpr.count("dot_general[") == 3


def test_a_target_of_weight_zero_has_no_loss():
  of = world()
  of = dataclasses.replace(of, weight_bt=of.weight_bt.at[0, 0].set(0))
  other = dataclasses.replace(of, target_bt=of.target_bt.at[0, 0].set(5))
  one, two = (chunked(w, w.states_nd, w.item_dv, chunk=8) for w in (of, other))
  assert one == two


def sampled(of: World, states_nd, item_dv, *, negative_q, count):
  head = of.head(item_dv)
  target_nd = head.embed(of.target_n, of.at_day_n)
  return sampled_softmax(
    states_nd,
    ItemHead(
      item_dv=item_dv[:, negative_q],
      mask_v=jnp.ones(negative_q.shape, bool),
    ),
    negative_q=negative_q,
    log_count_q=jnp.full(negative_q.shape, np.log(count)),
    target_logit_n=pair_logits(states_nd, target_nd),
    target_n=of.target_n,
    weight_n=of.weight_n,
    at_day_n=of.at_day_n,
  )


def test_sampling_every_item_once_is_the_full_softmax():
  of = world()
  every_q = jnp.arange(1, of.item_dv.shape[1])
  assert_equal_with_gradients(
    lambda *arrays: sampled(of, *arrays, negative_q=every_q, count=1.0),
    lambda *arrays: plain(of, *arrays),
    of.states_nd,
    of.item_dv,
  )


def test_the_corrected_sum_over_negatives_is_an_unbiased_estimate():
  """exp(nll) · exp(target) is the estimated sum of exponentials."""
  of = world(b=1, t=6)
  items, q, draws = of.item_dv.shape[1] - 1, 5, 4_000

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def estimate(key, position):
    negative_q = jax.random.randint(key, (q,), 1, items + 1)
    one = dataclasses.replace(
      of, weight_bt=jnp.zeros_like(of.weight_bt).at[0, position].set(1.0)
    )
    return jnp.exp(
      sampled(
        one, of.states_nd, of.item_dv, negative_q=negative_q, count=q / items
      )
    )

  for position in range(6):
    one = dataclasses.replace(
      of, weight_bt=jnp.zeros_like(of.weight_bt).at[0, position].set(1.0)
    )
    want = float(jnp.exp(plain(one, of.states_nd, of.item_dv)))
    keys = jax.random.split(jax.random.key(position), draws)
    got = np.asarray(estimate(keys, position))
    assert abs(got.mean() - want) < 3 * got.std() / np.sqrt(draws)


def test_a_negative_that_is_the_target_changes_nothing():
  of = world()
  base_q = jnp.asarray([1, 2, 3])
  target = int(of.target_bt[0, 0])
  only = dataclasses.replace(
    of, weight_bt=jnp.zeros_like(of.weight_bt).at[0, 0].set(1.0)
  )
  others_q = base_q[base_q != target]
  more_q = jnp.concatenate([others_q, jnp.asarray([target, target])])
  one, two = (
    sampled(only, of.states_nd, of.item_dv, negative_q=q, count=1.0)
    for q in (others_q, more_q)
  )
  np.testing.assert_allclose(one, two, rtol=1e-6)


def test_negatives_that_are_all_the_target_leave_a_finite_loss():
  of = world(b=1, t=1)
  only_q = of.target_n
  value, grads = jax.value_and_grad(
    lambda s: sampled(of, s, of.item_dv, negative_q=only_q, count=1.0)
  )(of.states_nd)
  assert value == 0
  assert jnp.isfinite(grads).all()


def binary(of: World, states_nd, item_dv, *, negative_qn, power=1.0):
  def logits(states_nd, item_dv, rows_n):
    return pair_logits(states_nd, item_dv.T[rows_n])

  return binary_cross_entropy(
    states_nd,
    item_dv,
    logits=logits,
    draw=lambda drawn_n: drawn_n,
    draws=negative_qn,
    target_logit_n=logits(states_nd, item_dv, of.target_n),
    target_n=of.target_n,
    weight_n=of.weight_n,
    power=power,
  )


def written_out(of: World, states_nd, item_dv, *, negative_qn, power=1.0):
  """The twin: all negatives at once, probabilities as published."""
  right_n = jax.nn.sigmoid(jnp.sum(states_nd * item_dv.T[of.target_n], axis=1))
  wrong_qn = jax.nn.sigmoid(
    jnp.sum(states_nd[None] * item_dv.T[negative_qn], axis=2)
  )
  others_qn = jnp.where(
    negative_qn != of.target_n[None], jnp.log(1 - wrong_qn), 0.0
  )
  loss_n = -jnp.log(right_n**power) - jnp.sum(others_qn, axis=0)
  return jnp.sum(of.weight_n * loss_n)


def negatives_of(of: World, q: int):
  rng = np.random.default_rng(3)
  shape = (q, len(of.target_n))
  negative_qn = jnp.asarray(rng.integers(1, of.item_dv.shape[1], shape))
  return negative_qn.at[0, 0].set(of.target_n[0])  # left out


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_draw_by_draw_the_logistic_losses_are_those_written_out(power):
  of = world(b=2, t=6)
  negative_qn = negatives_of(of, 5)

  @jax.jit
  def each(states_nd, item_dv):
    return [
      jax.value_and_grad(
        functools.partial(form, of, negative_qn=negative_qn, power=power),
        argnums=(0, 1),
      )(states_nd, item_dv)
      for form in (binary, written_out)
    ]

  (got, got_grads), (want, want_grads) = each(of.states_nd, of.item_dv)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  value = binary(
    of, of.states_nd, of.item_dv, negative_qn=negative_qn, power=power
  )
  np.testing.assert_allclose(value, got, rtol=1e-6)
  for ours, theirs in zip(got_grads, want_grads, strict=True):
    scale = float(jnp.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * scale)


def test_no_array_holds_the_embeddings_of_all_negatives():
  of = world(b=8, t=16, d=8)
  negative_qn = negatives_of(of, 20)
  gradient = jax.grad(
    lambda states_nd: binary(of, states_nd, of.item_dv, negative_qn=negative_qn)
  )
  jaxpr = str(jax.make_jaxpr(gradient)(of.states_nd))
  assert "128,8]" in jaxpr
  assert not re.search(r"20,128,8\]|128,20,8\]", jaxpr)


def test_many_draws_of_half_precision_states_add_up_in_full_precision():
  of = world(b=1, t=4)
  once = negatives_of(of, 1)
  half_nd = of.states_nd.astype(jnp.bfloat16)

  def gradient(negative_qn):
    whole = jax.grad(
      lambda states_nd: binary(
        of, states_nd, of.item_dv, negative_qn=negative_qn, power=0.0
      )
    )(half_nd)
    assert whole.dtype == jnp.bfloat16
    return np.asarray(whole, np.float32)

  many = gradient(jnp.tile(once, (300, 1)))
  np.testing.assert_allclose(many, 300 * gradient(once), rtol=2**-7)

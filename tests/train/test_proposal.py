"""Negatives: how often each is drawn, and the losses made of them."""

import dataclasses
import functools
import typing

import item_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  BinaryCrossEntropy,
  ConfigError,
  FullSoftmax,
  GeneralizedBce,
  InBatchProposal,
  ItemsConfig,
  MixedProposal,
  PopularityProposal,
  Proposal,
  SampledSoftmax,
  SumMixer,
  UniformProposal,
)
from fmjax.model.features import flatten
from fmjax.train.item_loss import check_negatives, item_loss, target_power
from fmjax.train.proposal import draw

PROPOSALS = (
  UniformProposal(),
  PopularityProposal(),
  MixedProposal(uniform=0.3),
  InBatchProposal(),
)
B, T, Q = 4, 6, 8
COUNT_V = np.random.default_rng(5).geometric(0.2, world.ITEMS) - 1
COUNT_V[[0, 3, world.ITEMS - 1]] = 0  # the last one, too, is never met
MET = np.flatnonzero(COUNT_V)
CATALOG = dataclasses.replace(
  world.CATALOG, train_count_v=COUNT_V.astype(np.int32)
)


@pytest.fixture(autouse=True)
def one_device():
  with mesh.use(mesh.make_mesh()):
    yield


def make_table():
  return world.make_table(ItemsConfig(mixer=SumMixer()), catalog=CATALOG)


def test_every_proposal_is_asked():
  assert {*map(type, PROPOSALS)} == set(typing.get_args(Proposal))


@functools.cache
def batch():
  rng = np.random.default_rng(7)
  weight_bt = rng.random((B, T)) * (rng.random((B, T)) < 0.6)
  return {
    "states_nd": rng.normal(size=(B * T, world.WIDTH)).astype(np.float32) / 2,
    "item_bt": rng.choice(MET, (B, T)).astype(np.int32) * (weight_bt > 0),
    "weight_bt": weight_bt.astype(np.float32),
    "at_day_bt": np.full((B, T), world.FIRST_DAY, np.int32),
  }


@pytest.fixture(scope="module")
def many():
  """Of each proposal (row, log_count), [draws, q]; one program for all.

  Each draw has a batch of its own, of what training meets.
  """
  with mesh.use(mesh.make_mesh()):
    table = make_table()

    @jax.jit
    def all_of_them(keys):
      def each(key):
        batch_key, key = jax.random.split(key)
        item_n = table.sample_popular(batch_key, B * T)
        given = batch() | {"item_bt": item_n.reshape(B, T)}
        return [
          drawn_by(proposal, table, given=given, key=key)
          for proposal in PROPOSALS
        ]

      return jax.lax.map(each, keys)

    found = all_of_them(jax.random.split(jax.random.key(0), 4_000))
  return dict(zip(PROPOSALS, jax.tree.map(np.asarray, found), strict=True))


def probable(proposal) -> np.ndarray:
  """Expected number of each item among Q, by definition."""
  uniform_v = (np.arange(world.ITEMS) > 0) / (world.ITEMS - 1)
  popular_v = COUNT_V / COUNT_V.sum()
  match proposal:
    case UniformProposal():
      return Q * uniform_v
    case PopularityProposal() | InBatchProposal():
      return Q * popular_v
    case MixedProposal():
      return 2 * uniform_v + 6 * popular_v  # 0.3 · 8 is nearest to 2


@pytest.mark.parametrize("proposal", PROPOSALS, ids=str)
def test_an_item_is_drawn_as_often_as_its_log_count_says(many, proposal):
  rows, log_counts = many[proposal]
  expected_v = probable(proposal)
  np.testing.assert_allclose(
    np.exp(log_counts), expected_v[rows], rtol=1e-5, err_msg=str(proposal)
  )
  drawn_v = np.bincount(rows.reshape(-1), minlength=world.ITEMS) / len(rows)
  assert not drawn_v[expected_v == 0].any()  # row 0 among them
  error_v = np.sqrt(expected_v / len(rows))
  assert np.abs(drawn_v - expected_v).max() < 4 * error_v.max()


@pytest.mark.parametrize("proposal", PROPOSALS, ids=str)
def test_the_corrected_sum_is_an_unbiased_estimate(many, proposal):
  rows, log_counts = many[proposal]
  logit_v = np.random.default_rng(1).normal(size=world.ITEMS)
  sums = np.exp(logit_v[rows] - log_counts).sum(1)
  want = np.exp(logit_v)[probable(proposal) > 0].sum()
  assert abs(sums.mean() - want) < 3 * sums.std() / np.sqrt(len(sums))


def losses(table, states_nd, *, objectives, given):
  """Of each objective on the batch, without an encoder."""
  model = _Items(table)
  return [
    item_loss(
      model,
      states_nd,
      item_bt=jnp.asarray(given["item_bt"]),
      weight_bt=jnp.asarray(given["weight_bt"]),
      at_day_bt=jnp.asarray(given["at_day_bt"]),
      objective=objective,
      key=jax.random.key(3),
    )
    for objective in objectives
  ]


def drawn_by(proposal, table, *, given, key=None):
  return draw(
    proposal,
    table,
    jax.random.key(3) if key is None else key,
    Q,
    target_n=flatten(given["item_bt"]),
    weight_n=flatten(given["weight_bt"]),
  )


@dataclasses.dataclass
class _Items:
  """What a loss asks of a model."""

  items: object
  dtype: jnp.dtype = dataclasses.field(default_factory=lambda: jnp.dtype("f4"))

  def item_head(self, candidates_c=None):
    return self.items.head(candidates_c)


SAMPLED = tuple(
  SampledSoftmax(negatives=Q, proposal=proposal, logq=logq)
  for proposal, logq in (
    (MixedProposal(uniform=0.3), 1.0),
    (MixedProposal(uniform=0.3), 0.0),
    (InBatchProposal(), 0.5),
  )
)


@pytest.fixture(scope="module")
def plain():
  """Losses by objective, on one device; one program for all."""
  objectives = (
    *SAMPLED,
    BinaryCrossEntropy(negatives=Q),
    GeneralizedBce(negatives=Q, calibration=0.0),
    GeneralizedBce(negatives=Q),
  )
  with mesh.use(mesh.make_mesh()):
    table = make_table()
    states_nd = jnp.asarray(batch()["states_nd"])
    made = jax.jit(
      lambda states_nd: (
        losses(table, states_nd, objectives=objectives, given=batch()),
        [
          drawn_by(proposal, table, given=batch())
          for proposal in (MixedProposal(uniform=0.3), InBatchProposal())
        ],
        table.head().logits(states_nd, batch()["at_day_bt"].reshape(-1)),
      )
    )(states_nd)
  found, drawn, logits_nv = jax.tree.map(np.asarray, made)
  return (
    dict(zip(objectives, found, strict=True)),
    dict(zip((SAMPLED[0].proposal, InBatchProposal()), drawn, strict=True)),
    logits_nv,
  )


@pytest.mark.parametrize("objective", SAMPLED, ids=str)
def test_logq_takes_that_share_of_the_log_counts_from_the_logits(
  plain, objective
):
  found, drawn, logits_nv = plain
  row_q, log_count_q = drawn[objective.proposal]
  target_n = batch()["item_bt"].reshape(-1)
  weight_n = batch()["weight_bt"].reshape(-1)
  want = 0.0
  for n in np.flatnonzero(weight_n):
    others_q = row_q != target_n[n]
    exps_q = others_q * np.exp(
      logits_nv[n, row_q] - objective.logq * log_count_q
    )
    right = logits_nv[n, target_n[n]]
    nll = np.log(np.exp(right) + exps_q.sum()) - right
    want += weight_n[n] * nll
  np.testing.assert_allclose(found[objective], want, rtol=1e-5)


def test_gbce_without_calibration_is_bce_and_with_it_trusts_targets_less(plain):
  found, _, logits_nv = plain
  bce = found[BinaryCrossEntropy(negatives=Q)]
  assert found[GeneralizedBce(negatives=Q, calibration=0.0)] == bce
  target_n = batch()["item_bt"].reshape(-1)
  right_n = logits_nv[np.arange(B * T), target_n]
  weight_n = batch()["weight_bt"].reshape(-1)
  asked = weight_n > 0
  right = (weight_n[asked] * np.log1p(np.exp(-right_n[asked]))).sum()
  power = target_power(Q, items=world.ITEMS - 1, calibration=0.75)
  np.testing.assert_allclose(
    found[GeneralizedBce(negatives=Q)], bce - (1 - power) * right, rtol=1e-5
  )


def test_the_power_is_that_of_the_paper():
  for negatives, items, t in ((1, 100, 0.9), (256, 3_416, 0.75), (9, 10, 0.4)):
    alpha = negatives / (items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    got = target_power(negatives, items=items, calibration=t)
    assert got == pytest.approx(beta)
  assert target_power(7, items=50, calibration=0.0) == 1
  assert target_power(7, items=50, calibration=1.0) == pytest.approx(7 / 49)


def test_a_batch_without_targets_has_no_loss_and_no_gradient():
  table = make_table()
  nothing = {
    **batch(),
    "item_bt": np.zeros((B, T), np.int32),
    "weight_bt": np.zeros((B, T), np.float32),
  }
  objectives = (
    SampledSoftmax(negatives=Q, proposal=InBatchProposal()),
    GeneralizedBce(negatives=2),
  )
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda states_nd: sum(
        losses(table, states_nd, objectives=objectives, given=nothing)
      )
    )
  )(jnp.asarray(batch()["states_nd"]))
  assert value == 0
  assert not np.any(gradient)


def test_draws_losses_and_gradients_are_the_same_on_every_mesh():
  objectives = (SAMPLED[2], GeneralizedBce(negatives=3))

  def on(data, model):
    device_mesh = mesh.make_mesh(data=data, model=model)
    with mesh.use(device_mesh):
      definition, params, content = nnx.split(make_table(), nnx.Param, ...)
      given = mesh.shard_batch(batch(), device_mesh)

      @jax.jit
      def step(params, given):
        def total(params, states_nd):
          table = nnx.merge(definition, params, content)
          found = losses(table, states_nd, objectives=objectives, given=given)
          drawn = [drawn_by(p, table, given=given) for p in PROPOSALS]
          return sum(found), drawn

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
          params, given["states_nd"]
        )

      return jax.tree.map(np.asarray, jax.tree.leaves(step(params, given)))

  for got, want in zip(on(4, 2), on(1, 1), strict=True):
    scale = np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * scale)


def test_more_negatives_than_items_are_refused():
  check_negatives(FullSoftmax(), items=1)
  check_negatives(GeneralizedBce(negatives=20), items=20)
  for objective in (
    SampledSoftmax(negatives=21),
    BinaryCrossEntropy(negatives=21),
    GeneralizedBce(negatives=21),
  ):
    with pytest.raises(ConfigError, match=r"negatives=21 exceeds the 20 items"):
      check_negatives(objective, items=20)

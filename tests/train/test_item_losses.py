"""Losses of every mixer equal a twin that makes e(v, day) for every token."""

import re

import item_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  BinaryCrossEntropy,
  FullSoftmax,
  SampledSoftmax,
  override,
)
from fmjax.data import windows
from fmjax.model.heads import pair_logits
from fmjax.train.checkpoint import Checkpoints
from fmjax.train.loop import make_model
from fmjax.train.loss import full_softmax, sampled_softmax
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import make_state
from fmjax.train.step import loss

B, T = 3, 4


@pytest.fixture(autouse=True)
def one_device():
  with mesh.use(mesh.make_mesh()):
    yield


def asked():
  rng = np.random.default_rng(7)
  return {
    "states_nd": rng.normal(size=(B * T, world.WIDTH)).astype(np.float32),
    "target_bt": rng.integers(1, world.ITEMS, (B, T)).astype(np.int32),
    "weight_bt": rng.random((B, T)).astype(np.float32),
    "day_bt": world.FIRST_DAY
    + rng.integers(0, world.DAYS + 1, (B, T)).astype(np.int32),
  }


ASKED = asked()


def sampled_with_every_item(table, states_nd):
  target_n, day_n = (ASKED[k].reshape(-1) for k in ("target_bt", "day_bt"))
  every_q = jnp.arange(1, world.ITEMS)
  item_nd = table.embed_candidates(jnp.asarray(target_n), day_n)
  return sampled_softmax(
    states_nd,
    table.head(every_q),
    negative_q=every_q,
    log_count_q=jnp.zeros(world.ITEMS - 1),
    target_logit_n=pair_logits(states_nd, item_nd),
    target_n=jnp.asarray(target_n),
    weight_n=ASKED["weight_bt"].reshape(-1),
    at_day_n=day_n,
  )


def chunked(table, states_nd):
  return full_softmax(
    states_nd,
    table.head(),
    item_bt=jnp.asarray(ASKED["target_bt"]),
    weight_bt=jnp.asarray(ASKED["weight_bt"]),
    at_day_bt=jnp.asarray(ASKED["day_bt"]),
    chunk=3,
  )


def plain(table, states_nd, config):
  day_n, target_n = ASKED["day_bt"].reshape(-1), ASKED["target_bt"].reshape(-1)
  e_nvd = world.plain_candidates(table, config, day_n)
  logits_nv = jnp.einsum("nd,nvd->nv", states_nd, e_nvd)[:, 1:]
  log_nv = jax.nn.log_softmax(logits_nv)
  picked_n = log_nv[jnp.arange(B * T), target_n - 1]
  return -jnp.sum(picked_n * ASKED["weight_bt"].reshape(-1))


@pytest.mark.parametrize("config", world.CONFIGS, ids=world.name)
def test_losses_and_gradients_equal_those_of_every_embedding_made(config):
  definition, params, content = nnx.split(
    world.make_table(config), nnx.Param, ...
  )

  @jax.jit
  def each(params, states_nd):
    def of(form):
      def total(params, states_nd):
        return form(nnx.merge(definition, params, content), states_nd)

      return jax.value_and_grad(total, argnums=(0, 1))(params, states_nd)

    twin = lambda table, states_nd: plain(table, states_nd, config)  # noqa: E731
    return of(twin), of(chunked), of(sampled_with_every_item)

  twin, *ours = each(params, jnp.asarray(ASKED["states_nd"]))
  for got in ours:
    np.testing.assert_allclose(got[0], twin[0], rtol=1e-5)
    pairs = zip(
      jax.tree_util.tree_leaves_with_path(got[1]),
      jax.tree.leaves(twin[1]),
      strict=True,
    )
    for (path, one), other in pairs:
      scale = float(jnp.abs(other).max())
      assert scale > 0, path
      np.testing.assert_allclose(
        one, other, rtol=1e-5, atol=1e-5 * scale, err_msg=str(path)
      )


def test_no_gradient_is_made_of_the_features_of_looks():
  table = world.make_table(world.DATED[-1])
  states_nd = jnp.asarray(ASKED["states_nd"])

  def gradient(params, states_nd):
    definition, _, content = nnx.split(table, nnx.Param, ...)

    def total(params):
      return chunked(nnx.merge(definition, params, content), states_nd)

    return jax.grad(total)(params)

  jaxpr = str(jax.make_jaxpr(gradient)(nnx.state(table, nnx.Param), states_nd))

  def made(array):
    shape = ",".join(rf"{size}(@\w+)?" for size in array.shape)
    return len(re.findall(rf":f32\[{shape}\] = (?!reshard)", jaxpr))

  assert made(table.head().parts[0].weight_yv) > 0
  assert made(table.head().parts[1].value_ymv) > 0
  assert made(table.feature_lf[...]) == 0


def batch_of(experiment, prepared):
  options = experiment.data
  return windows.training_batches(
    prepared,
    window=options.window,
    stride=options.stride,
    rows=options.rows,
    seed=0,
  )[0]


@pytest.mark.parametrize(
  "objective",
  [FullSoftmax(chunk=64), SampledSoftmax(), BinaryCrossEntropy()],
  ids=lambda o: type(o).__name__,
)
def test_gradients_reach_ids_metadata_gate_and_dynamics(
  small, prepared, objective
):
  model = world.moved(make_model(small, prepared))
  batch = batch_of(small, prepared)
  definition, params, content = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def gradient(params):
    def total(params):
      model = nnx.merge(definition, params, content)
      return loss(model, batch, objective=objective, key=jax.random.key(0))[0]

    return jax.grad(total)(params)

  found = dict(jax.tree_util.tree_leaves_with_path(gradient(params)["items"]))
  names = {jax.tree_util.keystr(path): leaf for path, leaf in found.items()}
  gate, look = ("age_ge", "key_me"), ("hidden_fh", "bias_h", "value_hm")
  for part in ("id_vd", "metadata_md", "term_md", *gate, *look):
    (leaf,) = (leaf for name, leaf in names.items() if f"'{part}'" in name)
    assert float(jnp.abs(leaf).max()) > 0, part
  for name, leaf in names.items():
    assert np.isfinite(leaf).all(), name


def test_ids_are_dropped_in_training_and_never_in_evaluation(small, prepared):
  model = world.moved(make_model(small, prepared))
  batch = batch_of(small, prepared)

  @jax.jit
  def total(model, key):
    return loss(model, batch, objective=FullSoftmax(chunk=64), key=key)[0]

  undropped = nnx.clone(model)
  undropped.items.id_dropout = 0.0
  for module in (model, undropped):
    module.dropout = 0.0
  key = jax.random.key(0)
  assert total(model, key) != total(undropped, key)
  np.testing.assert_array_equal(
    *(jax.jit(lambda m: m.encode(batch))(m) for m in (model, undropped))
  )


def test_a_restored_checkpoint_scores_identically_without_tables_by_day(
  small, prepared, tmp_path
):
  batch = batch_of(small, prepared)

  @jax.jit
  def scores(model):
    states_nd = model.encode(batch)
    day_n = jnp.asarray(batch.time_bt).reshape(-1) // world.DAY_S
    return model.score(states_nd, None, day_n)

  optimizer = make_optimizer(small.optim, total_steps=10)
  model = world.moved(make_model(small, prepared))
  state = make_state(model, optimizer)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save_selected(model, step=1, metrics={})
  checkpoints.save(state, config=small, facts={})
  checkpoints.close()
  other = make_model(override(small, {"run.seed": 9}), prepared)
  again = Checkpoints(tmp_path)
  selected = again.restore_selected(other)
  latest, _ = again.restore(make_state(other, optimizer), config=small)
  again.close()
  want = scores(model)
  assert np.any(scores(other) != want)
  np.testing.assert_array_equal(scores(selected), want)
  np.testing.assert_array_equal(scores(latest.model), want)
  files = " ".join(
    f.read_text(errors="ignore") for f in tmp_path.rglob("_METADATA")
  )
  assert "items.has_id_v" in files
  for by_day in ("bucket_yv", "look_yv", "feature_lf"):
    assert hasattr(model.items, by_day)
    assert by_day not in files

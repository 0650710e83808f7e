import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from item_world import moved

from fmjax import mesh
from fmjax.config import (
  BinaryCrossEntropy,
  CosineDecay,
  OptimConfig,
  SampledSoftmax,
  override,
)
from fmjax.data import windows
from fmjax.train.loop import make_model
from fmjax.train.optimizer import make_optimizer, make_schedule
from fmjax.train.state import make_state
from fmjax.train.step import make_step

# The others are edges of the first, and compile as long.
TOLD_APART = [
  (4, 2),
  pytest.param((8, 1), marks=pytest.mark.slow),
  pytest.param((1, 8), marks=pytest.mark.slow),
]
STEPS = 3


def run(experiment, prepared, data=1, model=1):
  """Losses of a few steps and the last state, as NumPy arrays by path."""
  options = experiment.data
  dataset = windows.training_batches(
    prepared,
    window=options.window,
    stride=options.stride,
    rows=options.rows,
    seed=0,
  )
  device_mesh = mesh.make_mesh(data=data, model=model)
  # Adam takes a gradient of rounding errors for one of full size: short steps.
  optim = override(experiment.optim, {"learning_rate": 1e-3})
  with mesh.use(device_mesh):
    optimizer = make_optimizer(optim, total_steps=10)
    state = make_state(make_model(experiment, prepared), optimizer)
    before = types(state)
    step = make_step(experiment.objective, optimizer, seed=0)
    losses = []
    for t in range(STEPS):
      batch = mesh.shard_batch(dataset[t], device_mesh)
      state, metrics = step(state, batch)
      losses.append(float(metrics["loss_total"] / metrics["weight"]))
    # Of another type it would be compiled again.
    assert types(state) == before
    return losses, state


def types(state):
  return [jax.typeof(leaf) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def shallow(experiment):
  """Everything that is spread over devices; a second layer is as the first."""
  return override(experiment, {"model.layers": 1})


@pytest.fixture(scope="module")
def unsharded(shallow, prepared):
  return run(shallow, prepared)


@pytest.mark.parametrize("devices", TOLD_APART, ids=str)
def test_a_sharded_run_equals_an_unsharded_one(
  shallow, prepared, unsharded, devices
):
  assert_equal(run(shallow, prepared, *devices), unsharded)


# Of draws, losses and gradients alone test_proposal.py asks it in seconds.
@pytest.mark.slow
@pytest.mark.parametrize(
  "objective", [SampledSoftmax(negatives=9), BinaryCrossEntropy(negatives=2)]
)
def test_sampled_negatives_are_the_same_on_every_mesh(
  small, prepared, objective
):
  sampled = override(small, {"objective": objective})
  assert_equal(run(sampled, prepared, 4, 2), run(sampled, prepared))


def assert_equal(got, want):
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(got[1]),
    jax.tree.leaves(want[1]),
    strict=True,
  )
  for (path, ours), theirs in pairs:
    np.testing.assert_allclose(
      ours,
      theirs,
      rtol=1e-3,
      atol=2e-5,
      err_msg=jax.tree_util.keystr(path),
    )


@pytest.mark.parametrize("devices", TOLD_APART, ids=str)
def test_the_optimizer_is_sharded_as_its_parameters(
  experiment, prepared, devices
):
  data, model = devices
  with mesh.use(mesh.make_mesh(data=data, model=model)):
    optimizer = make_optimizer(experiment.optim, total_steps=10)
    state = make_state(make_model(experiment, prepared), optimizer)
  params = jax.tree.leaves(nnx.state(state.model, nnx.Param))
  specs = [leaf.sharding.spec for leaf in params]
  adam = state.opt_state[1]
  for moment in (adam.mu, adam.nu):
    assert [m.sharding.spec for m in jax.tree.leaves(moment)] == specs
  table = state.model.items.id_vd[...]
  rows = {shard.data.shape[0] for shard in table.addressable_shards}
  assert rows == {table.shape[0] // (data * model)}


def test_targets_of_half_the_weight_teach_half_as_much(small, prepared):
  """Though all of a batch have it: that is how a batch of old ones counts."""
  options = small.data
  batch = windows.training_batches(
    prepared,
    window=options.window,
    stride=options.stride,
    rows=options.rows,
    seed=0,
  )[0]
  device_mesh = mesh.make_mesh()
  moves = []
  with mesh.use(device_mesh):
    optimizer = optax.sgd(1.0)
    for weight in (1.0, 0.5):
      model = make_model(small, prepared)
      before = jax.tree.leaves(nnx.state(model, nnx.Param))
      before = [np.asarray(leaf) for leaf in before]
      step = make_step(small.objective, optimizer, seed=0)
      weighed = dataclasses.replace(batch, weight_bt=batch.weight_bt * weight)
      state, _ = step(
        make_state(model, optimizer), mesh.shard_batch(weighed, device_mesh)
      )
      after = jax.tree.leaves(nnx.state(state.model, nnx.Param))
      pairs = zip(before, after, strict=True)
      moves.append(np.concatenate([np.ravel(b - a) for a, b in pairs]))
  np.testing.assert_allclose(moves[1], moves[0] / 2, atol=1e-6)
  assert np.abs(moves[0]).max() > 1e-3


def test_the_learning_rate_warms_up_and_decays():
  config = OptimConfig(
    learning_rate=1e-2, schedule=CosineDecay(warmup=0.1, final_fraction=0.1)
  )
  schedule = make_schedule(config, total_steps=100)
  rates = [float(schedule(step)) for step in range(101)]
  assert rates[0] == 0
  assert max(rates) == rates[10] == pytest.approx(1e-2)
  assert rates[100] == pytest.approx(1e-3)
  assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_only_matrices_and_tables_are_decayed(experiment, prepared):
  with mesh.use(mesh.make_mesh()):
    # What starts at 0 has nothing to lose.
    model = moved(make_model(experiment, prepared))
    params = nnx.state(model, nnx.Param)
    decays = OptimConfig(
      weight_decay=0.5, learning_rate=1.0, schedule=CosineDecay(warmup=0.0)
    )
    optimizer = make_optimizer(decays, total_steps=10)
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    for _ in range(2):  # the first step of the warm-up has rate 0
      updates, state = update(zero, state, params)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    name = jax.tree_util.keystr(path)
    vectors = ("scale_d'", "bias_d'", "bias_h'", "bias_hi'", "start_d'")
    vector = any(part in name for part in vectors)
    assert bool(np.any(update)) != vector, name

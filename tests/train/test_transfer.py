"""μP: what the width changes of a training step, and what it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  ConfigError,
  MaximalUpdate,
  MultiToken,
  SasrecBlock,
  StableDecay,
  StandardScale,
  override,
  validate,
)
from fmjax.data import windows
from fmjax.model.time import day
from fmjax.train.loop import make_model
from fmjax.train.optimizer import make_optimizer, rate_factors
from fmjax.train.state import make_state
from fmjax.train.step import make_step

BASE, WIDTHS, STEPS = 16, (16, 128), 4


def of_width(experiment, width, scale):
  return override(
    experiment,
    {
      "model.width": width,
      "model.heads": width // 16,
      "model.dropout": 0.0,
      "model.scale": scale,
      "optim.learning_rate": 1e-2,
      "optim.schedule": StableDecay(warmup_steps=0),
      "optim.weight_decay": 0.0,
    },
  )


def factors_of(experiment, prepared):
  return rate_factors(
    experiment.model,
    lambda model: make_model(override(experiment, {"model": model}), prepared),
  )


def test_matrices_between_two_widths_learn_slower_and_nothing_else(
  experiment, prepared
):
  wide = override(
    of_width(experiment, 64, MaximalUpdate(base_width=BASE)),
    {"model.horizons": MultiToken(horizons=2)},
  )
  with mesh.use(mesh.make_mesh()):
    factors = factors_of(wide, prepared)
  slow = {
    jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(
      ".value"
    )
    for path, factor in jax.tree_util.tree_leaves_with_path(factors)
    if factor == pytest.approx(BASE / 64)
  }
  assert {name.split(".")[-1] for name in slow} == {
    "qkv_gate_df",
    "out_dd",
    "up_df",
    "gate_df",
    "down_fd",
    "gate_feed_forward_dd",
    "ahead_pdf",
  }
  others = set(jax.tree.leaves(factors)) - {BASE / 64}
  assert others == {1.0}


def test_at_the_base_width_nothing_changes(experiment, prepared):
  same = of_width(experiment, BASE, MaximalUpdate(base_width=BASE))
  with mesh.use(mesh.make_mesh()):
    assert factors_of(same, prepared) is None
  assert same.model.width_ratio == 1


def test_weights_decay_at_the_same_pace_at_every_width(experiment, prepared):
  wide = of_width(experiment, 64, MaximalUpdate(base_width=BASE))
  wide = override(wide, {"optim.weight_decay": 0.5})
  with mesh.use(mesh.make_mesh()):
    params = nnx.state(make_model(wide, prepared), nnx.Param)
    optimizer = make_optimizer(
      wide.optim, total_steps=100, factors=factors_of(wide, prepared)
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    state = jax.jit(optimizer.init)(params)
    updates, _ = jax.jit(optimizer.update)(zero, state, params)
  of_blocks = zip(
    jax.tree.leaves(updates["blocks"]),
    jax.tree.leaves(params["blocks"]),
    strict=True,
  )
  decayed = [(u, p) for u, p in of_blocks if np.any(u)]
  assert decayed
  for update, param in decayed:
    np.testing.assert_allclose(update, -1e-2 * 0.5 * param, rtol=1e-5)


def test_a_block_whose_inputs_grow_with_the_width_is_refused(experiment):
  with pytest.raises(ConfigError, match=r"use GatedBlock\(\)"):
    validate(
      override(
        experiment,
        {"model.scale": MaximalUpdate(), "model.block": SasrecBlock()},
      )
    )


def moved(experiment, prepared):
  """Root mean square by which states and logits move in a few steps."""
  data = experiment.data
  dataset = windows.training_batches(
    prepared,
    window=data.window,
    stride=data.stride,
    rows=data.rows,
    seed=0,
    steps=STEPS,
  )
  with mesh.use(mesh.make_mesh()):
    optimizer = make_optimizer(
      experiment.optim,
      total_steps=100,
      factors=factors_of(experiment, prepared),
    )
    state = make_state(make_model(experiment, prepared), optimizer)
    step = make_step(experiment.objective, optimizer, seed=experiment.run.seed)
    batches = [dataset[number] for number in range(STEPS)]

    @jax.jit
    def said(model):
      states_nd = model.encode(batches[0])
      at_day_n = day(batches[0].time_bt).reshape(-1)
      logits_nv = model.score(states_nd, None, at_day_n)
      known_v = jnp.isfinite(logits_nv[0])
      return (
        states_nd / model.output_scale,
        jnp.where(known_v[None], logits_nv, 0.0),
      )

    before = said(state.model)
    for batch in batches:
      state, _ = step(state, mesh.shard_batch(batch, jax.sharding.get_mesh()))
    after = said(state.model)
  return [
    float(np.sqrt(np.mean(np.square(np.asarray(a) - np.asarray(b)))))
    for a, b in zip(after, before, strict=True)
  ]


def slopes(experiment, prepared, scale):
  """Of log movement by log width: 0 if the width does not matter."""
  logs = np.log(
    [moved(of_width(experiment, width, scale), prepared) for width in WIDTHS]
  )
  return np.polyfit(np.log(WIDTHS), logs, 1)[0]


def test_coordinates_move_alike_at_every_width_and_do_not_without(
  experiment, prepared
):
  states, logits = slopes(experiment, prepared, MaximalUpdate(base_width=BASE))
  plain_states, plain_logits = slopes(experiment, prepared, StandardScale())
  print(
    f"\nslopes by width, with and without: states {states:+.2f}"
    f" {plain_states:+.2f}, logits {logits:+.2f} {plain_logits:+.2f}"
  )
  assert abs(states) < 0.15
  assert abs(logits) < 0.15
  assert plain_logits > 0.5

"""What a step asks for is what it learns from and what it counts."""

import jax
import numpy as np
import optax
import pytest

from fmjax import mesh
from fmjax.cli.listing import cost
from fmjax.config import (
  BidirectionalAttention,
  IdOnly,
  ItemsConfig,
  Masked,
  override,
)
from fmjax.data import windows
from fmjax.train.loop import make_model
from fmjax.train.state import make_state
from fmjax.train.step import make_step


@pytest.fixture(scope="module")
def masked(small):
  return override(
    small,
    {
      "model.items": ItemsConfig(mixer=IdOnly()),
      "model.reading": Masked(share=0.3),
      "model.attention": BidirectionalAttention(),
    },
  )


def test_steps_of_a_masked_model_count_the_targets_they_hide(masked, prepared):
  data = masked.data
  batches = windows.training_batches(
    prepared, window=data.window, stride=data.stride, rows=data.rows, seed=0
  )
  device_mesh = mesh.make_mesh()
  with mesh.use(device_mesh):
    optimizer = optax.sgd(0.0)
    state = make_state(make_model(masked, prepared), optimizer)
    step = make_step(masked.objective, optimizer, seed=0)
    batch = mesh.shard_batch(batches[0], device_mesh)
    told = []
    for _ in range(6):
      state, metrics = step(state, batch)
      told.append(jax.tree.map(float, metrics))
  asked = [metrics["targets"] for metrics in told]
  assert len(set(asked)) > 1  # drawn anew
  assert [metrics["weight"] for metrics in told] == asked
  expected = 0.3 * (batches[0].weight_bt > 0).sum()
  assert np.mean(asked) == pytest.approx(expected, rel=0.2)
  for metrics in told:
    # Near that of a guess: the mean is over what was asked.
    chance = np.log(prepared.spec.items - 1)
    assert metrics["loss_total"] / metrics["weight"] == pytest.approx(
      chance, rel=0.1
    )


def test_the_tokens_of_a_masked_run_are_those_that_are_asked_for(
  masked, small, prepared
):
  hidden, all_ = (cost(e, prepared, rate=1.0) for e in (masked, small))
  assert hidden["tokens"] == pytest.approx(0.3 * all_["tokens"], abs=1)
  assert hidden["epochs"] == all_["epochs"]

"""What training carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmjax.model.recommender import Recommender


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """A pytree: goes through `jax.jit`, gradients and Orbax as it is."""

  step: jax.Array  # int32, steps taken
  model: Recommender
  opt_state: Any


def make_state(
  model: Recommender, optimizer: optax.GradientTransformation
) -> TrainState:
  params = nnx.state(model, nnx.Param)
  # Jitted with explicit axes: Adam's moments inherit the parameters' sharding.
  opt_state = jax.jit(optimizer.init)(params)
  return TrainState(jnp.zeros((), jnp.int32), model, opt_state)

"""One training step: pure, jitted, the old state donated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmjax.config import FullSoftmax
from fmjax.data.batch import Batch
from fmjax.model import time
from fmjax.model.recommender import Recommender
from fmjax.train.loss import full_softmax
from fmjax.train.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def loss(
  model: Recommender,
  batch: Batch,
  *,
  objective: FullSoftmax,
  dropout_key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """(total, weight) of a batch: nats summed over targets, sum of weights."""
  states_nd = model.encode(batch, dropout_key=dropout_key)
  match objective:
    case FullSoftmax(chunk=chunk):
      return full_softmax(
        states_nd,
        model.item_head(),
        target_bt=batch.item_bt,
        weight_bt=batch.weight_bt,
        at_day_bt=time.day(batch.time_bt),
        chunk=chunk,
      )


def make_step(
  objective: FullSoftmax, optimizer: optax.GradientTransformation, *, seed: int
) -> Step:
  """The step of an objective.

  The dropout key is a function of (seed, step), so a resumed run draws the same
  masks.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    definition, params, content = nnx.split(state.model, nnx.Param, ...)
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def mean_loss(params):
      model = nnx.merge(definition, params, content)
      total, weight = loss(model, batch, objective=objective, dropout_key=key)
      return total / jnp.where(weight > 0, weight, 1.0), (total, weight)

    (_, (total, weight)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
      params
    )
    with jax.named_scope("optimizer"):
      updates, opt_state = optimizer.update(grads, state.opt_state, params)
      params = optax.apply_updates(params, updates)
    metrics = {
      "loss_total": total,
      "weight": weight,
      "targets": jnp.sum(batch.weight_bt > 0),
      "grad_norm": optax.tree.norm(grads),
    }
    model = nnx.merge(definition, params, content)
    return TrainState(state.step + 1, model, opt_state), metrics

  return jax.jit(step, donate_argnums=0)

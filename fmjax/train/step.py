"""One training step: pure, jitted, the old state donated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmjax.config import Objective
from fmjax.data.batch import Batch
from fmjax.model.features import flatten
from fmjax.model.recommender import Recommender
from fmjax.train.item_loss import item_loss
from fmjax.train.state import TrainState

# Folded into a step's key; a split makes no key of such a number.
_ASKING = 2**31 - 1

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def loss(
  model: Recommender, batch: Batch, *, objective: Objective, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(total, weight) of a batch: nats summed over targets, sum of weights.

  Args:
    model: its dropout is on, and that of ids.
    batch: rows of windows, as `Recommender.ask` gives it.
    objective: which loss.
    key: of dropout, of sampled negatives and of items without their id.
  """
  dropout_key, sample_key, id_key = jax.random.split(key, 3)
  model = model.drop_ids(id_key)
  states_nd = model.encode(batch, dropout_key=dropout_key)
  states_nd = states_nd.astype(model.dtype)
  asked_nd, asked = model.targets(states_nd, batch)
  total = item_loss(
    model,
    asked_nd,
    item_bt=asked.item_bt,
    weight_bt=asked.weight_bt,
    at_day_bt=asked.at_day_bt,
    objective=objective,
    key=sample_key,
  )
  weight_n = flatten(batch.weight_bt)
  for nll_n, share in model.field_losses(states_nd, batch):
    total += share * jnp.sum(weight_n * nll_n)
  return total, jnp.sum(batch.weight_bt)


def make_step(
  objective: Objective, optimizer: optax.GradientTransformation, *, seed: int
) -> Step:
  """The step of an objective.

  The key is a function of (seed, step), so a resumed run draws the same masks
  and negatives. Targets are the tokens of positive weight: one of importance 0
  is none, and neither divides the loss nor counts among the tokens.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    definition, params, content = nnx.split(state.model, nnx.Param, ...)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = state.model.ask(batch, jax.random.fold_in(key, _ASKING))
    targets = jnp.sum(batch.weight_bt > 0)

    def mean_loss(params):
      model = nnx.merge(definition, params, content)
      total, weight = loss(model, batch, objective=objective, key=key)
      # Not by their weight: in a batch of old targets each counts less.
      return total / jnp.maximum(targets, 1), (total, weight)

    (_, (total, weight)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
      params
    )
    with jax.named_scope("optimizer"):
      updates, opt_state = optimizer.update(grads, state.opt_state, params)
      params = optax.apply_updates(params, updates)
    metrics = {
      "loss_total": total,
      "weight": weight,
      "targets": targets,
      "grad_norm": optax.tree.norm(grads),
    }
    model = nnx.merge(definition, params, content)
    return TrainState(state.step + 1, model, opt_state), metrics

  return jax.jit(step, donate_argnums=0)

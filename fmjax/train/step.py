"""One training step: pure, jitted, the old state donated."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmjax.config import (
  BinaryCrossEntropy,
  FullSoftmax,
  Objective,
  SampledSoftmax,
)
from fmjax.data.batch import Batch
from fmjax.model import time
from fmjax.model.features import flatten
from fmjax.model.heads import pair_logits
from fmjax.model.recommender import Recommender
from fmjax.train.loss import (
  binary_cross_entropy,
  full_softmax,
  sampled_softmax,
)
from fmjax.train.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def loss(
  model: Recommender, batch: Batch, *, objective: Objective, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(total, weight) of a batch: nats summed over targets, sum of weights.

  Args:
    model: its dropout is on, and that of ids.
    batch: rows of windows.
    objective: which loss.
    key: of dropout, of sampled negatives and of items without their id.
  """
  dropout_key, sample_key, id_key = jax.random.split(key, 3)
  model = model.drop_ids(id_key)
  states_nd = model.encode(batch, dropout_key=dropout_key)
  states_nd = states_nd.astype(model.dtype)
  items = model.items
  at_day_bt = time.day(batch.time_bt)
  target_n = flatten(batch.item_bt)
  weight_n, at_day_n = flatten(batch.weight_bt), flatten(at_day_bt)
  weight = jnp.sum(batch.weight_bt)

  def logits(item_nd: jax.Array) -> jax.Array:
    return pair_logits(states_nd, item_nd.astype(model.dtype))

  match objective:
    case FullSoftmax(chunk=chunk):
      head = model.item_head()
      total = full_softmax(
        states_nd,
        head,
        target_logit_n=logits(head.embed(target_n, at_day_n)),
        weight_bt=batch.weight_bt,
        at_day_bt=at_day_bt,
        chunk=chunk,
      )
    case SampledSoftmax(negatives=q):
      negative_q = items.sample(sample_key, q, axis=None)
      total = sampled_softmax(
        states_nd,
        model.item_head(negative_q),
        negative_q=negative_q,
        log_count=math.log(q / items.count),
        target_logit_n=logits(items.embed_candidates(target_n, at_day_n)),
        target_n=target_n,
        weight_n=weight_n,
        at_day_n=at_day_n,
      )
    case BinaryCrossEntropy(negatives=q):
      draws = [
        items.sample(key, target_n.shape[0])
        for key in jax.random.split(sample_key, q)
      ]
      negative_logits = [
        logits(items.embed_candidates(drawn_n, at_day_n)) for drawn_n in draws
      ]
      total = binary_cross_entropy(
        target_logit_n=logits(items.embed_candidates(target_n, at_day_n)),
        negative_logit_nq=jnp.stack(negative_logits, axis=-1),
        target_n=target_n,
        negative_nq=jnp.stack(draws, axis=-1),
        weight_n=weight_n,
      )
  return total, weight


def make_step(
  objective: Objective, optimizer: optax.GradientTransformation, *, seed: int
) -> Step:
  """The step of an objective.

  The key is a function of (seed, step), so a resumed run draws the same masks
  and negatives.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    definition, params, content = nnx.split(state.model, nnx.Param, ...)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
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

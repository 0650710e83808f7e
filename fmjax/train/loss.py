"""What the model is asked to get right."""

import jax
import jax.numpy as jnp

from fmjax import mesh
from fmjax.data.batch import Array
from fmjax.model.heads import ItemHead


def full_softmax(
  states_nd: jax.Array,
  head: ItemHead,
  *,
  target_bt: Array,
  weight_bt: Array,
  at_day_bt: Array,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Next-item cross-entropy over the whole catalog.

  The logits exist for about `chunk` tokens at a time; the backward pass makes
  them again. A chunk takes the same positions of every row, so it is spread
  over the mesh as the batch is.

  Args:
    states_nd: user states, n = b · t.
    head: gives the logits of all items.
    target_bt: catalog row to predict.
    weight_bt: weight of each target; 0 takes a position out of the loss.
    at_day_bt: day of each prediction, days since 1970 UTC.
    chunk: tokens a chunk, at most (but at least one position of every row).

  Returns:
    (total, weight): sum of weighted cross-entropies in nats, sum of weights.
  """
  b, t = target_bt.shape
  parts = _divisor(t, at_least=b * t / chunk)

  def split(array: Array) -> jax.Array:
    rest = array.shape[2:]
    array = jnp.reshape(
      array,
      (b, parts, t // parts, *rest),
      out_sharding=mesh.spec("rows", None, None, *(None for _ in rest)),
    )
    return jnp.moveaxis(array, 1, 0)

  @jax.checkpoint
  def add_chunk(total, scanned):
    states_bcd, target_bc, weight_bc, at_day_bc = scanned
    normalizer_bc = jax.nn.logsumexp(
      head.logits(states_bcd, at_day_bc), axis=-1
    )
    target_logit_bc = head.target_logits(states_bcd, target_bc, at_day_bc)
    # Padding has target 0: its loss is finite, and its weight is 0.
    nll_bc = normalizer_bc - target_logit_bc
    return total + jnp.sum(nll_bc * weight_bc), None

  with jax.named_scope("loss"):
    states_btd = states_nd.reshape(
      (b, t, states_nd.shape[1]), out_sharding=mesh.spec("rows", None, None)
    )
    columns = (states_btd, target_bt, weight_bt, at_day_bt)
    total, _ = jax.lax.scan(
      add_chunk,
      jnp.zeros((), jnp.float32),
      tuple(split(column) for column in columns),
    )
  return total, jnp.sum(weight_bt)


def _divisor(number: int, *, at_least: float) -> int:
  """The smallest divisor of `number` that is ≥ `at_least`, or `number`."""
  divisors = (d for d in range(1, number + 1) if number % d == 0)
  return next((d for d in divisors if d >= at_least), number)

"""What the model is asked to get right."""

import jax
import jax.numpy as jnp

from fmjax import mesh
from fmjax.data.batch import Array


def full_softmax(
  states_nd: jax.Array,
  item_vd: jax.Array,
  *,
  mask_v: jax.Array,
  target_bt: Array,
  weight_bt: Array,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Next-item cross-entropy over the whole catalog.

  The logits exist for about `chunk` tokens at a time; the backward pass makes
  them again. A chunk takes the same positions of every row, so it is spread
  over the mesh as the batch is.

  Args:
    states_nd: user states, n = b · t.
    item_vd: embeddings of all catalog rows.
    mask_v: True for the rows that are items.
    target_bt: catalog row to predict.
    weight_bt: weight of each target; 0 takes a position out of the loss.
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
    state_bcd, target_bc, weight_bc = scanned
    logits_bcv = jnp.einsum("bcd,vd->bcv", state_bcd, item_vd)
    logits_bcv = jnp.where(mask_v[None, None], logits_bcv, -jnp.inf)
    # The label's logit from its gathered row: picking it out of logits that are
    # spread over devices would move them.
    label_bcd = item_vd.at[target_bc].get(
      out_sharding=jax.typeof(state_bcd).sharding, mode="promise_in_bounds"
    )
    label_bc = jnp.sum(state_bcd * label_bcd, axis=-1)
    nll_bc = jax.nn.logsumexp(logits_bcv, axis=-1) - label_bc
    # Padding has target 0: its loss is finite, and its weight is 0.
    return total + jnp.sum(nll_bc * weight_bc), None

  with jax.named_scope("loss"):
    states_btd = states_nd.reshape(
      (b, t, states_nd.shape[1]), out_sharding=mesh.spec("rows", None, None)
    )
    total, _ = jax.lax.scan(
      add_chunk,
      jnp.zeros((), jnp.float32),
      (split(states_btd), split(target_bt), split(weight_bt)),
    )
  return total, jnp.sum(weight_bt)


def _divisor(number: int, *, at_least: float) -> int:
  """The smallest divisor of `number` that is ≥ `at_least`, or `number`."""
  divisors = (d for d in range(1, number + 1) if number % d == 0)
  return next((d for d in divisors if d >= at_least), number)

"""What the model is asked to get right.

Every loss returns the sum of a batch's weighted losses, in nats; the sum of
weights divides it once, elsewhere. Weight 0 takes a position out of the loss:
padding has it, and target 0, so its loss is finite.
"""

import jax
import jax.numpy as jnp

from fmjax import mesh
from fmjax.data.batch import Array
from fmjax.model.features import flatten
from fmjax.model.heads import Head


def full_softmax(
  states_nd: jax.Array,
  head: Head,
  *,
  target_logit_n: jax.Array,
  weight_bt: Array,
  at_day_bt: Array,
  chunk: int,
) -> jax.Array:
  """Next-item cross-entropy over the whole catalog.

  Args:
    states_nd: user states, n = b · t.
    head: gives the logits of all items.
    target_logit_n: logit of the item to predict.
    weight_bt: weight of each target.
    at_day_bt: day of each prediction, days since 1970 UTC.
    chunk: tokens whose logits exist at a time, at most (but at least one
      position of every row).
  """
  normalizer = log_normalizers(
    states_nd, head, weight_bt=weight_bt, at_day_bt=at_day_bt, chunk=chunk
  )
  return normalizer - jnp.sum(flatten(weight_bt) * target_logit_n)


def log_normalizers(
  states_nd: jax.Array,
  head: Head,
  *,
  weight_bt: Array,
  at_day_bt: Array,
  chunk: int,
) -> jax.Array:
  """Σ_n weight_n · log Σ_v exp(logit_nv), and its gradient, a chunk at a time.

  The gradient is computed in the forward pass, where a chunk's logits exist:
  the backward pass, which would have to make them again, only scales it. A
  chunk takes the same positions of every row, so it is spread over the mesh as
  the batch is.
  """
  b, t = weight_bt.shape
  parts = _divisor(t, at_least=b * t / chunk)

  def split(array: Array) -> jax.Array:
    """[b, t, …] → [parts, n, …], n of one chunk."""
    rest = array.shape[2:]
    none = (None,) * len(rest)
    array = jnp.reshape(
      array,
      (b, parts, t // parts, *rest),
      out_sharding=mesh.spec("rows", None, None, *none),
    )
    return jnp.reshape(
      jnp.moveaxis(array, 1, 0),
      (parts, b * t // parts, *rest),
      out_sharding=mesh.spec(None, "tokens", *none),
    )

  def join(array_pnd: jax.Array) -> jax.Array:
    d = array_pnd.shape[-1]
    array = jnp.reshape(
      array_pnd,
      (parts, b, t // parts, d),
      out_sharding=mesh.spec(None, "rows", None, None),
    )
    return jnp.reshape(
      jnp.moveaxis(array, 0, 1),
      (b * t, d),
      out_sharding=mesh.spec("tokens", None),
    )

  def chunked(states_nd: jax.Array) -> tuple[jax.Array, ...]:
    states_btd = jnp.reshape(
      states_nd,
      (b, t, states_nd.shape[1]),
      out_sharding=mesh.spec("rows", None, None),
    )
    return split(states_btd), split(weight_bt), split(at_day_bt)

  def of_chunk(states_nd, trained, weight_n, at_day_n):
    logits_nv = head.replace(trained).logits(states_nd, at_day_n)
    return jnp.sum(jax.nn.logsumexp(logits_nv, axis=-1) * weight_n)

  @jax.custom_vjp
  def total(states_nd, trained):
    def add(total, scanned):
      states_nd, weight_n, at_day_n = scanned
      return total + of_chunk(states_nd, trained, weight_n, at_day_n), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, zero, chunked(states_nd))[0]

  def forward(states_nd, trained):
    def add(sums, scanned):
      states_nd, weight_n, at_day_n = scanned
      value, (d_states_nd, d_trained) = jax.value_and_grad(
        of_chunk, argnums=(0, 1)
      )(states_nd, trained, weight_n, at_day_n)
      return jax.tree.map(jnp.add, sums, (value, d_trained)), d_states_nd

    zeros = jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, trained)
    (value, d_trained), d_states_pnd = jax.lax.scan(
      add, zeros, chunked(states_nd)
    )
    return value, (join(d_states_pnd), d_trained)

  def backward(gradients, cotangent):
    return jax.tree.map(
      lambda gradient: (cotangent * gradient).astype(gradient.dtype), gradients
    )

  total.defvjp(forward, backward)
  with jax.named_scope("loss"):
    states_nd = jax.sharding.reshard(states_nd, mesh.spec("tokens", None))
    return total(states_nd, head.trained)


def sampled_softmax(
  states_nd: jax.Array,
  head: Head,
  *,
  negative_q: jax.Array,
  log_count: float,
  target_logit_n: jax.Array,
  target_n: jax.Array,
  weight_n: jax.Array,
  at_day_n: jax.Array,
) -> jax.Array:
  """Cross-entropy of the target among sampled negatives, shared by all tokens.

  The negatives' logits are corrected by the log of the number of times that
  each is expected in the sample (Bengio and Senécal, 2008), so that their sum
  of exponentials is an unbiased estimate of that over all other items. The
  target is there with certainty and is not corrected; a negative that happens
  to be it is left out.

  Args:
    states_nd: user states.
    head: gives the logits of the negatives.
    negative_q: their catalog rows.
    log_count: log expected number of each item in `negative_q`.
    target_logit_n: logit of the item to predict.
    target_n: its catalog row.
    weight_n: weight of each target.
    at_day_n: day of each prediction, days since 1970 UTC.
  """
  with jax.named_scope("loss"):
    logits_nq = head.logits(states_nd, at_day_n) - log_count
    is_target_nq = negative_q[None] == target_n[:, None]
    logits_nq = jnp.where(is_target_nq, -jnp.inf, logits_nq)
    # The target's logit goes first, so that no maximum is over -inf alone.
    highest_n = jnp.maximum(target_logit_n, jnp.max(logits_nq, axis=-1))
    highest_n = jax.lax.stop_gradient(highest_n)
    others_n = jnp.sum(jnp.exp(logits_nq - highest_n[:, None]), axis=-1)
    sum_n = others_n + jnp.exp(target_logit_n - highest_n)
    nll_n = jnp.log(sum_n) + highest_n - target_logit_n
    return jnp.sum(nll_n * weight_n)


def binary_cross_entropy(
  *,
  target_logit_n: jax.Array,
  negative_logit_nq: jax.Array,
  target_n: jax.Array,
  negative_nq: jax.Array,
  weight_n: jax.Array,
) -> jax.Array:
  """-log σ(target) - Σ_q log(1 - σ(negative)): SASRec's (2018) loss.

  Args:
    target_logit_n: logit of the item to predict.
    negative_logit_nq: logits of this token's negatives.
    target_n: catalog row of the target.
    negative_nq: of the negatives; one that is the target is left out.
    weight_n: weight of each target.
  """
  with jax.named_scope("loss"):
    other_nq = negative_nq != target_n[:, None]
    against_nq = jnp.where(other_nq, jax.nn.softplus(negative_logit_nq), 0.0)
    loss_n = jax.nn.softplus(-target_logit_n) + jnp.sum(against_nq, axis=-1)
    return jnp.sum(loss_n * weight_n)


def _divisor(number: int, *, at_least: float) -> int:
  """The smallest divisor of `number` that is ≥ `at_least`, or `number`."""
  divisors = (d for d in range(1, number + 1) if number % d == 0)
  return next((d for d in divisors if d >= at_least), number)

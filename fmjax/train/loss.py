"""What the model is asked to get right.

Every loss returns the sum of a batch's weighted losses, in nats; the sum of
weights divides it once, elsewhere. Weight 0 takes a position out of the loss:
padding has it, and target 0, so its loss is finite.
"""

from collections.abc import Callable
from typing import Any

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
  item_bt: Array,
  weight_bt: Array,
  at_day_bt: Array,
  chunk: int,
) -> jax.Array:
  """Next-item cross-entropy over the whole catalog.

  Args:
    states_nd: user states, n = b · t.
    head: gives the logits of all items.
    item_bt: the item to predict.
    weight_bt: weight of each target.
    at_day_bt: day of each prediction, days since 1970 UTC.
    chunk: tokens whose logits exist at a time, at most (but at least one
      position of every row).
  """
  logit_n = head.logit(states_nd, flatten(item_bt), flatten(at_day_bt))
  normalizer = log_normalizers(
    states_nd,
    head,
    item_bt=item_bt,
    weight_bt=weight_bt,
    at_day_bt=at_day_bt,
    chunk=chunk,
  )
  return normalizer - jnp.sum(flatten(weight_bt) * logit_n)


def log_normalizers(
  states_nd: jax.Array,
  head: Head,
  *,
  item_bt: Array,
  weight_bt: Array,
  at_day_bt: Array,
  chunk: int,
) -> jax.Array:
  """Σ_n weight_n · log Σ_v exp(logit_nv), and its gradient, a chunk at a time.

  The sum is over the rivals of the item to predict, itself among them.

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
    return split(states_btd), *map(split, (item_bt, weight_bt, at_day_bt))

  def of_chunk(states_nd, trained, item_n, weight_n, at_day_n):
    logits_nv = head.replace(trained).rivals(states_nd, item_n, at_day_n)
    return jnp.sum(jax.nn.logsumexp(logits_nv, axis=-1) * weight_n)

  @jax.custom_vjp
  def total(states_nd, trained):
    def add(total, scanned):
      states_nd, *targets = scanned
      return total + of_chunk(states_nd, trained, *targets), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, zero, chunked(states_nd))[0]

  def forward(states_nd, trained):
    def add(sums, scanned):
      states_nd, *targets = scanned
      value, (d_states_nd, d_trained) = jax.value_and_grad(
        of_chunk, argnums=(0, 1)
      )(states_nd, trained, *targets)
      return jax.tree.map(jnp.add, sums, (value, d_trained)), d_states_nd

    zeros = jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, trained)
    (value, d_trained), d_states_pnd = jax.lax.scan(
      add, zeros, chunked(states_nd)
    )
    return value, (join(d_states_pnd), d_trained)

  total.defvjp(forward, _scaled)
  with jax.named_scope("loss"):
    states_nd = jax.sharding.reshard(states_nd, mesh.spec("tokens", None))
    return total(states_nd, head.trained)


def sampled_softmax(
  states_nd: jax.Array,
  head: Head,
  *,
  negative_q: jax.Array,
  log_count_q: jax.Array,
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
    log_count_q: log expected number of each of them; what is taken from its
      logit.
    target_logit_n: logit of the item to predict.
    target_n: its catalog row.
    weight_n: weight of each target.
    at_day_n: day of each prediction, days since 1970 UTC.
  """
  with jax.named_scope("loss"):
    logits_nq = head.logits(states_nd, at_day_n) - log_count_q[None]
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
  states_nd: jax.Array,
  trained: Any,
  *,
  logits: Callable[[jax.Array, Any, jax.Array], jax.Array],
  draw: Callable[[jax.Array], jax.Array],
  draws: jax.Array,
  target_logit_n: jax.Array,
  target_n: jax.Array,
  weight_n: jax.Array,
  power: float = 1.0,
) -> jax.Array:
  """-log σ(target)^power - Σ_q log(1 - σ(negative)), q negatives each.

  With power 1 SASRec's loss (Kang and McAuley, 2018), with less gSASRec's
  (Petrov and Macdonald, 2023). A negative that is the target is left out.

  One draw of all tokens exists at a time. Its gradient is computed in the
  forward pass, where its embeddings exist, as in `log_normalizers`.

  Args:
    states_nd: user states.
    trained: what gives the embeddings of items and has gradients, a pytree.
    logits: logits_n of (states_nd, trained, rows_n).
    draw: rows_n, one negative for each token, of an entry of `draws`.
    draws: q of them, such as keys.
    target_logit_n: logit of the item to predict.
    target_n: its catalog row.
    weight_n: weight of each target.
    power: β of the target's probability.
  """

  def of_draw(states_nd, trained, drawn):
    drawn_n = draw(drawn)
    against_n = jax.nn.softplus(logits(states_nd, trained, drawn_n))
    against_n = jnp.where(drawn_n != target_n, against_n, 0.0)
    return jnp.sum(against_n * weight_n)

  @jax.custom_vjp
  def total(states_nd, trained):
    def add(total, drawn):
      return total + of_draw(states_nd, trained, drawn), None

    return jax.lax.scan(add, jnp.zeros((), jnp.float32), draws)[0]

  def forward(states_nd, trained):
    def add(sums, drawn):
      value, gradients = jax.value_and_grad(of_draw, argnums=(0, 1))(
        states_nd, trained, drawn
      )
      # In float32, whatever the states' type: there may be many draws.
      sums = jax.tree.map(
        lambda sum, x: sum + x.astype(jnp.float32), sums, (value, gradients)
      )
      return sums, None

    zeros = jax.tree.map(
      lambda x: jnp.zeros_like(
        x, jnp.float32, out_sharding=jax.typeof(x).sharding
      ),
      (states_nd, trained),
    )
    (value, gradients), _ = jax.lax.scan(
      add, (jnp.zeros((), jnp.float32), zeros), draws
    )
    return value, jax.tree.map(
      lambda gradient, x: gradient.astype(x.dtype),
      gradients,
      (states_nd, trained),
    )

  total.defvjp(forward, _scaled)
  with jax.named_scope("loss"):
    states_nd = jax.sharding.reshard(states_nd, mesh.spec("tokens", None))
    for_n = power * jax.nn.softplus(-target_logit_n)
    return jnp.sum(for_n * weight_n) + total(states_nd, trained)


def _scaled(gradients: Any, cotangent: jax.Array) -> Any:
  """The backward pass where the forward pass has computed the gradients."""
  return jax.tree.map(
    lambda gradient: (cotangent * gradient).astype(gradient.dtype), gradients
  )


def _divisor(number: int, *, at_least: float) -> int:
  """The smallest divisor of `number` that is ≥ `at_least`, or `number`."""
  divisors = (d for d in range(1, number + 1) if number % d == 0)
  return next((d for d in divisors if d >= at_least), number)

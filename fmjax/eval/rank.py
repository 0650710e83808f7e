"""The rank of the target among all items."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def candidates(target_n: Array, *, items: int, seen_nw: Array) -> jax.Array:
  """bool [n, v]: the items that a query's target competes with, and itself.

  Args:
    target_n: int32, catalog row of each query's target.
    items: v.
    seen_nw: int32, catalog rows to leave out; -1 pads. The target stays, even
      if it was seen: a query is never unanswerable.
  """
  row_n = jnp.arange(target_n.shape[0])
  # -1 would count from the end; v is out of bounds and dropped.
  seen_nw = jnp.where(seen_nw < 0, items, seen_nw)
  kept_nv = jnp.ones((target_n.shape[0], items), bool)
  kept_nv = kept_nv.at[row_n[:, None], seen_nw].set(False, mode="drop")
  return kept_nv.at[row_n, target_n].set(True)


def target_score(scores_nv: Array, target_n: Array) -> jax.Array:
  """Each query's score of its target."""
  target_n = jnp.asarray(target_n)
  return jnp.take_along_axis(scores_nv, target_n[:, None], axis=1)[:, 0]


def rank(
  scores_nv: Array, target_n: Array, *, seen_nw: Array | None = None
) -> jax.Array:
  """1-based rank of each query's target among the items it has not seen.

  Ties count against us: a constant scorer must not look good. So does NaN, in
  the target's score and in a competitor's.

  Args:
    scores_nv: a score for each catalog row; -inf on rows that are no items.
    target_n: int32, catalog row of the target.
    seen_nw: int32, catalog rows to leave out of the competition; -1 pads. The
      target is never left out.

  Returns:
    int32 [n].
  """
  # Not "at least the target's": NaN compares as false, and must beat us. The
  # target is not below itself, so it counts itself and ranks start at 1.
  ahead_nv = ~(scores_nv < target_score(scores_nv, target_n)[:, None])
  if seen_nw is not None:
    ahead_nv &= candidates(target_n, items=scores_nv.shape[1], seen_nw=seen_nw)
  return ahead_nv.sum(axis=1, dtype=jnp.int32)

"""Where the negatives of a sampled softmax come from, and how many of each.

All tokens of a batch share them, and they are the same on every mesh.
"""

import math

import jax
import jax.numpy as jnp

from fmjax import mesh
from fmjax.config import (
  InBatchProposal,
  MixedProposal,
  PopularityProposal,
  Proposal,
  UniformProposal,
)
from fmjax.model.items import ItemTable

# What a batch without targets gives may be no item that training meets.
_LEAST_SHARE = 1e-9


def draw(
  proposal: Proposal,
  items: ItemTable,
  key: jax.Array,
  count: int,
  *,
  target_n: jax.Array,
  weight_n: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """(negative_q, log_count_q): rows, and log of how often each is expected.

  Drawn with replacement, so a sum over the negatives, each divided by its
  expected count, is an unbiased estimate of the sum over all items that can be
  drawn: over the catalog; by popularity and in the batch, over the items that
  training meets. Batches are themselves drawn from training, so an item is in
  one as often as training meets it (Yi et al., 2019).

  Args:
    proposal: how likely each item is.
    items: what is drawn from.
    key: of the draws.
    count: q.
    target_n: catalog rows of the batch's targets.
    weight_n: their weights; where it is 0 there is no target.
  """
  match proposal:
    case UniformProposal():
      log_count = math.log(count / items.count)
      return items.sample(key, count, axis=None), jnp.full(count, log_count)
    case PopularityProposal():
      row_q = items.sample_popular(key, count)
      return row_q, jnp.log(count * items.popularity(row_q))
    case MixedProposal(uniform=share):
      uniform = round(share * count)  # not drawn: estimates vary less
      uniform_key, popular_key = jax.random.split(key)
      row_q = jnp.concatenate(
        [
          items.sample(uniform_key, uniform, axis=None),
          items.sample_popular(popular_key, count - uniform),
        ]
      )
      popular_q = (count - uniform) * items.popularity(row_q)
      return row_q, jnp.log(uniform / items.count + popular_q)
    case InBatchProposal():
      row_q = _in_batch(key, count, target_n=target_n, weight_n=weight_n)
      share_q = items.popularity(jnp.maximum(row_q, 1))
      return row_q, jnp.log(count * jnp.maximum(share_q, _LEAST_SHARE))


def _in_batch(
  key: jax.Array, count: int, *, target_n: jax.Array, weight_n: jax.Array
) -> jax.Array:
  """row_q: every target of the batch is as likely as any other.

  A batch without targets gives its first row, whatever that is: nothing is
  weighed against it.
  """
  target_n = jax.sharding.reshard(target_n, mesh.spec(None))
  is_target_n = jax.sharding.reshard(weight_n > 0, mesh.spec(None))
  targets_n = jnp.cumsum(is_target_n)
  targets = jnp.maximum(targets_n[-1], 1)
  drawn_q = jax.random.randint(
    key, (count,), 0, targets, out_sharding=mesh.spec(None)
  )
  # The first position up to which there are more targets than the number drawn.
  place_q = jnp.searchsorted(targets_n, drawn_q, side="right")
  return target_n[jnp.minimum(place_q, len(target_n) - 1)]

"""Heads: what a user state says of the next token."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemHead:
  """Logits of items, tied to the item table: the only definition of a logit.

  Losses and scores both ask here, so what candidates look like on a day enters
  training and serving alike. Nothing in this head changes by day.

  Attributes:
    item_dv: embeddings of candidates, as they lie on the mesh. Transposed once:
      the chunks of a loss all multiply by it.
    mask_v: False for rows that are no items.
  """

  item_dv: jax.Array
  mask_v: jax.Array

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    """logits_nv of every candidate, float32; -inf where a row is no item."""
    del at_day_n
    logits_nv = jnp.einsum(
      "nd,dv->nv",
      states_nd,
      self.item_dv.astype(states_nd.dtype),
      preferred_element_type=jnp.float32,
    )
    return jnp.where(self.mask_v[None], logits_nv, -jnp.inf)

  def embed(self, rows_n: jax.Array) -> jax.Array:
    """Embeddings e_nd of some candidates, lying as `rows_n` does."""
    partition = jax.typeof(rows_n).sharding.spec
    return self.item_dv.T.at[rows_n].get(
      out_sharding=jax.P(*partition, None), mode="promise_in_bounds"
    )


def pair_logits(
  states_nd: jax.Array, item_nd: jax.Array, at_day_n: jax.Array
) -> jax.Array:
  """logits_n of one item each, from its embedding: `ItemHead`'s, gathered.

  Picking them out of logits that are spread over devices would move those.
  """
  del at_day_n
  return jnp.sum(states_nd * item_nd, axis=-1, dtype=jnp.float32)

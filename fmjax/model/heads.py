"""Heads: what a user state says of the next token."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemHead:
  """Logits of items, tied to the item table: the only definition of a logit.

  Loss and scores both ask here, so what candidates look like on a day enters
  training and serving alike. Nothing in this head changes by day.

  Attributes:
    item_vd: embeddings of candidates, as they lie on the mesh.
    mask_v: False for rows that are no items.
  """

  item_vd: jax.Array
  mask_v: jax.Array

  def logits(self, states_btd: jax.Array, at_day_bt: jax.Array) -> jax.Array:
    """Logits [b, t, v] of every candidate; -inf where a row is no item."""
    del at_day_bt
    logits_btv = jnp.einsum("btd,vd->btv", states_btd, self.item_vd)
    return jnp.where(self.mask_v[None, None], logits_btv, -jnp.inf)

  def target_logits(
    self, states_btd: jax.Array, target_bt: jax.Array, at_day_bt: jax.Array
  ) -> jax.Array:
    """Logits [b, t] of one candidate each, from its gathered row.

    Picking it out of logits that are spread over devices would move them.
    """
    del at_day_bt
    target_btd = self.item_vd.at[target_bt].get(
      out_sharding=jax.typeof(states_btd).sharding, mode="promise_in_bounds"
    )
    return jnp.sum(states_btd * target_btd, axis=-1)

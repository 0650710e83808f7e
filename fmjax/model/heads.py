"""Heads: what a user state says of the next token.

Logits are defined here alone. Losses and scores both ask a head, so what
candidates look like on a day enters training and serving alike.
"""

import dataclasses
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp


class Head(Protocol):
  """Logits of candidates, tied to the item table.

  `trained` are the arrays that have gradients, a pytree; `replace` gives the
  head with others in their place. A loss that adds gradients up, a chunk at a
  time, does so for these alone.
  """

  @property
  def trained(self) -> Any: ...

  def replace(self, trained: Any) -> Self: ...

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    """logits_nv of every candidate, float32; -inf where a row is no item."""
    ...

  def rivals(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    """logits_nv of what competes with one item each; -inf elsewhere."""
    ...

  def logit(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    """logit_n of one item each: log p is this less the rivals' logsumexp.

    Picking it out of logits that are spread over devices would move those.
    """
    ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemHead:
  """Candidates that look the same on every day.

  Attributes:
    item_dv: embeddings of candidates, as they lie on the mesh. Transposed once:
      the chunks of a loss all multiply by it.
    mask_v: False for rows that are no items.
  """

  item_dv: jax.Array
  mask_v: jax.Array

  @property
  def trained(self) -> jax.Array:
    return self.item_dv

  def replace(self, trained: jax.Array) -> "ItemHead":
    return dataclasses.replace(self, item_dv=trained)

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    del at_day_n
    logits_nv = _products(states_nd, self.item_dv)
    return jnp.where(self.mask_v[None], logits_nv, -jnp.inf)

  def embed(self, rows_n: jax.Array, at_day_n: jax.Array) -> jax.Array:
    """Embeddings e_nd of one candidate each, lying as `rows_n` does."""
    del at_day_n
    return _columns(self.item_dv, rows_n)

  def rivals(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    del rows_n  # everything competes with everything
    return self.logits(states_nd, at_day_n)

  def logit(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    item_nd = self.embed(rows_n, at_day_n).astype(states_nd.dtype)
    return pair_logits(states_nd, item_nd)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedIds:
  """The id's part of embeddings, by its weight on a day.

  Attributes:
    id_dv: twice the id embedding; 0 where there is no id.
    weight_yv: of the id at the start of each day.
  """

  id_dv: jax.Array
  weight_yv: jax.Array

  @property
  def trained(self) -> tuple[jax.Array, jax.Array]:
    return self.id_dv, self.weight_yv

  def replace(self, trained: tuple[jax.Array, jax.Array]) -> "GatedIds":
    return GatedIds(id_dv=trained[0], weight_yv=trained[1])

  def logits(self, states_nd: jax.Array, when_n: jax.Array) -> jax.Array:
    logits_nv = _products(states_nd, self.id_dv)
    return logits_nv * _days(self.weight_yv, when_n)

  def embed(self, rows_n: jax.Array, when_n: jax.Array) -> jax.Array:
    id_nd = _columns(self.id_dv, rows_n)
    weight_n = self.weight_yv.at[when_n, rows_n].get(
      out_sharding=jax.typeof(rows_n).sharding.spec, mode="promise_in_bounds"
    )
    return id_nd * weight_n[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DatedTerms:
  """What is known of candidates at the start of a day, in learned directions.

  Attributes:
    term_md: the direction of each value.
    value_ymv: of each candidate at the start of each day.
  """

  term_md: jax.Array
  value_ymv: jax.Array

  @property
  def trained(self) -> tuple[jax.Array, jax.Array]:
    return self.term_md, self.value_ymv

  def replace(self, trained: tuple[jax.Array, jax.Array]) -> "DatedTerms":
    return DatedTerms(term_md=trained[0], value_ymv=trained[1])

  def logits(self, states_nd: jax.Array, when_n: jax.Array) -> jax.Array:
    state_nm = _products(states_nd, self.term_md.T)
    # A small product for each token: its day's values are gathered as they lie.
    return jnp.einsum("nm,nmv->nv", state_nm, _days(self.value_ymv, when_n))

  def embed(self, rows_n: jax.Array, when_n: jax.Array) -> jax.Array:
    partition = jax.typeof(rows_n).sharding.spec
    value_nm = self.value_ymv.at[when_n, :, rows_n].get(
      out_sharding=jax.P(*partition, None), mode="promise_in_bounds"
    )
    return jnp.einsum("nm,md->nd", value_nm, self.term_md)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DatedItemHead:
  """Candidates as they look at the start of the prediction's day.

  Logits are exact for every (token, candidate), and no embedding is made for
  every day: each part is linear in what changes by day.

  Attributes:
    still: the part of embeddings that never changes.
    parts: those that do.
    first_day: of the tables' first row, days since 1970 UTC. A day off the
      tables looks like the nearest one.
    days: rows of the tables.
  """

  still: ItemHead
  parts: tuple[GatedIds | DatedTerms, ...]
  first_day: int = dataclasses.field(metadata={"static": True})
  days: int = dataclasses.field(metadata={"static": True})

  @property
  def trained(self) -> tuple[Any, ...]:
    return self.still.trained, *(part.trained for part in self.parts)

  def replace(self, trained: tuple[Any, ...]) -> "DatedItemHead":
    still, *others = trained
    pairs = zip(self.parts, others, strict=True)
    return dataclasses.replace(
      self,
      still=self.still.replace(still),
      parts=tuple(part.replace(other) for part, other in pairs),
    )

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    when_n = day_row(at_day_n, self.first_day, self.days)
    when_n = jax.sharding.reshard(
      when_n, jax.P(jax.typeof(states_nd).sharding.spec[0])
    )
    logits_nv = self.still.logits(states_nd, at_day_n)
    for part in self.parts:
      logits_nv = logits_nv + part.logits(states_nd, when_n)
    return logits_nv

  def embed(self, rows_n: jax.Array, at_day_n: jax.Array) -> jax.Array:
    """Embeddings e_nd of one candidate each, lying as `rows_n` does."""
    when_n = day_row(at_day_n, self.first_day, self.days)
    item_nd = self.still.embed(rows_n, at_day_n)
    for part in self.parts:
      item_nd = item_nd + part.embed(rows_n, when_n)
    return item_nd

  def rivals(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    del rows_n  # everything competes with everything
    return self.logits(states_nd, at_day_n)

  def logit(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    item_nd = self.embed(rows_n, at_day_n).astype(states_nd.dtype)
    return pair_logits(states_nd, item_nd)


def day_row(at_day_n: jax.Array, first_day: int, days: int) -> jax.Array:
  """Row of each day in tables by day: the nearest, off their ends."""
  return jnp.clip(jnp.asarray(at_day_n) - first_day, 0, days - 1)


def pair_logits(states_nd: jax.Array, item_nd: jax.Array) -> jax.Array:
  """logits_n of one item each, from its embedding."""
  return jnp.sum(states_nd * item_nd, axis=-1, dtype=jnp.float32)


def _products(states_nd: jax.Array, item_dv: jax.Array) -> jax.Array:
  return jnp.einsum(
    "nd,dv->nv",
    states_nd,
    item_dv.astype(states_nd.dtype),
    preferred_element_type=jnp.float32,
  )


def _columns(item_dv: jax.Array, rows_n: jax.Array) -> jax.Array:
  """Columns of a table, as rows that lie as `rows_n` does."""
  partition = jax.typeof(rows_n).sharding.spec
  return item_dv.T.at[rows_n].get(
    out_sharding=jax.P(*partition, None), mode="promise_in_bounds"
  )


def _days(table: jax.Array, when_n: jax.Array) -> jax.Array:
  """Rows of a table by day [y, …, v]: the days' as `when_n` lies."""
  days = jax.typeof(when_n).sharding.spec
  _, *rest = jax.typeof(table).sharding.spec
  return table.at[when_n].get(
    out_sharding=jax.P(*days, *rest), mode="promise_in_bounds"
  )

"""Items by way of an attribute: its prediction narrows that of the item.

Of a single-valued attribute, items without a known value are a class of their
own, so every item has one class and

  log p(item) = log p(class) + z_item - logsumexp of z over the class.

Training asks for one class a token and needs a mask alone; only scores of all
items need the sum of every class. A bag's values overlap: the mean of their
log-probabilities is added to the item's logit.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import HierarchicalItems
from fmjax.data.encode import FIRST_VALUE
from fmjax.data.schema import DataSpec, Encoded, Kind
from fmjax.model.heads import Head
from fmjax.model.items import ItemTable
from fmjax.model.readout import (
  Readout,
  log_probs,
  parts,
  readout_size,
  require_field,
)

# Logit of a class without items: its probability is exactly 0, and its
# logarithm times 0 is 0.
_NEVER = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrowed:
  """A head over the catalog whose items compete within their class.

  Attributes:
    inner: of all items.
    output_di: of the classes.
    bias_i: likewise; `_NEVER` for a class without items.
    class_v: int32, of every row.
    candidates_c: whose logits are given; None: of all.
  """

  inner: Head
  output_di: jax.Array
  bias_i: jax.Array
  class_v: jax.Array
  candidates_c: jax.Array | None

  @property
  def trained(self) -> Any:
    """Of the rivals: classes are no part of them."""
    return self.inner.trained

  def replace(self, trained: Any) -> "Narrowed":
    return dataclasses.replace(self, inner=self.inner.replace(trained))

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    """log p(item), the catalog's in all 1."""
    logits_nv = _by_class(
      self.inner.logits(states_nd, at_day_n),
      self._class_log_probs(states_nd),
      self.class_v,
    )
    if self.candidates_c is None:
      return logits_nv
    partition = jax.typeof(states_nd).sharding.spec
    return logits_nv.at[:, self.candidates_c].get(
      out_sharding=jax.P(partition[0], None), mode="promise_in_bounds"
    )

  def rivals(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    class_n = self._classes(rows_n)
    rival_nv = self.class_v[None] == class_n[:, None]
    # Row 0 stands on padding, whose loss must be finite.
    rival_nv |= rows_n[:, None] == 0
    logits_nv = self.inner.logits(states_nd, at_day_n)
    return jnp.where(rival_nv, logits_nv, -jnp.inf)

  def logit(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    log_p_ni = self._class_log_probs(states_nd)
    class_ni = jax.nn.one_hot(self._classes(rows_n), log_p_ni.shape[1])
    logit_n = self.inner.logit(states_nd, rows_n, at_day_n)
    return logit_n + jnp.sum(class_ni * log_p_ni, axis=-1)

  def _classes(self, rows_n: jax.Array) -> jax.Array:
    return self.class_v.at[rows_n].get(
      out_sharding=jax.typeof(rows_n).sharding.spec, mode="promise_in_bounds"
    )

  def _class_log_probs(self, states_nd: jax.Array) -> jax.Array:
    return log_probs(states_nd, self.output_di, self.bias_i)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lifted:
  """A head whose logits have a term of each item's values.

  Attributes:
    inner: of the same candidates.
    output_di: of the values.
    bias_i: likewise.
    part_vi: of each value in each candidate: 1 in all, or none. An item without
      a value has log(1 / values) for its mean: what a readout that knows
      nothing says of any item.
  """

  inner: Head
  output_di: jax.Array
  bias_i: jax.Array
  part_vi: jax.Array

  @property
  def trained(self) -> Any:
    return self.inner.trained, self.output_di, self.bias_i

  def replace(self, trained: Any) -> "Lifted":
    inner, output_di, bias_i = trained
    return dataclasses.replace(
      self,
      inner=self.inner.replace(inner),
      output_di=output_di,
      bias_i=bias_i,
    )

  def logits(self, states_nd: jax.Array, at_day_n: jax.Array) -> jax.Array:
    lift_nv = jnp.einsum("ni,vi->nv", self._lifts(states_nd), self.part_vi)
    return self.inner.logits(states_nd, at_day_n) + lift_nv - self._unknown

  def rivals(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    del rows_n  # everything competes with everything
    return self.logits(states_nd, at_day_n)

  def logit(
    self, states_nd: jax.Array, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    partition = jax.typeof(rows_n).sharding.spec
    part_ni = self.part_vi.at[rows_n].get(
      out_sharding=jax.P(*partition, None), mode="promise_in_bounds"
    )
    lift_n = jnp.sum(self._lifts(states_nd) * part_ni, axis=-1)
    logit_n = self.inner.logit(states_nd, rows_n, at_day_n)
    return logit_n + lift_n - self._unknown

  def _lifts(self, states_nd: jax.Array) -> jax.Array:
    """log p of each value over that of an item without one."""
    log_p_ni = log_probs(states_nd, self.output_di, self.bias_i)
    return log_p_ni + self._unknown

  @property
  def _unknown(self) -> float:
    return math.log(self.part_vi.shape[1])


class Hierarchy(nnx.Module):
  """What a state says of the next item's attribute, and the head made of it."""

  def __init__(self, config: HierarchicalItems, spec: DataSpec, *, width: int):
    """Builds the parameters.

    Raises:
      ConfigError: the attribute is none of a catalog's, or of another kind.
    """
    feature = attribute_field(config, spec).feature
    self.name = feature.name
    self.single = feature.kind is Kind.CATEGORICAL
    self.weight = config.weight
    self.readout = Readout(width, classes(config, spec))

  def head(
    self, items: ItemTable, candidates_c: jax.Array | None = None
  ) -> Narrowed | Lifted:
    """The head over some candidates, or over the whole catalog."""
    output_di, bias_i = self.readout.output_di[...], self._bias(items)
    code = items.content_of_all(self.name)
    if self.single:
      return Narrowed(
        inner=items.head(),
        output_di=output_di,
        bias_i=bias_i,
        class_v=class_of(code),
        candidates_c=candidates_c,
      )
    part_vi = parts(code, bias_i.shape[0])
    if candidates_c is not None:
      part_vi = part_vi.at[candidates_c].get(
        out_sharding=mesh.spec(None, None), mode="promise_in_bounds"
      )
    return Lifted(
      inner=items.head(candidates_c),
      output_di=output_di,
      bias_i=bias_i,
      part_vi=part_vi,
    )

  def log_probs(self, states_nd: jax.Array, items: ItemTable) -> jax.Array:
    """log_p_ni of the attribute's classes."""
    return log_probs(states_nd, self.readout.output_di[...], self._bias(items))

  def nll(
    self, states_nd: jax.Array, items: ItemTable, rows_n: jax.Array
  ) -> jax.Array:
    """Nats of the attribute of one item each, [n]; a bag's: mean over values.

    0 where a bag has none.
    """
    log_p_ni = self.log_probs(states_nd, items)
    code = items.content_of(self.name, rows_n)
    if self.single:
      part_ni = jax.nn.one_hot(class_of(code), log_p_ni.shape[1])
    else:
      part_ni = parts(code, log_p_ni.shape[1])
    return -jnp.sum(part_ni * log_p_ni, axis=-1)

  def _bias(self, items: ItemTable) -> jax.Array:
    """A class without items is impossible."""
    bias_i = self.readout.bias_i[...]
    if not self.single:
      return bias_i
    class_v = class_of(items.content_of_all(self.name))
    of_item_vi = class_v[:, None] == jnp.arange(bias_i.shape[0])[None]
    of_item_vi &= items.mask()[:, None]
    return jnp.where(jnp.any(of_item_vi, axis=0), bias_i, _NEVER)


def class_of(code: jax.Array) -> jax.Array:
  """Classes of a single-valued attribute: 0 is "none known"."""
  return jnp.maximum(code - FIRST_VALUE + 1, 0)


def attribute_field(config: HierarchicalItems, spec: DataSpec) -> Encoded:
  return require_field(
    config.attribute,
    spec.metadata,
    place="model.hierarchy.attribute",
    kinds=(Kind.CATEGORICAL, Kind.BAG),
    remedy="FlatItems()",
  )


def classes(config: HierarchicalItems, spec: DataSpec) -> int:
  """Values of the attribute and, of a single-valued one, "none"."""
  field = attribute_field(config, spec)
  return readout_size(field) + (field.feature.kind is Kind.CATEGORICAL)


def _by_class(
  logits_nv: jax.Array, log_p_ni: jax.Array, class_v: jax.Array
) -> jax.Array:
  """log p(class) + log p(item | class), wherever the items lie."""
  tokens, items = jax.typeof(logits_nv).sharding.spec
  size = log_p_ni.shape[1]

  def local(logits_nv, log_p_ni, class_v):
    logits_vn = logits_nv.T
    highest_in = jax.ops.segment_max(logits_vn, class_v, size)
    if items is not None:
      highest_in = jax.lax.pmax(highest_in, items)
    # Of a class without items there is none; nothing reads its sum.
    highest_in = jnp.where(highest_in > -jnp.inf, highest_in, 0.0)
    sum_in = jax.ops.segment_sum(
      jnp.exp(logits_vn - highest_in[class_v]), class_v, size
    )
    if items is not None:
      sum_in = jax.lax.psum(sum_in, items)
    class_in = log_p_ni.T - highest_in - jnp.log(sum_in)
    return logits_nv + class_in[class_v].T

  found_nv = jax.shard_map(
    local,
    in_specs=(jax.P(tokens, items), jax.P(tokens, None), jax.P(items)),
    out_specs=jax.P(tokens, items),
  )(logits_nv, log_p_ni, class_v)
  return jnp.where(logits_nv == -jnp.inf, -jnp.inf, found_nv)

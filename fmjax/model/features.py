"""Declared features become vectors: one embedder for fields of every kind.

`FieldEmbedder` serves events and items alike. `EventEmbedder` joins the
request-time features of token t with the post-action features of token t-1,
so that no position sees its own outcome.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import AllFeatures, CalendarTime, ItemOnly, ModelConfig
from fmjax.data.batch import Array, Batch
from fmjax.data.schema import DataSpec, Encoded, Kind, When
from fmjax.model import time

FIELD_WIDTH = 16  # of a categorical or a bag, before the projection

_INIT_SCALE = 0.02
_DATE_TERMS = 4  # Fourier terms of a timestamp field's date


def normal(
  shape: tuple[int, ...],
  scale: float,
  *,
  rngs: nnx.Rngs,
  axes: tuple[str | None, ...] = (),
) -> nnx.Param:
  """Normal with standard deviation `scale`; `axes`: logical, if spread."""
  values = scale * jax.random.normal(rngs.params(), shape)
  return nnx.Param(values, out_sharding=mesh.spec(*axes) if axes else None)


def linear(
  fan_in: int,
  fan_out: int,
  *,
  rngs: nnx.Rngs,
  axes: tuple[str | None, ...] = (),
) -> nnx.Param:
  """A [fan_in, fan_out] matrix with variance 1 / fan_in."""
  return normal((fan_in, fan_out), fan_in**-0.5, rngs=rngs, axes=axes)


def lookup(table_id: jax.Array, codes: jax.Array) -> jax.Array:
  """Rows of a table by codes of any shape, sharded as the codes are."""
  partition = jax.typeof(codes).sharding.spec
  return table_id.at[codes].get(
    out_sharding=jax.P(*partition, None), mode="promise_in_bounds"
  )


class FieldEmbedder(nnx.Module):
  """Fields side by side: categoricals and bags looked up, numbers as they are.

  A bag is the mean of its values' rows, weighted by counts where it has them.
  A missing categorical, an empty bag and a missing number are zeros; a number
  comes with an indicator that it is there.
  """

  def __init__(self, fields: tuple[Encoded, ...], *, rngs: nnx.Rngs):
    self.fields = fields
    self.tables = nnx.Dict(
      {
        field.feature.name: normal(
          (field.size, FIELD_WIDTH), FIELD_WIDTH**-0.5, rngs=rngs
        )
        for field in fields
        if field.feature.kind in (Kind.CATEGORICAL, Kind.BAG)
      }
    )

  @property
  def width(self) -> int:
    return sum(field_width(field) for field in self.fields)

  def __call__(self, values: dict[str, jax.Array]) -> jax.Array:
    """Fields of n tokens (or items) → [n, width]."""
    parts = [self._embed(field, values) for field in self.fields]
    return jnp.concatenate(parts, axis=-1)

  def _embed(self, field: Encoded, values: dict[str, jax.Array]) -> jax.Array:
    name = field.feature.name
    value = values[name]
    match field.feature.kind:
      case Kind.CATEGORICAL:
        row_nd = lookup(self.tables[name][...], value)
        return row_nd * (value > 0)[:, None].astype(row_nd.dtype)
      case Kind.BAG:
        weight_nw = (value > 0).astype(jnp.float32)
        if f"{name}_count" in values:
          weight_nw = weight_nw * values[f"{name}_count"]
        row_nwd = lookup(self.tables[name][...], value)
        total_nd = jnp.einsum("nw,nwd->nd", weight_nw, row_nwd)
        return total_nd / jnp.maximum(weight_nw.sum(-1), 1.0)[:, None]
      case Kind.NUMERIC:
        known_n = ~jnp.isnan(value)
        return jnp.stack(
          [jnp.where(known_n, value, 0.0), known_n.astype(jnp.float32)], -1
        )
      case Kind.TIMESTAMP:
        known_n = (value > 0).astype(jnp.float32)
        terms_nd = time.slow_terms(value, terms=_DATE_TERMS)
        return jnp.concatenate(
          [terms_nd * known_n[:, None], known_n[:, None]], axis=-1
        )
      case Kind.VECTOR:
        return value


def field_width(field: Encoded) -> int:
  """Width of a field's part of a `FieldEmbedder`'s output."""
  match field.feature.kind:
    case Kind.CATEGORICAL | Kind.BAG:
      return FIELD_WIDTH
    case Kind.NUMERIC:
      return 2
    case Kind.TIMESTAMP:
      return 2 * _DATE_TERMS + 1
    case Kind.VECTOR:
      return field.size


def flatten(values_bt: Array) -> jax.Array:
  """[b, t, …] → [n, …]."""
  b, t, *rest = values_bt.shape
  return jnp.reshape(
    values_bt,
    (b * t, *rest),
    out_sharding=mesh.spec("tokens", *(None for _ in rest)),
  )


def _flatten_all(values: dict[str, Array]) -> dict[str, jax.Array]:
  return {name: flatten(value) for name, value in values.items()}


class EventEmbedder(nnx.Module):
  """Position t = W · [request features of t ; post-action features of t-1].

  The item of t-1 enters through the shared item table; where there is no token
  before, a learned start token stands in its place.
  """

  def __init__(
    self, config: ModelConfig, spec: DataSpec, *, window: int, rngs: nnx.Rngs
  ):
    match config.features:
      case AllFeatures():
        request, previous = (spec.known_at(when) for when in When)
      case ItemOnly():
        request, previous = (), ()
    self.calendar_terms = (
      config.time.slow_terms if isinstance(config.time, CalendarTime) else None
    )
    self.request = FieldEmbedder(request, rngs=rngs)
    self.previous = FieldEmbedder(previous, rngs=rngs)
    request_width = self.request.width
    if self.calendar_terms is not None:
      request_width += time.calendar_width(self.calendar_terms)
    self.has_request = request_width > 0
    self.has_previous = self.previous.width > 0
    if self.has_request:
      self.request_md = normal(
        (request_width, config.width), _INIT_SCALE, rngs=rngs
      )
    if self.has_previous:
      self.previous_md = normal(
        (self.previous.width, config.width), _INIT_SCALE, rngs=rngs
      )
    self.start_d = normal((config.width,), _INIT_SCALE, rngs=rngs)
    self.position_td = normal((window, config.width), _INIT_SCALE, rngs=rngs)

  def __call__(self, batch: Batch, item_nd: jax.Array) -> jax.Array:
    """Embeds every position.

    Args:
      batch: rows of windows.
      item_nd: embedding of the item of t-1, n = b · t.

    Returns:
      x_nd, float32.
    """
    x_nd = item_nd
    if self.has_previous:
      fields_nm = self.previous(_flatten_all(batch.previous))
      x_nd = x_nd + jnp.einsum("nm,md->nd", fields_nm, self.previous_md[...])
    is_start_n = flatten(batch.index_bt) == 0
    x_nd = jnp.where(is_start_n[:, None], self.start_d[...][None], x_nd)
    if self.has_request:
      parts = []
      if self.request.fields:
        parts.append(self.request(_flatten_all(batch.request)))
      if self.calendar_terms is not None:
        parts.append(
          time.calendar_terms(flatten(batch.time_bt), slow=self.calendar_terms)
        )
      fields_nm = jnp.concatenate(parts, axis=-1)
      x_nd = x_nd + jnp.einsum("nm,md->nd", fields_nm, self.request_md[...])
    return x_nd + lookup(self.position_td[...], flatten(batch.position_bt))

"""Declared features become vectors: one embedder for fields of every kind.

`FieldEmbedder` serves events and items alike. `EventEmbedder` joins the
request-time features of token t with the post-action features of token t-1,
so that no position sees its own outcome.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  AllFeatures,
  CalendarTime,
  ItemOnly,
  LearnedPositions,
  LogGap,
  ModelConfig,
  NoGap,
  NoTime,
  PostActionOnly,
)
from fmjax.data.batch import Array, Batch
from fmjax.data.encode import FIRST_VALUE
from fmjax.data.schema import DataSpec, Encoded, Kind, When
from fmjax.model import time

FIELD_WIDTH = 16  # of a categorical or a bag, before the projection

_INIT_SCALE = 0.02
# Where the buckets of a log-scaled number begin, in standard deviations from
# its mean: 16 buckets in [-3, 3], the outer two open.
_LOG_EDGES = np.linspace(-3, 3, 17, dtype=np.float32)[1:-1]
_LOG_BUCKETS = len(_LOG_EDGES) + 1


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
  """Fields side by side, each by its declared kind.

  Categoricals are looked up; a bag is the mean of its values' rows, weighted by
  counts where it has them. Values that training never saw are left out: their
  rows hold noise. A number is itself and, if its logarithm was taken, its
  bucket, too; a timestamp is Fourier terms of its date; a vector is itself.
  What is missing is zeros; numbers, timestamps and vectors come with an
  indicator that they are there.
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
        return row_nd * (value >= FIRST_VALUE)[:, None].astype(row_nd.dtype)
      case Kind.BAG:
        weight_nw = (value >= FIRST_VALUE).astype(jnp.float32)
        if f"{name}_count" in values:
          weight_nw = weight_nw * values[f"{name}_count"]
        row_nwd = lookup(self.tables[name][...], value)
        total_nd = jnp.einsum("nw,nwd->nd", weight_nw, row_nwd)
        return total_nd / jnp.maximum(weight_nw.sum(-1), 1.0)[:, None]
      case Kind.NUMERIC:
        known_n = ~jnp.isnan(value)
        terms_nd = jnp.where(known_n, value, 0.0)[:, None]
        if field.feature.log:
          terms_nd = jnp.concatenate([terms_nd, _log_terms(value)], axis=-1)
      case Kind.TIMESTAMP:
        known_n = value != 0
        terms_nd = time.date_terms(value)
      case Kind.VECTOR:
        # A vector of zeros says nothing: it stands for a missing one.
        known_n = jnp.any(value != 0, axis=-1)
        terms_nd = value
    known_nd = known_n.astype(jnp.float32)[:, None]
    return jnp.concatenate([terms_nd * known_nd, known_nd], axis=-1)


def _log_terms(value_n: jax.Array) -> jax.Array:
  """One-hot of the buckets of standardized logarithms."""
  bucket_n = sum(
    ((value_n >= edge).astype(jnp.int32) for edge in _LOG_EDGES),
    start=jnp.zeros((), jnp.int32),
  )
  return jax.nn.one_hot(bucket_n, _LOG_BUCKETS, dtype=jnp.float32)


def field_width(field: Encoded) -> int:
  """Width of a field's part of a `FieldEmbedder`'s output."""
  match field.feature.kind:
    case Kind.CATEGORICAL | Kind.BAG:
      return FIELD_WIDTH
    case Kind.NUMERIC:
      return 1 + _LOG_BUCKETS * field.feature.log + 1
    case Kind.TIMESTAMP:
      return time.DATE_WIDTH + 1
    case Kind.VECTOR:
      return field.size + 1


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


def event_fields(
  config: ModelConfig, spec: DataSpec
) -> tuple[tuple[Encoded, ...], tuple[Encoded, ...]]:
  """Embedded request-time features of t, and post-action ones of t-1."""
  request, post_action = (spec.known_at(when) for when in When)
  match config.features:
    case AllFeatures():
      return request, post_action
    case PostActionOnly():
      return (), post_action
    case ItemOnly():
      return (), ()


class Clock(nnx.Module):
  """What a token's request time says, by the configured terms."""

  def __init__(self, config: ModelConfig, spec: DataSpec):
    match config.time:
      case CalendarTime(slow_terms=terms) as choice:
        time.require_times(spec, f"model.time={choice}", remedy="NoTime()")
        self.slow_terms = terms
      case NoTime():
        self.slow_terms = None
    match config.gap:
      case LogGap(buckets=buckets) as choice:
        time.require_times(spec, f"model.gap={choice}", remedy="NoGap()")
        self.gap_buckets = buckets
      case NoGap():
        self.gap_buckets = None
    self.width = clock_width(config)

  def __call__(self, batch: Batch) -> list[jax.Array]:
    """Terms of n tokens, [n, width] in all."""
    time_n, parts = flatten(batch.time_bt), []
    if self.slow_terms is not None:
      parts.append(time.calendar_terms(time_n, slow=self.slow_terms))
    if self.gap_buckets is not None:
      parts.append(
        time.gap_terms(
          time_n,
          flatten(batch.previous["time"]),
          is_start_n=flatten(batch.index_bt) == 0,
          buckets=self.gap_buckets,
        )
      )
    return parts


def clock_width(config: ModelConfig) -> int:
  """Width of a `Clock`'s terms."""
  width = 0
  if isinstance(config.time, CalendarTime):
    width += time.calendar_width(config.time.slow_terms)
  if isinstance(config.gap, LogGap):
    width += config.gap.buckets + 1
  return width


class EventEmbedder(nnx.Module):
  """Position t = W · [request features of t ; post-action features of t-1].

  The item of t-1 enters through the shared item table; where there is no token
  before, a learned start token stands in its place.
  """

  def __init__(
    self, config: ModelConfig, spec: DataSpec, *, window: int, rngs: nnx.Rngs
  ):
    request, previous = event_fields(config, spec)
    self.clock = Clock(config, spec)
    self.request = FieldEmbedder(request, rngs=rngs)
    self.previous = FieldEmbedder(previous, rngs=rngs)
    request_width = self.request.width + self.clock.width
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
    self.has_positions = isinstance(config.positions, LearnedPositions)
    if self.has_positions:
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
      parts = self.clock(batch)
      if self.request.fields:
        parts = [self.request(_flatten_all(batch.request)), *parts]
      fields_nm = jnp.concatenate(parts, axis=-1)
      x_nd = x_nd + jnp.einsum("nm,md->nd", fields_nm, self.request_md[...])
    if self.has_positions:
      position_n = flatten(batch.position_bt)
      x_nd = x_nd + lookup(self.position_td[...], position_n)
    return x_nd

"""What a model is not told of a request: neutral features.

Where an item was shown decides in part what was chosen. A model that knows what
"not told" means can be asked what it would rank wherever the item is shown.
"""

import dataclasses

import jax
import jax.numpy as jnp

from fmjax.config import (
  AsLogged,
  ConfigError,
  ModelConfig,
  SometimesNeutral,
  suggest,
)
from fmjax.data.batch import Array, Batch
from fmjax.data.schema import DataSpec, Encoded, Kind, When
from fmjax.model import dropout
from fmjax.model.features import event_fields


@dataclasses.dataclass(frozen=True)
class Told:
  """Every request is as the log has it."""

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """As it is."""
    del key
    return batch

  def shown(self, batch: Batch) -> Batch:
    """As it is."""
    return batch


@dataclasses.dataclass(frozen=True)
class SometimesUntold:
  """Training leaves out features of a share of the requests."""

  fields: tuple[Encoded, ...]
  share: float

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """The batch of one training step: most of a history is as it was logged."""
    bits_bt = dropout.random_bits(key, jnp.asarray(batch.segment_bt))
    return without(batch, self.fields, dropout.draw(bits_bt, self.share))

  def shown(self, batch: Batch) -> Batch:
    """As it is."""
    return batch


@dataclasses.dataclass(frozen=True)
class QueriesUntold:
  """For evaluation: of a query's own request the features are left out.

  Its history is as it was logged: those surfaces really were seen.
  """

  fields: tuple[Encoded, ...]

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """As it is."""
    del key
    return batch

  def shown(self, batch: Batch) -> Batch:
    """The batch without the features where it asks for a target."""
    return without(batch, self.fields, jnp.asarray(batch.weight_bt) > 0)


Request = Told | SometimesUntold | QueriesUntold


def without(
  batch: Batch, fields: tuple[Encoded, ...], where_bt: jax.Array
) -> Batch:
  """The batch in which request-time features are missing at some positions."""
  request = dict(batch.request)
  for field in fields:
    name = field.feature.name
    request[name] = _missing(request[name], field.feature.kind, where_bt)
  return dataclasses.replace(batch, request=request)


def _missing(values: Array, kind: Kind, where_bt: jax.Array) -> jax.Array:
  """What `Batch` says is missing, in place of [b, t, …] `where_bt`."""
  values = jnp.asarray(values)
  none = jnp.full_like(values, jnp.nan if kind is Kind.NUMERIC else 0)
  where = where_bt.reshape(*where_bt.shape, *(1,) * (values.ndim - 2))
  return jnp.where(where, none, values)


def make_request(config: ModelConfig, spec: DataSpec) -> Told | SometimesUntold:
  """How training tells requests.

  Raises:
    ConfigError: a name is not that of an embedded request-time feature.
  """
  match config.request:
    case AsLogged():
      return Told()
    case SometimesNeutral(names=names, share=share):
      fields = neutral_fields(config, spec, names, place="model.request")
      return SometimesUntold(fields, share)


def neutral_fields(
  config: ModelConfig, spec: DataSpec, names: tuple[str, ...], *, place: str
) -> tuple[Encoded, ...]:
  """The named request-time features, which the model must embed.

  Raises:
    ConfigError: one is none, or is not embedded; `place` is where it is named.
  """
  declared = {e.feature.name: e for e in spec.features}
  of = {e.feature.name: e for e in spec.known_at(When.REQUEST)}
  embedded, _ = event_fields(config, spec)
  for name in names:
    if name not in of:
      what = (
        "is known only after the action, not at the request"
        if name in declared
        else "is no request-time feature of this log"
      )
      remedy = suggest(name, list(of)) if of else ", which has none"
      raise ConfigError(f"{place} names {name!r}, which {what}{remedy}")
    if of[name] not in embedded:
      raise ConfigError(
        f"{place} names {name!r}, which model.features={config.features} does"
        " not embed; use AllFeatures()"
      )
  return tuple(of[name] for name in names)

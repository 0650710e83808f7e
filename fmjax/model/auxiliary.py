"""Auxiliary heads: fields of the next token, or of its item, from its state.

Logs tell more than which item was next: what was done with it, for how long,
and what it is. Each of these is a target; none is an input of its own
prediction.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import Auxiliary, ConfigError, NoAuxiliary
from fmjax.data.batch import Batch
from fmjax.data.schema import DataSpec, Encoded, Kind, When
from fmjax.model.features import flatten
from fmjax.model.items import ItemTable
from fmjax.model.readout import (
  READABLE,
  Readout,
  parts,
  readout_size,
  require_field,
)

Source = Literal["token", "item"]


class AuxiliaryHeads(nnx.Module):
  """A readout for each target."""

  def __init__(self, config: Auxiliary, spec: DataSpec, *, width: int):
    """Builds the parameters.

    Raises:
      ConfigError: a target is no field that can be predicted.
    """
    self.weight = config.weight
    self.targets = targets_of(config, spec)
    self.readouts = nnx.Dict(
      {
        field.feature.name: Readout(width, readout_size(field))
        for field, _ in self.targets
      }
    )

  def __call__(self, states_nd: jax.Array) -> dict[str, jax.Array]:
    """Log-probabilities log_p_ni of classes, or numbers [n], by target."""
    found = {}
    for field, _ in self.targets:
      name = field.feature.name
      output_ni = self.readouts[name](states_nd)
      if field.feature.kind is Kind.NUMERIC:
        found[name] = output_ni[:, 0]
      else:
        found[name] = jax.nn.log_softmax(output_ni)
    return found

  def nll(
    self, states_nd: jax.Array, batch: Batch, items: ItemTable
  ) -> dict[str, jax.Array]:
    """Nats of every target, [n]; 0 where it is not known.

    A number's are those of a Gaussian of unit variance, less a constant; a
    bag's, the mean over its values.
    """
    item_n = flatten(batch.item_bt)
    found, losses = self(states_nd), {}
    for field, source in self.targets:
      name = field.feature.name
      said, count_nw = found[name], None
      if source == "item":
        value = items.content_of(name, item_n)
      else:
        value = flatten(batch.outcome[name])
        if field.feature.kind is Kind.BAG:
          count_nw = flatten(batch.outcome[f"{name}_count"])
      match field.feature.kind:
        case Kind.NUMERIC:
          known_n = ~jnp.isnan(value)
          error_n = jnp.where(known_n, value, 0.0) - said
          losses[name] = jnp.where(known_n, 0.5 * error_n**2, 0.0)
        case Kind.BAG:
          part_ni = parts(value, said.shape[1], count_nw=count_nw)
          losses[name] = -jnp.sum(part_ni * said, axis=-1)
        case _:
          part_ni = parts(value[:, None], said.shape[1])
          losses[name] = -jnp.sum(part_ni * said, axis=-1)
    return losses


def targets_of(
  config: NoAuxiliary | Auxiliary, spec: DataSpec
) -> tuple[tuple[Encoded, Source], ...]:
  """The field of each target, and of what it is one.

  Raises:
    ConfigError: a target is no field that can be predicted.
  """
  match config:
    case NoAuxiliary():
      return ()
    case Auxiliary(targets=names):
      return tuple(_target(name, spec) for name in names)


def outcomes(
  config: NoAuxiliary | Auxiliary, spec: DataSpec
) -> tuple[str, ...]:
  """Targets that are fields of the token: batches must hold them."""
  return _of_source("token", config, spec)


def item_fields(
  config: NoAuxiliary | Auxiliary, spec: DataSpec
) -> tuple[str, ...]:
  """Targets that are fields of the item."""
  return _of_source("item", config, spec)


def _of_source(
  source: Source, config: NoAuxiliary | Auxiliary, spec: DataSpec
) -> tuple[str, ...]:
  targets = targets_of(config, spec)
  return tuple(field.feature.name for field, of in targets if of == source)


def _target(name: str, spec: DataSpec) -> tuple[Encoded, Source]:
  place = "model.auxiliary.targets"
  request = [field.feature.name for field in spec.known_at(When.REQUEST)]
  if name in request:
    raise ConfigError(
      f"{place} names {name!r}, which is known before the item is shown: it"
      " leaks into its own input; name a post-action feature or a field of the"
      " metadata"
    )
  of_token = spec.known_at(When.POST_ACTION)
  field = require_field(
    name,
    (*spec.metadata, *of_token),
    place=place,
    kinds=READABLE,
    remedy="NoAuxiliary()",
  )
  return field, "token" if field in of_token else "item"

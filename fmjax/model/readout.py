"""Readouts: what a state says of a declared field, by a linear map.

Classes of a field are the values that training knows. Nothing is drawn: a
readout begins with every class as likely as any other, and every number at its
mean.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import ConfigError, suggest
from fmjax.data.encode import FIRST_VALUE
from fmjax.data.schema import Encoded, Kind

READABLE = (Kind.CATEGORICAL, Kind.BAG, Kind.NUMERIC)


class Readout(nnx.Module):
  """Logits of the classes of a field, or one number: [d, i] and a bias."""

  def __init__(self, width: int, size: int):
    self.output_di = nnx.Param(jnp.zeros((width, size)))
    self.bias_i = nnx.Param(jnp.zeros(size))

  def __call__(self, states_nd: jax.Array) -> jax.Array:
    """output_ni, float32."""
    return read(states_nd, self.output_di[...], self.bias_i[...])


def read(
  states_nd: jax.Array, output_di: jax.Array, bias_i: jax.Array
) -> jax.Array:
  """output_ni, float32, of states in the model's dtype."""
  output_ni = jnp.einsum(
    "nd,di->ni",
    states_nd,
    output_di.astype(states_nd.dtype),
    preferred_element_type=jnp.float32,
  )
  return output_ni + bias_i[None]


def log_probs(
  states_nd: jax.Array, output_di: jax.Array, bias_i: jax.Array
) -> jax.Array:
  """log_p_ni of the classes."""
  return jax.nn.log_softmax(read(states_nd, output_di, bias_i))


def readout_size(field: Encoded) -> int:
  """Classes of a categorical field or of a bag; 1 for a number."""
  return 1 if field.feature.kind is Kind.NUMERIC else field.size - FIRST_VALUE


def parts(
  code_nw: jax.Array, size: int, *, count_nw: jax.Array | None = None
) -> jax.Array:
  """part_ni of each class: 1 in all, or 0 where no value is known.

  Args:
    code_nw: values, as the data have them; what training never saw is left out.
    size: classes.
    count_nw: how often each value is there; None: once.
  """
  part_nwi = jax.nn.one_hot(code_nw - FIRST_VALUE, size, dtype=jnp.float32)
  if count_nw is not None:
    part_nwi = part_nwi * count_nw[..., None]
  part_ni = jnp.sum(part_nwi, axis=1)
  total_n = jnp.sum(part_ni, axis=-1, keepdims=True)
  return part_ni / jnp.where(total_n > 0, total_n, 1.0)


def require_field(
  name: str,
  fields: tuple[Encoded, ...],
  *,
  place: str,
  kinds: tuple[Kind, ...],
  remedy: str,
) -> Encoded:
  """The field of that name.

  Raises:
    ConfigError: there is none, or it is nothing that a readout tells.
  """
  of = {field.feature.name: field for field in fields}
  if name not in of:
    raise ConfigError(
      f"{place} names {name!r}, which these data lack"
      + (suggest(name, list(of)) if of else f"; use {remedy}")
    )
  field = of[name]
  if field.feature.kind not in kinds:
    raise ConfigError(
      f"{place} names {name!r}, a {field.feature.kind}; name a"
      f" {' or '.join(kinds)} field, or use {remedy}"
    )
  if readout_size(field) < 1:
    raise ConfigError(
      f"{place} names {name!r}, of which training saw no value; name another"
      f" field, or use {remedy}"
    )
  return field

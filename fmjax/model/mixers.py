"""Mixers: one item embedding of two sources, its id and its metadata.

A mixer maps id rows, whether they may be used, and metadata embeddings to
(e_nd, by_age_nd). The item's embedding is e, or e + w · by_age where the weight
w of the id depends on the item's age; else there is no second one. Without a
usable id all but `IdAlone` return what the metadata give.

A gate weighs two sources: the metadata, and the metadata with twice the id. So
metadata count the same in every item, known or not; between id and metadata
themselves, an item without an id would have as much of the metadata as others
have of both. Even weights make the sum: gates begin there, and learn as fast.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import (
  AgeGate,
  AllMetadata,
  ConcatMixer,
  ConfigError,
  FixedGate,
  IdOnly,
  ItemsConfig,
  MetadataOnly,
  Mixer,
  SomeMetadata,
  SumMixer,
  suggest,
)
from fmjax.data.schema import DataSpec, Encoded
from fmjax.model import age, daily
from fmjax.model.features import normal

GATE_WIDTH = 8  # of an age's query and of the sources' keys

Mixed = tuple[jax.Array, jax.Array | None]


def has_ids(mixer: Mixer) -> bool:
  """The item table holds id rows."""
  return not isinstance(mixer, MetadataOnly)


def metadata_fields(config: ItemsConfig, spec: DataSpec) -> tuple[Encoded, ...]:
  """The fields that the mixer reads.

  Raises:
    ConfigError: the catalog lacks one of them, or has none where the mixer
      cannot do without.
  """
  match config.metadata:
    case AllMetadata():
      fields = spec.metadata
    case SomeMetadata(names=names):
      of = {field.feature.name: field for field in spec.metadata}
      for name in names:
        if name not in of:
          raise ConfigError(
            f"model.items.metadata names {name!r}, which the catalog lacks"
            + (suggest(name, list(of)) if of else "; use AllMetadata()")
          )
      fields = tuple(of[name] for name in names)
  match config.mixer:
    case IdOnly():
      return ()
    case SumMixer(id_dropout=rate):
      if rate and not fields and not daily.features_width(config):
        raise ConfigError(
          f"model.items.mixer={config.mixer} would leave items with nothing:"
          " no field of this catalog is chosen, and candidates tell neither age"
          " nor counts; use IdOnly(), model.items.age=CandidateAge(), or other"
          " data"
        )
      return fields
    case MetadataOnly() | ConcatMixer() | FixedGate() | AgeGate():
      if not fields:
        raise ConfigError(
          f"model.items.mixer={config.mixer} needs metadata, and no field of"
          " this catalog is chosen; use IdOnly() or other data"
        )
      return fields


class IdAlone(nnx.Module):
  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    return id_nd * has_id_n[:, None], None


class MetadataAlone(nnx.Module):
  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    return metadata_nd, None


class Sum(nnx.Module):
  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    return id_nd * has_id_n[:, None] + metadata_nd, None


class Concat(nnx.Module):
  """A projection of both, side by side: a matrix for each."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    scale = (2 * width) ** -0.5
    self.id_fd = normal((width, width), scale, rngs=rngs)
    self.metadata_fd = normal((width, width), scale, rngs=rngs)

  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    id_nf, metadata_nf = id_nd * has_id_n[:, None], metadata_nd
    item_nd = jnp.einsum("nf,fd->nd", id_nf, self.id_fd[...])
    of_metadata_nd = jnp.einsum("nf,fd->nd", metadata_nf, self.metadata_fd[...])
    return item_nd + of_metadata_nd, None


class Fixed(nnx.Module):
  """The id has the same weight in every item that has one."""

  def __init__(self, id_weight: float):
    self.id_weight = id_weight

  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    weight_n = 2 * self.id_weight * has_id_n
    return metadata_nd + weight_n[:, None] * id_nd, None


class Gate(nnx.Module):
  """Attention over both sources; the query is the bucket of the item's age.

  Its weights depend on the bucket alone, so that logits of every item on every
  day cost two products, not one for each day.
  """

  def __init__(self):
    # Waves over the buckets, so that ages near each other begin alike; nothing
    # is drawn, so that models with a gate and without begin alike, too.
    place_g = (jnp.arange(age.BUCKETS, dtype=jnp.float32) + 0.5) / age.BUCKETS
    waves_e = jnp.pi * jnp.arange(GATE_WIDTH, dtype=jnp.float32)
    self.age_ge = nnx.Param(jnp.cos(place_g[:, None] * waves_e[None]))
    # From even weights at every age.
    self.key_me = nnx.Param(jnp.zeros((2, GATE_WIDTH)))

  def weight_g(self) -> jax.Array:
    """Weight of the source with the id, by bucket of age."""
    age_ge, key_me = self.age_ge[...], self.key_me[...]
    logits_gm = jnp.sum(age_ge[:, None] * key_me[None], axis=-1)
    return jax.nn.softmax(logits_gm * GATE_WIDTH**-0.5, axis=-1)[:, 0]

  def __call__(self, id_nd, has_id_n, metadata_nd) -> Mixed:
    return metadata_nd, 2 * id_nd * has_id_n[:, None]


def make_mixer(
  mixer: Mixer, *, width: int, has_metadata: bool, rngs: nnx.Rngs
) -> nnx.Module:
  match mixer:
    case IdOnly():
      return IdAlone()
    case MetadataOnly():
      return MetadataAlone()
    case SumMixer():
      # The sum of one, where the catalog has no metadata.
      return Sum() if has_metadata else IdAlone()
    case ConcatMixer():
      return Concat(width, rngs=rngs)
    case FixedGate(id_weight=id_weight):
      return Fixed(id_weight)
    case AgeGate():
      return Gate()

"""The item table: id rows and metadata, mixed into one embedding an item.

Input and output share it: a token looks its item up, the item head asks for the
logits of every item. Nothing else holds these parameters.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import IdOnly, SumMixer
from fmjax.data.catalog import Catalog
from fmjax.data.schema import DataSpec
from fmjax.model.features import FieldEmbedder, normal

# The id table is padded to a multiple of this many rows, so that it divides
# over any mesh of up to that many devices and a checkpoint fits all of them.
ROW_MULTIPLE = 128

_INIT_SCALE = 0.02


class Content(nnx.Variable):
  """What the catalog says of the items: saved with the model, never trained."""


def padded_rows(items: int) -> int:
  return -(-items // ROW_MULTIPLE) * ROW_MULTIPLE


class ItemTable(nnx.Module):
  """Embeddings e(v) of all catalog rows, by the configured mixer."""

  def __init__(
    self,
    mixer: SumMixer | IdOnly,
    spec: DataSpec,
    catalog: Catalog,
    *,
    width: int,
    rngs: nnx.Rngs,
  ):
    rows = padded_rows(spec.items)
    self.items = spec.items
    self.id_vd = normal(
      (rows, width), _INIT_SCALE, rngs=rngs, axes=("vocabulary", None)
    )
    # A row that training never updates holds noise: its id source is masked
    # exactly, on the input and on the output side.
    self.trained_v = _content(catalog.train_count_v > 0, rows)
    match mixer:
      case IdOnly():
        self.metadata = None
      case SumMixer():
        self.metadata = FieldEmbedder(spec.metadata, rngs=rngs)
        if not spec.metadata:
          self.metadata = None
    if self.metadata is not None:
      self.content = nnx.Dict(
        {
          field.feature.name: _content(
            catalog.metadata[field.feature.name], rows
          )
          for field in spec.metadata
        }
      )
      self.metadata_md = normal(
        (self.metadata.width, width), _INIT_SCALE, rngs=rngs
      )

  def embed(
    self, rows_n: jax.Array, *, axis: str | None = "tokens"
  ) -> jax.Array:
    """Embeddings of catalog rows, gathered: rows_n → e_nd, n lying on `axis`.

    None: on every device.
    """

    def take(table: jax.Array) -> jax.Array:
      rest = (None,) * (table.ndim - 1)
      return table.at[rows_n].get(
        out_sharding=mesh.spec(axis, *rest), mode="promise_in_bounds"
      )

    content = {}
    if self.metadata is not None:
      content = {name: take(c[...]) for name, c in self.content.items()}
    return self._mix(take(self.id_vd[...]), take(self.trained_v[...]), content)

  def embed_all(self) -> jax.Array:
    """Embeddings of every row, padding included: e_vd as candidates lie.

    Gathered over "data", since every token meets every candidate: its bytes
    grow with the catalog.
    """
    content = {}
    if self.metadata is not None:
      content = {name: c[...] for name, c in self.content.items()}
    item_vd = self._mix(self.id_vd[...], self.trained_v[...], content)
    return jax.sharding.reshard(item_vd, mesh.spec("candidates", None))

  @property
  def count(self) -> int:
    """Items: row 0 is none."""
    return self.items - 1

  def sample(
    self, key: jax.Array, count: int, *, axis: str | None = "tokens"
  ) -> jax.Array:
    """Rows of items drawn uniformly, with replacement, lying on `axis`."""
    return jax.random.randint(
      key, (count,), 1, self.items, out_sharding=mesh.spec(axis)
    )

  def mask(self) -> jax.Array:
    """True for the rows that are items: not row 0, not the padding."""
    row_v = jnp.arange(self.id_vd.shape[0])
    return (row_v > 0) & (row_v < self.items)

  def _mix(self, id_nd, trained_n, content):
    x_nd = id_nd * trained_n[:, None].astype(id_nd.dtype)
    if self.metadata is None:
      return x_nd
    fields_nm = self.metadata(content)
    return x_nd + jnp.einsum("nm,md->nd", fields_nm, self.metadata_md[...])


def _content(array, rows: int) -> Content:
  padding = [(0, rows - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
  return Content(
    jnp.pad(jnp.asarray(array), padding),
    out_sharding=mesh.spec("vocabulary", *(None,) * (array.ndim - 1)),
  )

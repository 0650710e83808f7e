"""The item table: id rows and metadata, mixed into one embedding an item.

Input and output share it: a token looks its item up, the item head asks for the
logits of every item. Nothing else holds these parameters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  CandidateAge,
  DynamicCounts,
  ItemsConfig,
)
from fmjax.data.catalog import Catalog
from fmjax.data.dynamic import dated, launch_seconds
from fmjax.data.schema import DataSpec
from fmjax.model import age, daily, dropout, mixers
from fmjax.model.features import FieldEmbedder, normal
from fmjax.model.heads import (
  DatedItemHead,
  DatedTerms,
  GatedIds,
  Head,
  ItemHead,
  day_row,
)
from fmjax.model.time import require_times

# The id table is padded to a multiple of this many rows, so that it divides
# over any mesh of up to that many devices and a checkpoint fits all of them.
ROW_MULTIPLE = 128

_INIT_SCALE = 0.02
_PARTS = 2**32  # of popularity


class Content(nnx.Variable):
  """What the catalog says of the items: saved with the model, never trained."""


class ByDay(nnx.Variable):
  """What the catalog says of days: made anew with every model, never saved."""


def padded_rows(items: int) -> int:
  return -(-items // ROW_MULTIPLE) * ROW_MULTIPLE


class ItemTable(nnx.Module):
  """Embeddings of all catalog rows: e(v) as input, e(v, day) as candidate.

  A candidate's is linear in what changes by day, so that its logits are cheap
  (`DatedItemHead`): e + w[age] · toward_id + Σ_m term_m · value_m[day].
  """

  def __init__(
    self,
    config: ItemsConfig,
    spec: DataSpec,
    catalog: Catalog,
    *,
    width: int,
    rngs: nnx.Rngs,
    asked: tuple[str, ...] = (),
  ):
    """Builds the parameters.

    Args:
      config: the choices.
      spec: what the data holds.
      catalog: the items.
      width: of an embedding.
      rngs: needs the stream "params".
      asked: metadata that heads predict; they are kept as those embedded are.

    Raises:
      ConfigError: the data lack what the configuration reads.
    """
    _require_times(config, spec)
    fields = mixers.metadata_fields(config, spec)
    self.items = spec.items
    self.rows = rows = padded_rows(spec.items)
    self.id_dropout = getattr(config.mixer, "id_dropout", 0.0)
    if mixers.has_ids(config.mixer):
      self.id_vd = normal(
        (rows, width), _INIT_SCALE, rngs=rngs, axes=("vocabulary", None)
      )
    else:
      self.id_vd = None
    # A row that training never updates holds noise: its id source is masked
    # exactly, on the input and on the output side.
    self.has_id_v = _content(catalog.train_count_v > 0, rows)
    self.popular_until_v = _content(
      _parts(catalog.train_count_v, rows=rows), rows
    )
    names = [field.feature.name for field in fields]
    self.content = nnx.Dict(
      {
        name: _content(catalog.metadata[name], rows)
        for name in dict.fromkeys((*names, *asked))
      }
    )
    if fields:
      self.metadata = FieldEmbedder(fields, rngs=rngs)
      self.metadata_md = normal(
        (self.metadata.width, width), _INIT_SCALE, rngs=rngs
      )
    else:
      self.metadata = None
    self.mixer = mixers.make_mixer(
      config.mixer, width=width, has_metadata=bool(fields), rngs=rngs
    )
    self._init_days(config, catalog, width=width, rngs=rngs)

  def _init_days(
    self,
    config: ItemsConfig,
    catalog: Catalog,
    *,
    width: int,
    rngs: nnx.Rngs,
  ):
    gated = isinstance(config.mixer, AgeGate)
    features = daily.features_width(config)
    self.has_looks = features > 0
    if not gated and not features:
      self.first_day, self.days = 0, 1
      return
    tables = dated(catalog, counts=isinstance(config.dynamics, DynamicCounts))
    self.first_day, self.days = tables.first_day, len(tables.age_dv)
    if gated:
      self.launch_s_v = _content(launch_seconds(catalog), self.rows)
      self.launch_declared_v = _content(catalog.launch_declared_v, self.rows)
      bucket_yv = np.digitize(tables.age_dv, age.BUCKET_EDGES_DAYS)
      self.bucket_yv = _by_day(bucket_yv.astype(np.int8), self.rows)
    if features:
      looks = daily.looks(config, tables)
      self.look_yv = _by_day(looks.look_yv, self.rows)
      self.feature_lf = ByDay(jnp.asarray(looks.feature_lf))
      self.looks = daily.LookEncoder(features, rngs=rngs)
      # From 0: candidates look the same on every day before training.
      self.term_md = nnx.Param(jnp.zeros((daily.VALUES, width)))

  def embed(self, item_n: jax.Array, time_n: jax.Array) -> jax.Array:
    """Embeddings of the items of past events, as input.

    Args:
      item_n: catalog rows.
      time_n: when the events began, seconds since 1970 UTC.

    Returns:
      e_nd.
    """
    item_nd, by_age_nd = self._mix_rows(item_n, "tokens")
    if by_age_nd is None:
      return item_nd
    age_n = age.at_event(
      time_n,
      launch_s_n=_take(self.launch_s_v, item_n, "tokens"),
      declared_n=_take(self.launch_declared_v, item_n, "tokens"),
    )
    return item_nd + self._id_weight(age.bucket(age_n)) * by_age_nd

  def embed_candidates(
    self, rows_n: jax.Array, at_day_n: jax.Array
  ) -> jax.Array:
    """Embeddings e_nd of one candidate each, as at the start of a day.

    Args:
      rows_n: catalog rows.
      at_day_n: days since 1970 UTC.
    """
    item_nd, by_age_nd = self._mix_rows(rows_n, "tokens")
    when_n = day_row(at_day_n, self.first_day, self.days)

    def then(table_yv: jax.Array) -> jax.Array:
      """Of each candidate on its day."""
      return table_yv.at[when_n, rows_n].get(
        out_sharding=mesh.spec("tokens"), mode="promise_in_bounds"
      )

    if by_age_nd is not None:
      bucket_n = then(self.bucket_yv[...])
      item_nd = item_nd + self._id_weight(bucket_n) * by_age_nd
    if self.has_looks:
      value_lm = self.looks(self.feature_lf[...])
      value_nm = value_lm.at[then(self.look_yv[...])].get(
        out_sharding=mesh.spec("tokens", None), mode="promise_in_bounds"
      )
      item_nd = item_nd + jnp.einsum("nm,md->nd", value_nm, self.term_md[...])
    return item_nd

  def head(self, candidates_c: jax.Array | None = None) -> Head:
    """The head over some candidates, or over the whole catalog.

    Over the catalog, embeddings are gathered over "data", since every token
    meets every candidate: their bytes grow with the catalog.
    """
    if candidates_c is None:
      item_vd, by_age_vd = self._mix_all()
      mask_v = self.mask()
    else:
      item_vd, by_age_vd = self._mix_rows(candidates_c, None)
      mask_v = self.mask()[candidates_c]

    def columns(table: jax.Array) -> jax.Array:
      if candidates_c is None:
        return table
      return table.at[..., candidates_c].get(
        out_sharding=mesh.spec(*(None for _ in table.shape)),
        mode="promise_in_bounds",
      )

    still = ItemHead(item_dv=item_vd.T, mask_v=mask_v)
    parts = []
    if by_age_vd is not None:
      bucket_yv = columns(self.bucket_yv[...])
      weight_yv = (
        self.gate_weights()
        .at[bucket_yv]
        .get(
          out_sharding=jax.typeof(bucket_yv).sharding.spec,
          mode="promise_in_bounds",
        )
      )
      part = GatedIds(id_dv=by_age_vd.T, weight_yv=weight_yv)
      parts.append(part)
    if self.has_looks:
      look_yv = columns(self.look_yv[...])
      value_ml = self.looks(self.feature_lf[...]).T
      value_myv = value_ml.at[:, look_yv].get(
        out_sharding=jax.P(None, *jax.typeof(look_yv).sharding.spec),
        mode="promise_in_bounds",
      )
      value_ymv = jnp.moveaxis(value_myv, 0, 1)
      parts.append(DatedTerms(term_md=self.term_md[...], value_ymv=value_ymv))
    if not parts:
      return still
    return DatedItemHead(
      still=still,
      parts=tuple(parts),
      first_day=self.first_day,
      days=self.days,
    )

  def content_of(self, name: str, rows_n: jax.Array) -> jax.Array:
    """A field of the metadata of some rows, lying on "tokens"."""
    return _take(self.content[name], rows_n, "tokens")

  def content_of_all(self, name: str) -> jax.Array:
    """A field of the metadata of every row, padding included."""
    content = self.content[name][...]
    rest = (None,) * (content.ndim - 1)
    return jax.sharding.reshard(content, mesh.spec("candidates", *rest))

  def gate_weights(self) -> jax.Array:
    """weight_g of the id by bucket of age (`age.BUCKET_EDGES_DAYS`).

    Raises:
      TypeError: the mixer has no age gate.
    """
    if not isinstance(self.mixer, mixers.Gate):
      raise TypeError(f"{type(self.mixer).__name__} has no weights by age")
    return self.mixer.weight_g()

  def drop_ids(self, key: jax.Array) -> "ItemTable":
    """The table of one training step: a share of the items lacks its id.

    As input and as candidate alike, so that metadata learn to stand alone.
    """
    if not self.id_dropout:
      return self
    has_id_v = self.has_id_v[...]
    bits_v = dropout.random_bits(key, has_id_v)
    table = nnx.clone(self)
    table.has_id_v[...] = has_id_v & ~dropout.draw(bits_v, self.id_dropout)
    return table

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

  def sample_popular(self, key: jax.Array, count: int) -> jax.Array:
    """Rows drawn as often as training meets them, with replacement.

    They lie on every device. An item without training tokens is never drawn.
    """
    replicated = mesh.spec(None)
    until_v = jax.sharding.reshard(self.popular_until_v[...], replicated)
    bits_q = jax.random.bits(key, (count,), jnp.uint32, out_sharding=replicated)
    # The last part ends before the last number, which no item owns.
    bits_q = jnp.minimum(bits_q, jnp.uint32(_PARTS - 2))
    return jnp.searchsorted(until_v, bits_q, side="right").astype(jnp.int32)

  def popularity(self, rows_q: jax.Array) -> jax.Array:
    """Share of some items, lying on every device, in all training tokens."""
    until_q = _take(self.popular_until_v, rows_q, None)
    # Row 0 is no item: there is always a row before.
    from_q = _take(self.popular_until_v, rows_q - 1, None)
    return (until_q - from_q).astype(jnp.float32) / float(_PARTS)

  def mask(self) -> jax.Array:
    """True for the rows that are items: not row 0, not the padding."""
    row_v = jnp.arange(self.rows)
    return (row_v > 0) & (row_v < self.items)

  def _id_weight(self, bucket_n: jax.Array) -> jax.Array:
    """[n, 1]."""
    weight_n = (
      self.gate_weights()
      .at[bucket_n]
      .get(
        out_sharding=jax.typeof(bucket_n).sharding.spec,
        mode="promise_in_bounds",
      )
    )
    return weight_n[:, None]

  def _mix_rows(self, rows_n: jax.Array, axis: str | None) -> mixers.Mixed:
    """Of some rows, lying on `axis`; None: on every device."""
    return self._mix(lambda table: _take(table, rows_n, axis))

  def _mix_all(self) -> mixers.Mixed:
    """Of every row, padding included, as candidates lie."""
    mixed = self._mix(lambda table: table[...])
    item_vd, by_age_vd = jax.tree.map(
      lambda x_vd: jax.sharding.reshard(x_vd, mesh.spec("candidates", None)),
      mixed,
    )
    return item_vd, by_age_vd

  def _mix(self, take) -> mixers.Mixed:
    id_nd = None if self.id_vd is None else take(self.id_vd)
    has_id_n = take(self.has_id_v).astype(jnp.float32)
    metadata_nd = None
    if self.metadata is not None:
      names = [field.feature.name for field in self.metadata.fields]
      content = {name: take(self.content[name]) for name in names}
      metadata_nd = jnp.einsum(
        "nm,md->nd", self.metadata(content), self.metadata_md[...]
      )
    return self.mixer(id_nd, has_id_n, metadata_nd)


def _require_times(config: ItemsConfig, spec: DataSpec) -> None:
  if isinstance(config.mixer, AgeGate):
    choice = f"model.items.mixer={config.mixer}"
    require_times(spec, choice, remedy="SumMixer()")
  if isinstance(config.age, CandidateAge):
    choice = f"model.items.age={config.age}"
    require_times(spec, choice, remedy="NoAge()")
  if isinstance(config.dynamics, DynamicCounts):
    choice = f"model.items.dynamics={config.dynamics}"
    require_times(spec, choice, remedy="NoDynamics()")


def _take(table: nnx.Variable, rows_n: jax.Array, axis: str | None):
  rest = (None,) * (table.ndim - 1)
  return (
    table[...]
    .at[rows_n]
    .get(out_sharding=mesh.spec(axis, *rest), mode="promise_in_bounds")
  )


def _parts(count_v: np.ndarray, *, rows: int) -> np.ndarray:
  """Where each item's part of [0, 2³²) ends, as wide as its share; uint32 [v].

  Whole numbers, as float32 sums would lose the items at the end of a long
  catalog. What is drawn from is what shares are told from.
  """
  sum_v = np.cumsum(np.pad(count_v, (0, rows - len(count_v))), dtype=np.int64)
  until_v = np.floor(sum_v / max(sum_v[-1], 1) * _PARTS)
  return np.minimum(until_v, _PARTS - 1).astype(np.uint32)


def _content(array: np.ndarray, rows: int) -> Content:
  padding = [(0, rows - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
  return Content(
    jnp.pad(jnp.asarray(array), padding),
    out_sharding=mesh.spec("vocabulary", *(None,) * (array.ndim - 1)),
  )


def _by_day(array: np.ndarray, rows: int) -> ByDay:
  """[y, …, v], padded to `rows`, as candidates lie."""
  padding = [(0, 0)] * (array.ndim - 1) + [(0, rows - array.shape[-1])]
  return ByDay(
    jnp.asarray(np.pad(array, padding)),
    out_sharding=mesh.spec(*(None,) * (array.ndim - 1), "candidates"),
  )

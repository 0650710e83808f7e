"""The model: histories in, a user state and item logits out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import (
  Auxiliary,
  FlatItems,
  HierarchicalItems,
  LogBucketBias,
  ModelConfig,
  MultiToken,
  NextToken,
  NoAuxiliary,
  NoRemat,
  RematBlocks,
  RematElementwise,
  SasrecBlock,
)
from fmjax.data.batch import Batch
from fmjax.data.catalog import Catalog
from fmjax.data.schema import DataSpec, Encoded
from fmjax.model import dropout, time
from fmjax.model.auxiliary import AuxiliaryHeads, item_fields
from fmjax.model.block import make_block, make_final_norm
from fmjax.model.features import EventEmbedder, flatten
from fmjax.model.heads import Head
from fmjax.model.hierarchy import Hierarchy, attribute_field
from fmjax.model.horizons import Horizons, ItemTargets
from fmjax.model.items import ItemTable
from fmjax.model.reading import make_reading
from fmjax.model.request import QueriesUntold, Request, make_request

# Blocks in one iteration of the scan: two are compiled as one program, without
# copies of what the backward pass reads; all of them would be slow to compile.
_UNROLL = 2


def rematerialized(
  layer: Callable, remat: NoRemat | RematElementwise | RematBlocks
) -> Callable:
  """`layer`, with what its backward pass computes a second time."""
  match remat:
    case NoRemat():
      return layer
    case RematElementwise():
      policy = jax.checkpoint_policies.dots_saveable
    case RematBlocks():
      policy = jax.checkpoint_policies.nothing_saveable
  return jax.checkpoint(layer, policy=policy)


class Recommender(nnx.Module):
  """One transformer over packed histories, with a tied item head."""

  def __init__(
    self,
    config: ModelConfig,
    spec: DataSpec,
    catalog: Catalog,
    *,
    window: int,
    rngs: nnx.Rngs,
  ):
    """Builds the parameters.

    Args:
      config: the model's choices.
      spec: what the data holds.
      catalog: the items; their metadata, which of them were trained on, and
        what they look like on each day become part of the model.
      window: most positions of a window, T.
      rngs: needs the stream "params". A mesh must be in scope.

    Raises:
      ConfigError: the data lack what the configuration reads.
    """
    self.dropout = config.dropout
    self.dtype = jnp.dtype(config.dtype)
    # SASRec scales item embeddings by √d before it adds positions.
    self.input_scale = (
      config.width**0.5 if isinstance(config.block, SasrecBlock) else 1.0
    )
    # What states are asked for is a sum over the width.
    self.output_scale = 1 / config.width_ratio
    self.items = ItemTable(
      config.items,
      spec,
      catalog,
      width=config.width,
      rngs=rngs,
      asked=_asked_of_items(config, spec),
    )
    self.reading = make_reading(config)
    self.request: Request = make_request(config, spec)
    self.events = EventEmbedder(config, spec, window=window, rngs=rngs)
    match config.relative_time:
      case LogBucketBias() as choice:
        time.require_times(
          spec, f"model.relative_time={choice}", remedy="NoRelativeTime()"
        )
    self.blocks = nnx.vmap(
      lambda rngs: make_block(config, window=window, rngs=rngs),
      in_axes=0,
      transform_metadata={nnx.PARTITION_NAME: None},
    )(rngs.split(config.layers))
    self.final_norm = make_final_norm(config)
    self.remat = config.remat
    self._init_heads(config, spec)

  def _init_heads(self, config: ModelConfig, spec: DataSpec):
    match config.horizons:
      case NextToken():
        self.horizons = None
      case MultiToken() as choice:
        self.horizons = Horizons(choice, width=config.width)
    match config.auxiliary:
      case NoAuxiliary():
        self.auxiliary = None
      case Auxiliary() as choice:
        self.auxiliary = AuxiliaryHeads(choice, spec, width=config.width)
    match config.hierarchy:
      case FlatItems():
        self.hierarchy = None
      case HierarchicalItems() as choice:
        self.hierarchy = Hierarchy(choice, spec, width=config.width)

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """The batch as one training step asks and tells it.

    Weights are 0 where it does not ask; features may be missing from requests.
    """
    hide_key, request_key = jax.random.split(key)
    batch = self.reading.ask(batch, hide_key)
    return self.request.ask(batch, request_key)

  def untold(self, fields: tuple[Encoded, ...]) -> "Recommender":
    """The model that is not told some features of what it is asked for."""
    model = nnx.clone(self)
    model.request = QueriesUntold(fields)
    return model

  def encode(
    self, batch: Batch, *, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    """The user's state before each token: what predicts it.

    Args:
      batch: rows of windows; if the reading is `Masked`, its targets are hidden
        (those of weight > 0), and the states of others predict nothing.
      dropout_key: None: deterministic.

    Returns:
      states_nd, float32, n = b · t in row-major order.
    """
    keys = dropout.split(dropout_key, 2)
    batch = self.request.shown(self.reading.shown(batch))
    with jax.named_scope("embed"):
      item_nd = self.items.embed(
        flatten(batch.previous["item"]), flatten(batch.previous["time"])
      )
      item_nd = item_nd * self.input_scale
      x_nd = self.events(batch, item_nd)
      x_nd = dropout.dropout(x_nd, self.dropout, key=keys[0])
      x_nd = x_nd.astype(self.dtype)

    sight = self.blocks.attention.prepare(batch)
    block, params = nnx.split(self.blocks)
    layers = jax.tree.leaves(params)[0].shape[0]
    layer_keys = None if keys[1] is None else jax.random.split(keys[1], layers)

    def layer(x_nd, scanned):
      params, key = scanned
      x_nd = nnx.merge(block, params)(
        x_nd,
        position_bt=batch.position_bt,
        sight=sight,
        dropout_key=key,
      )
      return x_nd, None

    with jax.named_scope("blocks"):
      x_nd, _ = jax.lax.scan(
        rematerialized(layer, self.remat),
        x_nd,
        (params, layer_keys),
        unroll=_UNROLL,
      )
    return self.final_norm(x_nd).astype(jnp.float32) * self.output_scale

  def item_head(self, candidates_c: jax.Array | None = None) -> Head:
    """The head over some candidates, or over the whole catalog."""
    if self.hierarchy is None:
      return self.items.head(candidates_c)
    return self.hierarchy.head(self.items, candidates_c)

  def targets(
    self, states_nd: jax.Array, batch: Batch
  ) -> tuple[jax.Array, ItemTargets]:
    """States, n = b · t of the targets, and the items that they predict."""
    next_item = ItemTargets(
      item_bt=batch.item_bt,
      weight_bt=batch.weight_bt,
      at_day_bt=time.day(batch.time_bt),
    )
    if self.horizons is None:
      return states_nd, next_item
    return self.horizons(states_nd, batch.segment_bt, next_item)

  def fields(self, states_nd: jax.Array) -> dict[str, jax.Array]:
    """What states say of fields: log_p_ni of classes, or numbers [n], by name.

    Where the attribute of the hierarchy is an auxiliary target, too, it is the
    hierarchy's.
    """
    found = {}
    if self.auxiliary is not None:
      found |= self.auxiliary(states_nd)
    if self.hierarchy is not None:
      name = self.hierarchy.name
      found[name] = self.hierarchy.log_probs(states_nd, self.items)
    return found

  def field_losses(
    self, states_nd: jax.Array, batch: Batch
  ) -> list[tuple[jax.Array, float]]:
    """Nats of the fields that states predict, [n], each with its weight."""
    item_n, losses = flatten(batch.item_bt), []
    if self.auxiliary is not None:
      nll = self.auxiliary.nll(states_nd, batch, self.items)
      share = self.auxiliary.weight / len(nll)
      losses += [(nll_n, share) for nll_n in nll.values()]
    if self.hierarchy is not None:
      nll_n = self.hierarchy.nll(states_nd, self.items, item_n)
      losses.append((nll_n, self.hierarchy.weight))
    return losses

  def drop_ids(self, key: jax.Array) -> "Recommender":
    """The model of one training step, in which some items lack their id."""
    model = nnx.clone(self)
    model.items = self.items.drop_ids(key)
    return model

  def score(
    self,
    states_nd: jax.Array,
    candidates_c: jax.Array | None,
    at_day_n: jax.Array,
  ) -> jax.Array:
    """Logits of candidates.

    Args:
      states_nd: from `encode`.
      candidates_c: catalog rows; None: the whole catalog, in row order.
      at_day_n: day of each prediction (since 1970 UTC), for what candidates
        look like on that day.

    Returns:
      logits_nc; -inf where a row is no item.
    """
    return self.item_head(candidates_c).logits(states_nd, at_day_n)


def _asked_of_items(config: ModelConfig, spec: DataSpec) -> tuple[str, ...]:
  """Metadata that heads predict."""
  asked = item_fields(config.auxiliary, spec)
  match config.hierarchy:
    case HierarchicalItems() as choice:
      asked += (attribute_field(choice, spec).feature.name,)
  return asked

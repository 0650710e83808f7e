"""The model: histories in, a user state and item logits out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.config import (
  LogBucketBias,
  ModelConfig,
  NoRelativeTime,
  NoRemat,
  RematBlocks,
  RematElementwise,
  SasrecBlock,
)
from fmjax.data.batch import Batch
from fmjax.data.catalog import Catalog
from fmjax.data.schema import DataSpec
from fmjax.model import dropout, time
from fmjax.model.block import make_block, make_final_norm
from fmjax.model.features import EventEmbedder, flatten
from fmjax.model.heads import Head
from fmjax.model.items import ItemTable

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
  """One causal transformer over packed histories, with a tied item head."""

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
    self.items = ItemTable(
      config.items, spec, catalog, width=config.width, rngs=rngs
    )
    self.events = EventEmbedder(config, spec, window=window, rngs=rngs)
    match config.relative_time:
      case LogBucketBias(buckets=buckets) as choice:
        time.require_times(
          spec, f"model.relative_time={choice}", remedy="NoRelativeTime()"
        )
        self.time_buckets = buckets
      case NoRelativeTime():
        self.time_buckets = None
    self.blocks = nnx.vmap(
      lambda rngs: make_block(config, rngs=rngs),
      in_axes=0,
      transform_metadata={nnx.PARTITION_NAME: None},
    )(rngs.split(config.layers))
    self.final_norm = make_final_norm(config)
    self.remat = config.remat

  def encode(
    self, batch: Batch, *, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    """The user's state before each token: what predicts it.

    Args:
      batch: rows of windows.
      dropout_key: None: deterministic.

    Returns:
      states_nd, float32, n = b · t in row-major order.
    """
    keys = dropout.split(dropout_key, 2)
    with jax.named_scope("embed"):
      item_nd = self.items.embed(
        flatten(batch.previous["item"]), flatten(batch.previous["time"])
      )
      item_nd = item_nd * self.input_scale
      x_nd = self.events(batch, item_nd)
      x_nd = dropout.dropout(x_nd, self.dropout, key=keys[0])
      x_nd = x_nd.astype(self.dtype)

    bucket_bts = None
    if self.time_buckets is not None:
      # Once for all layers.
      bucket_bts = time.relative_buckets(batch, buckets=self.time_buckets)
    block, params = nnx.split(self.blocks)
    layers = jax.tree.leaves(params)[0].shape[0]
    layer_keys = None if keys[1] is None else jax.random.split(keys[1], layers)

    def layer(x_nd, scanned):
      params, key = scanned
      x_nd = nnx.merge(block, params)(
        x_nd,
        segment_bt=batch.segment_bt,
        bucket_bts=bucket_bts,
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
    return self.final_norm(x_nd).astype(jnp.float32)

  def item_head(self, candidates_c: jax.Array | None = None) -> Head:
    """The head over some candidates, or over the whole catalog."""
    return self.items.head(candidates_c)

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

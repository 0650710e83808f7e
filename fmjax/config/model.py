"""What the model sees, and of what it is made."""

# Defaults made of frozen choices; of another file ruff cannot know it.
# ruff: noqa: RUF009

import dataclasses

from fmjax.config.items import ItemsConfig, validate_items
from fmjax.config.tree import (
  Config,
  ConfigError,
  require_not_negative,
  require_positive,
  suggest,
)

DTYPES = ["float32", "bfloat16"]
MOST_BUCKETS = 256  # of times: a bucket is a byte


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllFeatures(Config):
  """Every declared request-time and post-action feature is embedded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostActionOnly(Config):
  """Post-action features are embedded, request-time features are not.

  Time has switches of its own: `time`, `relative_time` and `gap`.
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemOnly(Config):
  """A token is its item alone, as in SASRec."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalendarTime(Config):
  """Hour of day, day of week and slow Fourier terms of the date (UTC)."""

  slow_terms: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTime(Config):
  """The model sees no calendar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogBucketBias(Config):
  """Attention weighs a token by how long before the request it was.

  A bias per layer, head and bucket of (request time of the query - time of the
  key's token): one bucket for 0 s, the others log-scaled to ten years.
  """

  buckets: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoRelativeTime(Config):
  """Attention weighs tokens by their content and order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogGap(Config):
  """The time since the token before joins the request-time features.

  One-hot over log-scaled buckets, and one for "no token before".
  """

  buckets: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoGap(Config):
  """No feature tells the time since the token before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullAttention(Config):
  """Causal softmax attention over the whole window, in blocks of queries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedAttention(Config):
  """The same by the library's kernel: cuDNN's on a GPU in bfloat16.

  No kernel drops attention weights: `dropout` does not reach them.
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedBlock(Config):
  """Pre-norm, SwiGLU feed-forward, gated residuals (LiGR); the reference."""

  feed_forward: float = 8 / 3  # × width, rounded up to a multiple of 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasrecBlock(Config):
  """The block of SASRec: layer-normed queries, ReLU feed-forward of width d."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoRemat(Config):
  """The backward pass reads what the forward pass stored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RematElementwise(Config):
  """Matrix products are stored; what lies between is computed again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RematBlocks(Config):
  """Blocks' inputs are stored; blocks are computed again: a third more work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
  width: int = 64
  layers: int = 2
  heads: int = 2
  dropout: float = 0.1
  features: AllFeatures | PostActionOnly | ItemOnly = AllFeatures()
  time: CalendarTime | NoTime = CalendarTime()
  relative_time: NoRelativeTime | LogBucketBias = NoRelativeTime()
  gap: NoGap | LogGap = NoGap()
  items: ItemsConfig = ItemsConfig()
  attention: FullAttention | FusedAttention = FullAttention()
  block: GatedBlock | SasrecBlock = GatedBlock()
  remat: NoRemat | RematElementwise | RematBlocks = NoRemat()
  dtype: str = "float32"  # of activations; "bfloat16" keeps float32 parameters


def validate_model(model: ModelConfig) -> None:
  """Refuses what cannot be built."""
  require_positive(
    {
      "model.width": model.width,
      "model.layers": model.layers,
      "model.heads": model.heads,
    }
  )
  if model.width % model.heads:
    raise ConfigError(
      f"model.width={model.width} is not a multiple of"
      f" model.heads={model.heads}"
    )
  if isinstance(model.block, GatedBlock):
    require_positive({"model.block.feed_forward": model.block.feed_forward})
  if isinstance(model.time, CalendarTime):
    require_not_negative({"model.time.slow_terms": model.time.slow_terms})
  for path, choice in {
    "model.relative_time": model.relative_time,
    "model.gap": model.gap,
  }.items():
    if isinstance(choice, NoRelativeTime | NoGap):
      continue
    if not 2 <= choice.buckets <= MOST_BUCKETS:
      raise ConfigError(
        f"{path}.buckets={choice.buckets} is not in 2 … {MOST_BUCKETS}"
      )
  if isinstance(model.relative_time, LogBucketBias) and isinstance(
    model.attention, FusedAttention
  ):
    raise ConfigError(
      f"model.attention={model.attention} has no bias for"
      f" model.relative_time={model.relative_time}; use FullAttention()"
    )
  if not 0 <= model.dropout < 1:
    raise ConfigError(f"model.dropout={model.dropout} is not in [0, 1)")
  validate_items(model.items)
  if model.dtype not in ("float32", "bfloat16"):
    raise ConfigError(
      f"model.dtype={model.dtype!r}" + suggest(model.dtype, DTYPES)
    )

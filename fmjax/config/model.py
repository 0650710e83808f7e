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
class WindowAttention(Config):
  """Softmax attention on a position itself and the `span` - 1 before it."""

  span: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankAttention(Config):
  """Exact nearby, compressed far back (model/low_rank.py).

  A history is cut in blocks of `block` positions from its start. A query
  attends exactly to its own block and the one before, and to `rank` summary
  slots of every earlier one.
  """

  block: int = 32
  rank: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BidirectionalAttention(Config):
  """Softmax attention over the whole window, later positions included.

  For `Masked` reading alone, as in BERT4Rec.
  """


Attention = (
  FullAttention
  | FusedAttention
  | WindowAttention
  | LowRankAttention
  | BidirectionalAttention
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedPositions(Config):
  """An embedding of each position in the window is added to the input."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryPositions(Config):
  """Queries and keys are rotated by their position (Su et al., 2021)."""

  base: float = 10_000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedResidual(Config):
  """x + σ(x̂ · W) ⊙ f(x̂): LiGR."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainResidual(Config):
  """x + f(x̂)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedBlock(Config):
  """Pre-norm, SwiGLU feed-forward (Shazeer, 2020); the reference."""

  feed_forward: float = 8 / 3  # × width, rounded up to a multiple of 8
  residual: GatedResidual | PlainResidual = GatedResidual()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasrecBlock(Config):
  """The block of SASRec (Kang and McAuley, 2018).

  Layer-normed queries, ReLU feed-forward of width d.
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class HstuBlock(Config):
  """The block of HSTU (Zhai et al., 2024): pointwise SiLU attention.

  With a learned bias of relative position, and of time where `relative_time`
  has one. Products of queries and keys are divided by the root of a head's
  width, as in softmax attention; the paper has them as they are.
  """


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
class NextToken(Config):
  """A position predicts the next token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken(Config):
  """A position predicts the next `horizons` tokens, by one item table.

  As in Gloeckle et al., 2024, but a horizon has one linear map for a head. The
  loss adds `weight` times the mean over horizons 2, 3, … of their losses.
  All are summed over targets and divided by the number of next tokens: near the
  end of a window fewer horizons have a target, and weigh less.
  """

  horizons: int = 4
  weight: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAuxiliary(Config):
  """Items alone are predicted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auxiliary(Config):
  """Fields of the next token or of its item are predicted, too.

  Each named post-action feature or metadata field has a head of its own; the
  loss adds `weight` times the mean of their losses; a value that is not known
  has none.
  """

  targets: tuple[str, ...]
  weight: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatItems(Config):
  """Items compete in one softmax."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HierarchicalItems(Config):
  """A prediction of the item's attribute narrows that of the item.

  Of a single-valued attribute a, p(item) = p(a) · p(item | a) (Goodman, 2001);
  of a bag, the mean of its values' log-probabilities is added to the item's
  logit. The loss adds `weight` times that of the attribute.
  """

  attribute: str
  weight: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Causal(Config):
  """A position is asked for its token, given those before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Config):
  """A share of the positions is hidden and asked for (Sun et al., 2019).

  All others show their own token. To predict the next token, it is hidden.
  """

  share: float = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsLogged(Config):
  """Request-time features are as the log has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SometimesNeutral(Config):
  """Training hides the named request-time features of a share of the requests.

  So the model knows what "not told" means, and `fmjax evaluate --neutral` can
  ask what it would rank wherever the item is shown.
  """

  names: tuple[str, ...]
  share: float = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandardScale(Config):
  """Every width trains as it is: the best learning rate falls with width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaximalUpdate(Config):
  """Widths train alike, so the best learning rate of one is that of all: μP.

  With m = width / `base_width`, matrices between two widths learn at 1 / m of
  the learning rate and logits are divided by m (Yang et al., 2022, "Tensor
  Programs V", table 8). Item tables and everything else with one side of that
  width learn as at `base_width`. A model of that width is as if without. Heads
  keep their width: a wider model has more of them (`scaling.ladder.rung`).
  """

  base_width: int = 32


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
  attention: Attention = FullAttention()
  positions: LearnedPositions | RotaryPositions = LearnedPositions()
  block: GatedBlock | SasrecBlock | HstuBlock = GatedBlock()
  reading: Causal | Masked = Causal()
  request: AsLogged | SometimesNeutral = AsLogged()
  horizons: NextToken | MultiToken = NextToken()
  auxiliary: NoAuxiliary | Auxiliary = NoAuxiliary()
  hierarchy: FlatItems | HierarchicalItems = FlatItems()
  scale: StandardScale | MaximalUpdate = StandardScale()
  remat: NoRemat | RematElementwise | RematBlocks = NoRemat()
  dtype: str = "float32"  # of activations; "bfloat16" keeps float32 parameters

  @property
  def width_ratio(self) -> float:
    """Width over that of the model whose learning rate this one takes."""
    match self.scale:
      case StandardScale():
        return 1.0
      case MaximalUpdate(base_width=base_width):
        return self.width / base_width


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
  match model.scale:
    case MaximalUpdate(base_width=base_width):
      require_positive({"model.scale.base_width": base_width})
      if not isinstance(model.block, GatedBlock):
        raise ConfigError(
          f"model.scale={model.scale} is not known for"
          f" model.block={model.block}, whose inputs or weights grow with the"
          " width; use GatedBlock()"
        )
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
  _validate_attention(model)
  _validate_targets(model)
  if not 0 <= model.dropout < 1:
    raise ConfigError(f"model.dropout={model.dropout} is not in [0, 1)")
  validate_items(model.items)
  if model.dtype not in ("float32", "bfloat16"):
    raise ConfigError(
      f"model.dtype={model.dtype!r}" + suggest(model.dtype, DTYPES)
    )


def _validate_attention(model: ModelConfig) -> None:
  attention = model.attention
  match attention:
    case WindowAttention(span=span):
      require_positive({"model.attention.span": span})
    case LowRankAttention(block=block, rank=rank):
      require_positive(
        {"model.attention.block": block, "model.attention.rank": rank}
      )
      if rank > block:
        raise ConfigError(
          f"model.attention.rank={rank} exceeds model.attention.block={block}:"
          " that many slots of a block hold no more than its positions"
        )
    case FusedAttention():
      if isinstance(model.relative_time, LogBucketBias):
        raise ConfigError(
          f"model.attention={attention} has no bias for"
          f" model.relative_time={model.relative_time}; use FullAttention()"
        )
  match model.positions:
    case RotaryPositions(base=base):
      require_positive({"model.positions.base": base})
      if model.width // model.heads % 2:
        raise ConfigError(
          f"model.width={model.width} over model.heads={model.heads} is an odd"
          " number a head: rotary positions rotate pairs; use fewer heads, or"
          " LearnedPositions()"
        )
  if isinstance(model.block, HstuBlock):
    if isinstance(model.reading, Masked):
      raise ConfigError(
        f"model.block={model.block} reads in one direction, but"
        f" model.reading={model.reading} in both; use GatedBlock() or"
        " SasrecBlock()"
      )
    if not isinstance(attention, FullAttention | WindowAttention):
      raise ConfigError(
        f"model.block={model.block} needs FullAttention() or"
        f" WindowAttention(), not model.attention={attention}"
      )
    if isinstance(model.positions, RotaryPositions):
      raise ConfigError(
        f"model.block={model.block} has a bias of relative position and does"
        " not rotate; use LearnedPositions()"
      )
  masked = isinstance(model.reading, Masked)
  if masked != isinstance(attention, BidirectionalAttention):
    raise ConfigError(
      f"model.reading={model.reading} and model.attention={attention} do not"
      " go together: Masked() and BidirectionalAttention() need each other"
    )
  match model.reading:
    case Masked(share=share):
      if not 0 < share < 1:
        raise ConfigError(f"model.reading.share={share} is not in (0, 1)")
      alone = {
        "model.features": (model.features, ItemOnly()),
        "model.time": (model.time, NoTime()),
        "model.gap": (model.gap, NoGap()),
        "model.relative_time": (model.relative_time, NoRelativeTime()),
        "model.request": (model.request, AsLogged()),
      }
      for path, (choice, needed) in alone.items():
        if choice != needed:
          raise ConfigError(
            f"{path}={choice} with model.reading={model.reading}: a token that"
            f" is not hidden shows its item alone; use {needed}"
          )


def _validate_targets(model: ModelConfig) -> None:
  match model.horizons:
    case MultiToken(horizons=horizons, weight=weight):
      if horizons < 2:
        raise ConfigError(
          f"model.horizons.horizons={horizons} is fewer than 2; use NextToken()"
        )
      require_not_negative({"model.horizons.weight": weight})
      if isinstance(model.reading, Masked):
        raise ConfigError(
          f"model.horizons={model.horizons} with model.reading={model.reading}:"
          " a hidden token has no order of later ones; use NextToken()"
        )
  match model.auxiliary:
    case Auxiliary(targets=targets, weight=weight):
      _require_names({"model.auxiliary.targets": targets}, "NoAuxiliary()")
      require_not_negative({"model.auxiliary.weight": weight})
  match model.hierarchy:
    case HierarchicalItems(attribute=attribute, weight=weight):
      require_not_negative({"model.hierarchy.weight": weight})
      match model.auxiliary:
        case Auxiliary(targets=targets) if attribute in targets:
          raise ConfigError(
            f"model.auxiliary.targets={targets} names {attribute!r}, which"
            " model.hierarchy.attribute predicts already; leave it out of one"
          )
  match model.request:
    case SometimesNeutral(names=names, share=share):
      _require_names({"model.request.names": names}, "AsLogged()")
      if not 0 < share < 1:
        raise ConfigError(f"model.request.share={share} is not in (0, 1)")


def _require_names(names: dict[str, tuple[str, ...]], none: str) -> None:
  for path, values in names.items():
    if not values or len(set(values)) < len(values):
      raise ConfigError(
        f"{path}={values} must name features, each once; for none use {none}"
      )

"""What a log's columns mean, declared once.

A `Schema` is the only place that says of which kind a feature is and whether it
is known before the item is shown. Input assembly, the leakage tests and the
docs read it; nothing repeats it.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable


class DataError(ValueError):
  """Input that cannot be used: one sentence with value, place and remedy."""


class Kind(enum.StrEnum):
  CATEGORICAL = "categorical"  # one of a vocabulary (text)
  NUMERIC = "numeric"  # float64, null if unknown
  TIMESTAMP = "timestamp"  # int64 microseconds since 1970, UTC
  BAG = "bag"  # list of texts, any number
  VECTOR = "vector"  # list of `width` floats: a precomputed embedding


class When(enum.StrEnum):
  REQUEST = "request"  # known before the item is shown
  POST_ACTION = "post_action"  # known only after the action


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
  """An event's feature, or an item's metadata field.

  Attributes:
    name: the column.
    kind: what a value is.
    when: for an event's feature. Metadata describes the item, so of an input
      token it is known when the item is: after the action.
    log: a numeric feature spans decades: log1p before it is standardized.
    width: of a vector.
  """

  name: str
  kind: Kind
  when: When = When.POST_ACTION
  log: bool = False
  width: int = 0


ACTION = Feature(name="action", kind=Kind.BAG)
DURATION = Feature(name="duration_ms", kind=Kind.NUMERIC, log=True)
EVENT_COUNT = Feature(name="event_count", kind=Kind.NUMERIC, log=True)


# Columns of events, tokens, catalog and batches, and words of Ibis: a feature
# of such a name would shadow one. Names that begin with `_` or `published_` are
# columns of a stage, too.
_RESERVED = frozenset(
  (
    *("row", "user_id", "item_id", "timestamp", "action", "duration_ms"),
    *("reason", "copy", "row_right", "published", "rows"),
    *("user", "item", "time", "split", "target", "run", "seq", "begins", "day"),
    *("start_us", "end_us", "start_s", "target_us"),
    *("event_count", "action_count"),
    *("actions", "events", "first", "last", "seq_first", "seq_last"),
    *("in_history", "from_end", "title", "launch_time", "launch_declared"),
    *("first_seen", "train_count", "described", "item_id_right"),
    *("self", "by", "having", "metrics", "exprs", "method"),
  )
)
_NAME = re.compile(r"(?!published_)[a-z][a-z0-9_]*", re.IGNORECASE | re.ASCII)


def check_names(features: Iterable["Feature"], *, place: str) -> None:
  """Refuses names that are no identifiers, reserved, or given twice.

  Upper and lower case are the same: they are to DuckDB.
  """
  features = tuple(features)
  counts = {f"{f.name}_count".lower() for f in features if f.kind == Kind.BAG}
  taken = _RESERVED | counts
  for feature in features:
    if not _NAME.fullmatch(feature.name):
      raise DataError(
        f"{place} declares a feature {feature.name!r}; a name is a letter, then"
        " letters, digits and _, and does not begin with published_"
      )
    if feature.name.lower() in taken:
      raise DataError(
        f"{place} declares a feature {feature.name!r}, a name that is taken"
        " (in any case); rename it"
      )
    taken = taken | {feature.name.lower()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
  """What a reader delivers.

  Attributes:
    source: name of the data set.
    features: of an event, beyond the canonical `user_id`, `item_id`,
      `timestamp`, `action` (text) and `duration_ms` (int64 or null).
    metadata: of an item.
    target_actions: events whose action is one of these are targets; the others
      are context only. Empty: every event is a target.
    repeats: users meet the same item again by nature, so seen items stay
      candidates in evaluation.
    timed: timestamps are real. If not, they only give the order: no calendar
      features and no temporal split.
  """

  source: str
  features: tuple[Feature, ...] = ()
  metadata: tuple[Feature, ...] = ()
  target_actions: tuple[str, ...] = ()
  repeats: bool = False
  timed: bool = True

  @property
  def token_features(self) -> tuple[Feature, ...]:
    """Every feature a token carries, canonical ones first.

    The item itself and the time are not listed: they have their own embedders.
    """
    return (ACTION, DURATION, EVENT_COUNT, *self.features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
  """A feature as the model sees it.

  Attributes:
    feature: its declaration.
    size: categorical, bag: codes, of which 0 is padding or missing and 1 is
      "not in the training vocabulary"; vector: width; numeric, timestamp: 1.
    values: bag: most values kept in a token or item (the padded width w).
    mean: numeric: over the training rows, after log1p if declared.
    std: likewise; of a vector, the root mean square of all its numbers.
  """

  feature: Feature
  size: int = 1
  values: int = 1
  mean: float = 0.0
  std: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
  """All that a model must know of the data to be built.

  Attributes:
    items: catalog rows, row 0 (unknown, padding) included.
    features: of a token.
    metadata: of an item.
    timed: timestamps are real.
  """

  items: int
  features: tuple[Encoded, ...] = ()
  metadata: tuple[Encoded, ...] = ()
  timed: bool = True

  def known_at(self, when: When) -> tuple[Encoded, ...]:
    return tuple(e for e in self.features if e.feature.when == when)

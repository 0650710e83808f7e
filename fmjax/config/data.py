"""Where a log comes from, and how it becomes tokens, parts and batches."""

import dataclasses

from fmjax.config.tree import (
  Config,
  ConfigError,
  require_not_negative,
  require_positive,
)

# ---- where the log comes from -------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieTweetings(Config):
  """Film ratings posted on Twitter. `raw=""`: the log shipped with fmjax."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuaiRandPure(Config):
  """Two weeks of a short-video app. `raw=""`: the log shipped with fmjax."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLens(Config):
  """MovieLens 100K, 1M, 20M, 25M or latest: folder or zip as published."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLensSasrec(Config):
  """`ml-1m_sasrec.txt`: one `user item` a line, in time order, no times."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Globo(Config):
  """News clicks of G1/Globo, October 2017."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(Config):
  """Any CSV or Parquet file through a TOML mapping."""

  raw: str = ""
  mapping: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(Config):
  """A generated log of any length; same seed, same bytes."""

  events: int = 100_000
  users: int = 2_000
  items: int = 1_000
  days: int = 120
  profiles: int = (
    12  # of an account, who take turns; each has tastes of its own
  )
  seed: int = 0


Source = (
  MovieTweetings
  | KuaiRandPure
  | MovieLens
  | MovieLensSasrec
  | Globo
  | Table
  | Synthetic
)

# ---- tokens and splits ---------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventTokens(Config):
  """One token an event."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunTokens(Config):
  """Adjacent events on one item, at most `max_gap_s` apart, are one token."""

  max_gap_s: int = 3_600


Granularity = EventTokens | RunTokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalSplit(Config):
  """Two cuts of one global clock, at quantiles of the events' times.

  train < t1 ≤ validation < t2 ≤ test, with the last `test` share of the events
  at or after t2 and the `validation` share before them at or after t1.
  """

  validation: float = 0.1
  test: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveLastOut(Config):
  """Each user's last target is test, the one before validation.

  Users with fewer than three targets are in train only. For comparison with
  published tables; it lets training see other users' later events.
  """


Split = TemporalSplit | LeaveLastOut


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformRecency(Config):
  """Every training target counts the same; windows are shuffled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecencyWeighted(Config):
  """A target's weight halves with every `half_life_days` before the cut.

  The mean weight of all training targets is 1.
  """

  half_life_days: float = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChronologicalLast(Config):
  """The last `share` of the steps takes windows in order of time.

  It ends with the last window before the cut.
  """

  share: float = 0.2


Recency = UniformRecency | RecencyWeighted | ChronologicalLast


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualWeights(Config):
  """Every target is as important as any other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogDuration(Config):
  """A target counts by log1p of its seconds, of at most `cap_s`.

  Without a duration, or with one of 0, it is none. The mean weight of all
  others is 1.
  """

  cap_s: float = 3_600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion(Config):
  """A target counts by the share that was played, a feature in [0, 1].

  Where it is missing, or 0, there is no target. The mean weight of all others
  is 1. What is above 1 counts as 1.
  """

  feature: str


Weighting = EqualWeights | LogDuration | Completion


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoHeldOut(Config):
  """Every item of the training part is learned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutItems(Config):
  """A share of the items, drawn by id, is no training target: new at the test.

  They stay in histories, by their metadata alone, and no count knows them.
  """

  share: float = 0.1
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
  source: Source = MovieTweetings()
  granularity: Granularity = EventTokens()
  split: Split = TemporalSplit()
  recency: Recency = UniformRecency()
  weighting: Weighting = EqualWeights()
  held_out: NoHeldOut | HeldOutItems = NoHeldOut()
  window: int = 64  # positions in a row, T
  stride: int = 64  # S ≤ T: a window's new targets; T - S is context only
  rows: int = 32  # rows in a global batch, b


def validate_split(granularity: Granularity, split: Split) -> None:
  """Refuses tokens and parts that cannot be made."""
  match granularity:
    case RunTokens(max_gap_s=max_gap_s):
      if max_gap_s < 0:
        raise ConfigError(f"max_gap_s={max_gap_s} is negative")
    case EventTokens():
      pass
  match split:
    case TemporalSplit(validation=validation, test=test):
      if not (validation > 0 and test > 0 and validation + test < 1):
        raise ConfigError(
          f"validation={validation} and test={test} must be positive shares"
          " that leave some events for training"
        )
    case LeaveLastOut():
      pass


def validate_data(data: DataConfig) -> None:
  """Refuses windows and weights that cannot be made."""
  validate_split(data.granularity, data.split)
  require_positive(
    {
      "data.window": data.window,
      "data.stride": data.stride,
      "data.rows": data.rows,
    }
  )
  if data.stride > data.window:
    raise ConfigError(
      f"data.stride={data.stride} exceeds data.window={data.window}: tokens"
      " between two windows would never be trained on"
    )
  match data.recency:
    case RecencyWeighted(half_life_days=half_life_days):
      require_positive({"data.recency.half_life_days": half_life_days})
    case ChronologicalLast(share=share):
      if not 0 < share <= 1:
        raise ConfigError(f"data.recency.share={share} is not in (0, 1]")
  match data.weighting:
    case LogDuration(cap_s=cap_s):
      require_positive({"data.weighting.cap_s": cap_s})
  match data.held_out:
    case HeldOutItems(share=share, seed=seed):
      if not 0 < share < 1:
        raise ConfigError(f"data.held_out.share={share} is not in (0, 1)")
      require_not_negative({"data.held_out.seed": seed})

"""Every choice that an experiment can make, as frozen dataclasses.

An alternative is its own small dataclass, so no field is ever "only used if".
`Experiment` = data + model + objective + optim + run. Python files choose
types; the command line overrides scalars.
"""

# Imported for those who import from here.
# ruff: noqa: F401

from fmjax.config.data import (
  ChronologicalLast,
  DataConfig,
  EventTokens,
  Globo,
  Granularity,
  HeldOutItems,
  KuaiRandPure,
  LeaveLastOut,
  MovieLens,
  MovieLensSasrec,
  MovieTweetings,
  NoHeldOut,
  Recency,
  RecencyWeighted,
  RunTokens,
  Source,
  Split,
  Synthetic,
  Table,
  TemporalSplit,
  UniformRecency,
  validate_split,
)
from fmjax.config.experiment import Experiment, identity, validate
from fmjax.config.items import (
  AgeGate,
  AllMetadata,
  CandidateAge,
  ConcatMixer,
  DynamicCounts,
  FixedGate,
  IdOnly,
  ItemsConfig,
  MetadataOnly,
  Mixer,
  NoAge,
  NoDynamics,
  SomeMetadata,
  SumMixer,
)
from fmjax.config.model import (
  DTYPES,
  MOST_BUCKETS,
  AllFeatures,
  CalendarTime,
  FullAttention,
  FusedAttention,
  GatedBlock,
  ItemOnly,
  LogBucketBias,
  LogGap,
  ModelConfig,
  NoGap,
  NoRelativeTime,
  NoRemat,
  NoTime,
  PostActionOnly,
  RematBlocks,
  RematElementwise,
  SasrecBlock,
)
from fmjax.config.training import (
  BinaryCrossEntropy,
  FullSoftmax,
  Objective,
  OptimConfig,
  RunConfig,
  SampledSoftmax,
)
from fmjax.config.tree import (
  Config,
  ConfigError,
  content_hash,
  from_dict,
  override,
  suggest,
  to_dict,
)

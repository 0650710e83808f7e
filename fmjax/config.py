"""Every choice that an experiment can make, as frozen dataclasses.

An alternative is its own small dataclass, so no field is ever "only used if".
`Experiment` = data + model + objective + optim + run. Python files choose
types; the command line overrides scalars.
"""

import dataclasses
import difflib
import hashlib
import json
import sys
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
  """Frozen, keyword-only; the subclasses below add fields only."""


# ---- where the log comes from -------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieTweetings(_Config):
  """Film ratings posted on Twitter. `raw=""`: the log shipped with fmjax."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuaiRandPure(_Config):
  """Two weeks of a short-video app. `raw=""`: the log shipped with fmjax."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLens(_Config):
  """MovieLens 100K, 1M, 20M, 25M or latest: folder or zip as published."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLensSasrec(_Config):
  """`ml-1m_sasrec.txt`: one `user item` a line, in time order, no times."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Globo(_Config):
  """News clicks of G1/Globo, October 2017."""

  raw: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(_Config):
  """Any CSV or Parquet file through a TOML mapping."""

  raw: str = ""
  mapping: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(_Config):
  """A generated log of any length; same seed, same bytes."""

  events: int = 100_000
  users: int = 2_000
  items: int = 1_000
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
class EventTokens(_Config):
  """One token an event."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunTokens(_Config):
  """Adjacent events on one item, at most `max_gap_s` apart, are one token."""

  max_gap_s: int = 3_600


Granularity = EventTokens | RunTokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalSplit(_Config):
  """Two cuts of one global clock, at quantiles of the events' times.

  train < t1 ≤ validation < t2 ≤ test, with the last `test` share of the events
  at or after t2 and the `validation` share before them at or after t1.
  """

  validation: float = 0.1
  test: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveLastOut(_Config):
  """Each user's last target is test, the one before validation.

  Users with fewer than three targets are in train only. For comparison with
  published tables; it lets training see other users' later events.
  """


Split = TemporalSplit | LeaveLastOut


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(_Config):
  source: Source = MovieTweetings()
  granularity: Granularity = EventTokens()
  split: Split = TemporalSplit()
  window: int = 64  # positions in a row, T
  stride: int = 64  # S ≤ T: a window's new targets; T - S is context only
  rows: int = 32  # rows in a global batch, b


# ---- the model -----------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllFeatures(_Config):
  """Every declared request-time and post-action feature is embedded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemOnly(_Config):
  """A token is its item alone, as in SASRec."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalendarTime(_Config):
  """Hour of day, day of week and slow Fourier terms of the date (UTC)."""

  slow_terms: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTime(_Config):
  """Order is all the model knows of time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumMixer(_Config):
  """Item embedding = id embedding + projected metadata embedding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdOnly(_Config):
  """Item embedding = id embedding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullAttention(_Config):
  """Causal softmax attention over the whole window, in blocks of queries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedAttention(_Config):
  """The same by the library's kernel: cuDNN's on a GPU in bfloat16.

  No kernel drops attention weights: `dropout` does not reach them.
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedBlock(_Config):
  """Pre-norm, SwiGLU feed-forward, gated residuals (LiGR); the reference."""

  feed_forward: float = 8 / 3  # × width, rounded up to a multiple of 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasrecBlock(_Config):
  """The block of SASRec: layer-normed queries, ReLU feed-forward of width d."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoRemat(_Config):
  """The backward pass reads what the forward pass stored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RematElementwise(_Config):
  """Matrix products are stored; what lies between is computed again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RematBlocks(_Config):
  """Blocks' inputs are stored; blocks are computed again: a third more work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
  width: int = 64
  layers: int = 2
  heads: int = 2
  dropout: float = 0.1
  features: AllFeatures | ItemOnly = AllFeatures()
  time: CalendarTime | NoTime = CalendarTime()
  mixer: SumMixer | IdOnly = SumMixer()
  attention: FullAttention | FusedAttention = FullAttention()
  block: GatedBlock | SasrecBlock = GatedBlock()
  remat: NoRemat | RematElementwise | RematBlocks = NoRemat()
  dtype: str = "float32"  # of activations; "bfloat16" keeps float32 parameters


# ---- objective, optimizer, run -------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSoftmax(_Config):
  """Next-item cross-entropy over the catalog, `chunk` tokens at a time."""

  chunk: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSoftmax(_Config):
  """Cross-entropy among uniform negatives, shared by all tokens of a batch."""

  negatives: int = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(_Config):
  """SASRec's loss: the target against uniform negatives of its own."""

  negatives: int = 1


Objective = FullSoftmax | SampledSoftmax | BinaryCrossEntropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig(_Config):
  """AdamW: linear warm-up, then cosine decay to `final_fraction` of the peak.

  Norms and biases are not decayed.
  """

  learning_rate: float = 1e-3
  warmup: float = 0.05  # share of the steps
  final_fraction: float = 0.1
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.98
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(_Config):
  steps: int = 500
  seed: int = 0
  evaluate_every: int = 100  # steps; selects the step on validation NDCG@10
  checkpoint_every: int = 100  # steps
  log_every: int = 10  # steps
  mesh_data: int = 1  # devices along the "data" axis
  mesh_model: int = 1  # devices along the "model" axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(_Config):
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  objective: Objective = FullSoftmax()
  optim: OptimConfig = OptimConfig()
  run: RunConfig = RunConfig()


class ConfigError(ValueError):
  """A configuration that cannot run; one sentence says why (exit code 2)."""


def suggest(name: str, known: list[str]) -> str:
  """`; did you mean 'x'?` for the nearest known name, else the known names."""
  near = difflib.get_close_matches(name, known, n=1)
  if near:
    return f"; did you mean {near[0]!r}?"
  return f"; known: {', '.join(known)}"


def override(config: Any, changes: dict[str, Any]) -> Any:
  """A copy of `config` with dotted paths replaced; unknown paths raise."""
  for path, value in changes.items():
    config = _replace(config, path.split("."), value, path)
  return config


def _replace(config: Any, keys: list[str], value: Any, path: str) -> Any:
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise ConfigError(
      f"{path!r} goes on after a value, {config!r}; leave {keys[0]!r} out"
    )
  names = [field.name for field in dataclasses.fields(config)]
  if keys[0] not in names:
    raise ConfigError(
      f"{type(config).__name__} has no field {keys[0]!r} (in {path!r})"
      + suggest(keys[0], names)
    )
  if len(keys) > 1:
    value = _replace(getattr(config, keys[0]), keys[1:], value, path)
  return dataclasses.replace(config, **{keys[0]: value})


def to_dict(config: Any) -> Any:
  """JSON-ready; a dataclass becomes {"type": its name, field: value, ...}."""
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    fields = {
      field.name: to_dict(getattr(config, field.name))
      for field in dataclasses.fields(config)
    }
    return {"type": type(config).__name__, **fields}
  return config


def from_dict(tree: Any) -> Any:
  """The inverse of `to_dict`."""
  if not isinstance(tree, dict):
    return tree
  known = {
    name: kind
    for name, kind in vars(sys.modules[__name__]).items()
    if isinstance(kind, type) and issubclass(kind, _Config)
  }
  fields = {key: from_dict(value) for key, value in tree.items()}
  name = fields.pop("type", None)
  if name not in known:
    raise ConfigError(
      f"unknown configuration type {name!r}" + suggest(str(name), list(known))
    )
  try:
    return known[name](**fields)
  except TypeError as error:
    raise ConfigError(
      f"the saved configuration does not fit {name}: {error}; it was written"
      " by another version of fmjax, run the experiment again"
    ) from None


def identity(config: Experiment) -> dict[str, Any]:
  """All that determines the trained model and its selection, JSON-ready.

  The mesh and paths do not: the content of a log counts, not where it lies.
  """
  tree = to_dict(config)
  source = {
    key: value
    for key, value in tree["data"]["source"].items()
    if key not in ("raw", "mapping")
  }
  run = config.run
  return {
    **{part: tree[part] for part in ("model", "objective", "optim")},
    "data": {**tree["data"], "source": source},
    "seed": run.seed,
    "steps": run.steps,
    "evaluate_every": run.evaluate_every,
  }


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


def validate(config: Experiment) -> None:
  """Refuses what cannot run, before any work is done."""
  validate_split(config.data.granularity, config.data.split)
  optim = config.optim
  shares = {
    "optim.warmup": optim.warmup,
    "optim.final_fraction": optim.final_fraction,
    "optim.b1": optim.b1,
    "optim.b2": optim.b2,
  }
  for path, value in shares.items():
    if not 0 <= value < 1:
      raise ConfigError(f"{path}={value} is not in [0, 1)")
  at_least_zero: dict[str, float] = {
    "optim.weight_decay": optim.weight_decay,
    "run.seed": config.run.seed,
  }
  if isinstance(config.model.time, CalendarTime):
    at_least_zero["model.time.slow_terms"] = config.model.time.slow_terms
  for path, value in at_least_zero.items():
    if not value >= 0:
      raise ConfigError(f"{path}={value} is negative")
  data, model, run = config.data, config.model, config.run
  positive: dict[str, float] = {
    "data.window": data.window,
    "data.stride": data.stride,
    "data.rows": data.rows,
    "model.width": model.width,
    "model.layers": model.layers,
    "model.heads": model.heads,
    "optim.learning_rate": optim.learning_rate,
    "optim.clip_norm": optim.clip_norm,
    "run.steps": run.steps,
    "run.evaluate_every": run.evaluate_every,
    "run.checkpoint_every": run.checkpoint_every,
    "run.log_every": run.log_every,
    "run.mesh_data": run.mesh_data,
    "run.mesh_model": run.mesh_model,
  }
  match config.objective:
    case FullSoftmax(chunk=chunk):
      positive["objective.chunk"] = chunk
    case SampledSoftmax(negatives=q) | BinaryCrossEntropy(negatives=q):
      positive["objective.negatives"] = q
  if isinstance(model.block, GatedBlock):
    positive["model.block.feed_forward"] = model.block.feed_forward
  for path, value in positive.items():
    if not value > 0:  # so that NaN is refused, too
      raise ConfigError(f"{path}={value} is not positive")
  if data.stride > data.window:
    raise ConfigError(
      f"data.stride={data.stride} exceeds data.window={data.window}: tokens"
      " between two windows would never be trained on"
    )
  if model.width % model.heads:
    raise ConfigError(
      f"model.width={model.width} is not a multiple of"
      f" model.heads={model.heads}"
    )
  if not 0 <= model.dropout < 1:
    raise ConfigError(f"model.dropout={model.dropout} is not in [0, 1)")
  if model.dtype not in ("float32", "bfloat16"):
    raise ConfigError(
      f"model.dtype={model.dtype!r}" + suggest(model.dtype, DTYPES)
    )
  if data.rows % run.mesh_data:
    raise ConfigError(
      f"data.rows={data.rows} does not divide over"
      f" run.mesh_data={run.mesh_data} devices"
    )


DTYPES = ["float32", "bfloat16"]


def content_hash(tree: Any) -> str:
  """Twelve hex digits of the canonical JSON of `tree`."""
  text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:12]

"""An experiment: data + model + objective + optim + run."""

# Defaults made of frozen choices; of another file ruff cannot know it.
# ruff: noqa: RUF009

import dataclasses
from typing import Any

from fmjax.config.data import (
  ChronologicalLast,
  DataConfig,
  UniformRecency,
  validate_data,
)
from fmjax.config.model import (
  HierarchicalItems,
  LowRankAttention,
  ModelConfig,
  MultiToken,
  WindowAttention,
  validate_model,
)
from fmjax.config.training import (
  CosineDecay,
  FullSoftmax,
  Objective,
  OptimConfig,
  RunConfig,
  StableDecay,
  validate_objective,
  validate_optim,
  validate_run,
)
from fmjax.config.tree import Config, ConfigError, to_dict

_LENGTH = ("steps", "evaluate_every")  # of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Config):
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  objective: Objective = FullSoftmax()
  optim: OptimConfig = OptimConfig()
  run: RunConfig = RunConfig()


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
    "targets": run.targets,
  }


def trunk_identity(config: Experiment) -> dict[str, Any] | None:
  """What runs share that differ in length alone and branch off one trunk.

  Until the shorter one decays they are the same to the bit. None where a run is
  no branch: its rate or its data depend on the length from the start, or a step
  before the end may be selected.
  """
  if (
    not isinstance(config.optim.schedule, StableDecay)
    or not isinstance(config.data.recency, UniformRecency)
    or config.run.evaluate_every < config.run.steps
  ):
    return None
  shared = identity(config)
  return {k: v for k, v in shared.items() if k not in _LENGTH}


def branch_step(config: Experiment) -> int:
  """Steps that a run shares with longer ones of its trunk."""
  match config.optim.schedule:
    case StableDecay() as schedule:
      return schedule.stable_until(config.run.steps)
    case CosineDecay():
      return 0


def validate(config: Experiment) -> None:
  """Refuses what cannot run, before any work is done."""
  validate_data(config.data)
  validate_model(config.model)
  validate_objective(config.objective)
  validate_optim(config.optim)
  validate_run(config.run)
  match config.data.recency:
    case ChronologicalLast(share=share):
      if round(share * config.run.steps) < 1:
        raise ConfigError(
          f"data.recency.share={share} of run.steps={config.run.steps} is not"
          " one step; raise it, or use UniformRecency()"
        )
  match config.optim.schedule:
    case StableDecay(warmup_steps=warmup_steps) if warmup_steps > branch_step(
      config
    ):
      raise ConfigError(
        f"optim.schedule.warmup_steps={warmup_steps} exceeds the"
        f" {branch_step(config)} steps of run.steps={config.run.steps} before"
        " the decay; lower it, or train for longer"
      )
  if config.data.rows % config.run.mesh_data:
    raise ConfigError(
      f"data.rows={config.data.rows} does not divide over"
      f" run.mesh_data={config.run.mesh_data} devices"
    )
  window = config.data.window
  match config.model.attention:
    case WindowAttention(span=span) if span > window:
      raise ConfigError(
        f"model.attention.span={span} exceeds data.window={window}: every"
        " position is seen; use FullAttention()"
      )
    case LowRankAttention(block=block) if window % block:
      raise ConfigError(
        f"model.attention.block={block} does not divide data.window={window};"
        " use a block that does"
      )
    case LowRankAttention(block=block) if 2 * block >= window:
      raise ConfigError(
        f"model.attention.block={block} is half of data.window={window} or"
        " more: a query sees two blocks exactly, so no slot is ever read; use"
        " FullAttention(), or a smaller block"
      )
  match config.model.horizons:
    case MultiToken(horizons=horizons) if horizons > window:
      raise ConfigError(
        f"model.horizons.horizons={horizons} exceeds data.window={window}: no"
        " token of a window lies that far ahead; use fewer horizons"
      )
  match config.model.hierarchy:
    case HierarchicalItems() as hierarchy:
      if not isinstance(config.objective, FullSoftmax):
        raise ConfigError(
          f"model.hierarchy={hierarchy} needs the probabilities of all items,"
          f" and objective={config.objective} has those of a few; use"
          " FullSoftmax()"
        )

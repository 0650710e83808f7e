"""An experiment: data + model + objective + optim + run."""

# Defaults made of frozen choices; of another file ruff cannot know it.
# ruff: noqa: RUF009

import dataclasses
from typing import Any

from fmjax.config.data import (
  ChronologicalLast,
  DataConfig,
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
  FullSoftmax,
  Objective,
  OptimConfig,
  RunConfig,
  validate_objective,
  validate_optim,
  validate_run,
)
from fmjax.config.tree import Config, ConfigError, to_dict


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
  }


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

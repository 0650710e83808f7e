"""Ladders: what a rung is follows from its width alone, and grids of rungs.

A grid has sizes, data, contexts and seeds for axes. Its rungs keep the recipe
of one base, so that a difference between two of them is one of their axes.
"""

import math
from collections.abc import Iterable, Sequence

from fmjax.config import (
  ConfigError,
  Experiment,
  MaximalUpdate,
  StableDecay,
  StandardScale,
  override,
)
from fmjax.data.schema import DataSpec
from fmjax.scaling.count import step_flops

_HEAD_WIDTH = 16
_WIDTH_PER_LAYER = 32
# By which the critical batch grows with the tokens of a run: .47 in Zhang et
# al. (2024, "How Does Critical Batch Size Scale in Pre-training?"), .46 in
# Bergsma et al. (2025, "Power Lines"). Both find that it does not depend on the
# size of the model.
_BATCH_EXPONENT = 0.47


def rung(base: Experiment, width: int) -> Experiment:
  """`base` at another width; `rung(base, base.model.width)` keeps its rate.

  What is not named here stays as in `base`: all rungs train for the same steps
  on the same rows in the same order, so they see the same tokens and a
  difference between two of them is one of size.
  """
  # Heads of equal width keep the scale of attention logits; more of them is
  # what a wider model gains.
  heads = max(1, width // _HEAD_WIDTH)
  changes = {"model.width": width, "model.heads": heads}
  match base.model.scale:
    case MaximalUpdate():
      if width % _HEAD_WIDTH:
        raise ConfigError(
          f"a rung of width {width} would have heads of another width than"
          f" {_HEAD_WIDTH}, and its learning rate would not transfer; choose a"
          f" multiple of {_HEAD_WIDTH}"
        )
      # The rate transfers from width to width, at one depth.
      return override(base, changes)
    case StandardScale():
      # Depth in proportion to width: with a fixed ratio the backbone grows as
      # width³, and losses hardly depend on the ratio within a factor of two or
      # three of the best (Kaplan et al. 2020, section 3.1).
      layers = max(1, width // _WIDTH_PER_LAYER)
      # Narrow models want, and stand, larger steps. Between a constant rate and
      # 1/width (Adam's limit for hidden matrices under μP): the item tables,
      # most of the parameters here, would keep theirs.
      rate = base.optim.learning_rate * (base.model.width / width) ** 0.5
      return override(
        base, {**changes, "model.layers": layers, "optim.learning_rate": rate}
      )


def ladder(base: Experiment, widths: Iterable[int]) -> dict[str, Experiment]:
  """Rungs by name, `d16`, `d32`, …, from the smallest."""
  return {f"d{width}": rung(base, width) for width in sorted(widths)}


def train_on(base: Experiment, tokens: int) -> Experiment:
  """`base` for as many steps as that many positions are, measured at the end.

  Raises:
    ConfigError: the schedule's decay depends on more than the length.
  """
  if not isinstance(base.optim.schedule, StableDecay):
    raise ConfigError(
      f"optim.schedule={base.optim.schedule} is another one for every length;"
      " use StableDecay(), whose runs share a trunk"
    )
  steps = max(1, round(tokens / (base.data.rows * base.data.window)))
  return override(base, {"run.steps": steps, "run.evaluate_every": steps})


def in_context(base: Experiment, window: int) -> Experiment:
  """`base` with rows of another length, and as many positions in a batch."""
  positions = base.data.rows * base.data.window
  if positions % window:
    raise ConfigError(
      f"a batch of {positions} positions does not divide into rows of"
      f" {window}; choose a window that does"
    )
  return override(
    base,
    {
      "data.window": window,
      "data.stride": window,
      "data.rows": positions // window,
    },
  )


def at_compute(
  experiment: Experiment, *, like: Experiment, tokens: int, spec: DataSpec
) -> Experiment:
  """Trains for as many FLOPs as `like` does on that many positions.

  Args:
    experiment: to be trained.
    like: another, of whose batches one costs more or less.
    tokens: positions that `like` trains on.
    spec: what the data hold.
  """

  def flops(each: Experiment) -> float:
    """Of a position."""
    rows, window = each.data.rows, each.data.window
    step = step_flops(
      each.model, spec, objective=each.objective, rows=rows, window=window
    )
    return step.model.total / (rows * window)

  return train_on(experiment, round(tokens * flops(like) / flops(experiment)))


def grid(
  base: Experiment,
  *,
  widths: Sequence[int],
  tokens: Sequence[int],
  windows: Sequence[int] = (),
  seeds: int = 1,
) -> dict[str, Experiment]:
  """Widths × contexts × lengths × seeds, by name: `d64-1m-s0`.

  Lengths of one width, context and seed are branches of one trunk
  (`config.trunk_identity`): together they cost little more than the longest.

  Args:
    base: the recipe.
    widths: of the rungs.
    tokens: positions to train on.
    windows: contexts, named `d64-w256-1m-s0`; none: that of `base`.
    seeds: of every rung, from 0.
  """
  contexts = {f"-w{window}": in_context(base, window) for window in windows}
  return {
    f"{name}{context}-{count_name(count)}-s{seed}": override(
      train_on(made, count), {"run.seed": seed}
    )
    for context, recipe in (contexts or {"": base}).items()
    for name, made in ladder(recipe, widths).items()
    for count in sorted(tokens)
    for seed in range(seeds)
  }


def count_name(count: int) -> str:
  """`256k`, `1m`, `1.5m`."""
  if count < 1_000_000:
    return f"{count / 1_000:g}k"
  return f"{count / 1_000_000:g}m"


def critical_rows(rows: int, *, tokens: int, at_tokens: int) -> int:
  """Rows of a batch that are as far from too many as `rows` are elsewhere.

  More rows than the critical number save no steps. It grows with the tokens of
  a run to the power .47 and not with the model; its size is the data's own.

  Args:
    rows: a batch that was found to be small enough.
    tokens: of the run that it was found on.
    at_tokens: of the run to be launched; the shortest of a trunk.
  """
  return max(1, math.floor(rows * (at_tokens / tokens) ** _BATCH_EXPONENT))

"""Checkpoints: state, data position and config together, saved asynchronously.

`checkpoints/` holds the latest state, to resume from; `selected/` the model of
the step that validation chose, to evaluate and serve; `branches/` states with
which shorter runs begin.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from fmjax.config import (
  ConfigError,
  Experiment,
  branch_step,
  from_dict,
  identity,
  to_dict,
  trunk_identity,
)
from fmjax.model.items import ByDay
from fmjax.model.recommender import Recommender
from fmjax.train.state import TrainState

BRANCHES = "branches"  # a run's folder of them

Tree = TypeVar("Tree", TrainState, Recommender)


class Checkpoints:
  """The checkpoints of one run directory."""

  def __init__(self, run_dir: pathlib.Path):
    self._latest = _manager(run_dir / "checkpoints")
    self._selected = _manager(run_dir / "selected")

  def save(
    self, state: TrainState, *, config: Experiment, facts: dict[str, Any]
  ) -> None:
    """Starts saving; the arrays may be donated as soon as this returns.

    Args:
      state: all that training carries.
      config: of the run.
      facts: of the host: the data position and running totals.
    """
    step = int(state.step)
    if step == self._latest.latest_step():
      return
    # What the facts say was selected is on disk before them: of a process that
    # is killed between the two, no later step need be better.
    self._selected.wait_until_finished()
    self._latest.save(step, args=_saved(state, config, facts))

  def save_selected(
    self, model: Recommender, *, step: int, metrics: dict[str, float]
  ) -> None:
    """Replaces the selected model."""
    if step == self._selected.latest_step():
      return
    self._selected.save(
      step,
      args=ocp.args.Composite(
        model=ocp.args.StandardSave(_leaves(model)),
        facts=ocp.args.JsonSave(metrics),
      ),
    )

  @property
  def latest_step(self) -> int | None:
    return self._latest.latest_step()

  @property
  def selected_step(self) -> int | None:
    return self._selected.latest_step()

  def restore(
    self, like: TrainState, *, config: Experiment
  ) -> tuple[TrainState, dict[str, Any]]:
    """The latest state, laid out on the mesh as `like` is.

    Raises:
      ConfigError: the checkpoint belongs to another configuration.
    """
    step = self._latest.latest_step()
    assert step is not None  # the caller has asked for it
    return _restore(self._latest, step, like, identity, config=config)

  def restore_selected(self, like: Recommender) -> Recommender:
    """The model of the selected step, laid out as `like` is.

    Raises:
      FileNotFoundError: no step was selected yet.
    """
    step = self._selected.latest_step()
    if step is None:
      raise FileNotFoundError(
        f"{self._selected.directory} holds no selected model; train the run"
        " to its first evaluation"
      )
    saved = self._selected.restore(
      step,
      args=ocp.args.Composite(model=ocp.args.StandardRestore(_abstract(like))),
    )
    return _rebuild(like, saved["model"])

  def close(self) -> None:
    """Waits until what was started is on disk."""
    for manager in (self._latest, self._selected):
      manager.wait_until_finished()
      manager.close()


class Branches:
  """States that a long run keeps, with which shorter ones may begin."""

  def __init__(self, run_dir: pathlib.Path):
    self._kept = _manager(run_dir / BRANCHES, most=None)

  def save(
    self, state: TrainState, *, config: Experiment, facts: dict[str, Any]
  ) -> None:
    """Returns when the state is on disk."""
    step = int(state.step)
    if step not in self._kept.all_steps():
      self._kept.save(step, args=_saved(state, config, facts))
      self._kept.wait_until_finished()

  def restore(
    self, like: TrainState, *, config: Experiment
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """The last state that a run shares with the longer one, if it was kept.

    Raises:
      ConfigError: the runs have no trunk in common.
    """
    step = branch_step(config)
    if step not in self._kept.all_steps():
      return None
    return _restore(self._kept, step, like, trunk_identity, config=config)

  def close(self) -> None:
    self._kept.close()


def _manager(
  directory: pathlib.Path, *, most: int | None = 1
) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    directory.absolute(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=most, cleanup_tmp_directories=True
    ),
  )


def _saved(
  state: TrainState, config: Experiment, facts: dict[str, Any]
) -> ocp.args.Composite:
  return ocp.args.Composite(
    state=ocp.args.StandardSave(_leaves(state)),
    facts=ocp.args.JsonSave({**facts, "config": to_dict(config)}),
  )


def _restore(
  manager: ocp.CheckpointManager,
  step: int,
  like: TrainState,
  same: Callable[[Experiment], dict[str, Any] | None],
  *,
  config: Experiment,
) -> tuple[TrainState, dict[str, Any]]:
  """A state and its facts; `same` of the two configurations must agree."""
  saved = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(_abstract(like)),
      facts=ocp.args.JsonRestore(),
    ),
  )
  facts = dict(saved["facts"])
  written = same(from_dict(facts.pop("config"))) or {}
  for part, value in (same(config) or {}).items():
    if written.get(part) != value:
      raise ConfigError(
        f"the checkpoint at step {step} was written with another {part}"
        f" configuration, {written.get(part)}; train in a new directory"
      )
  return _rebuild(like, saved["state"]), facts


def _flatten(tree: Tree) -> tuple[list[tuple[str, Any]], Any]:
  """Leaves by their path: a layout that no library's classes are part of.

  Tables by day are whole leaves: `_leaves` leaves them out, since they are part
  of every model that is built on the data.
  """
  flat, structure = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda node: isinstance(node, ByDay)
  )
  name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
  return [(name(path), leaf) for path, leaf in flat], structure


def _leaves(tree: Tree) -> dict[str, jax.Array]:
  """What is saved."""
  named, _ = _flatten(tree)
  return {name: leaf for name, leaf in named if not isinstance(leaf, ByDay)}


def _abstract(tree: Tree) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    for name, leaf in _leaves(tree).items()
  }


def _rebuild(like: Tree, leaves: dict[str, jax.Array]) -> Tree:
  named, structure = _flatten(like)
  return jax.tree.unflatten(
    structure, [leaves.get(name, leaf) for name, leaf in named]
  )

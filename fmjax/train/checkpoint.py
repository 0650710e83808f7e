"""Checkpoints: state, data position and config together, saved asynchronously.

`checkpoints/` holds the latest state, to resume from; `selected/` the model of
the step that validation chose, to evaluate and serve.
"""

import functools
import pathlib
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from fmjax.config import (
  ConfigError,
  Experiment,
  from_dict,
  identity,
  to_dict,
)
from fmjax.model.items import ByDay
from fmjax.model.recommender import Recommender
from fmjax.train.state import TrainState

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
    self._latest.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_leaves(state)),
        facts=ocp.args.JsonSave({**facts, "config": to_dict(config)}),
      ),
    )

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
    saved = self._latest.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_abstract(like)),
        facts=ocp.args.JsonRestore(),
      ),
    )
    facts = dict(saved["facts"])
    written, wanted = identity(from_dict(facts.pop("config"))), identity(config)
    for part, value in wanted.items():
      if written[part] != value:
        raise ConfigError(
          f"the checkpoint at step {step} was written with another {part}"
          f" configuration, {written[part]}; train in a new directory"
        )
    return _rebuild(like, saved["state"]), facts

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


def _manager(directory: pathlib.Path) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    directory.absolute(),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=1, cleanup_tmp_directories=True
    ),
  )


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

"""Rungs: which runs of a folder belong together, and as what.

A report shows rungs; this module finds the finished runs, groups those that
differ by seed alone, and refuses what is no ladder.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax import config as config_lib
from fmjax.config import StandardScale
from fmjax.data.schema import DataError
from fmjax.eval.ranked import Ranked, from_parquet
from fmjax.scaling import records
from fmjax.scaling.sweep import plan, run_state

SELECTED_ON = "ndcg@10"  # of validation, as the training loop does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
  """The runs of one configuration; they differ by seed alone."""

  name: str
  results: list[dict[str, Any]]
  ranked: list[Ranked]

  @property
  def first(self) -> dict[str, Any]:
    return self.results[0]

  @property
  def backbone(self) -> int:
    return self.first["params"]["backbone"]

  @property
  def steps(self) -> int:
    return self.first["config"]["run"]["steps"]

  def mean(self, key: str) -> float:
    return float(np.mean([result[key] for result in self.results]))

  @property
  def validation(self) -> float:
    return float(np.mean([r["validation"][SELECTED_ON] for r in self.results]))


def on_common_seeds(rungs: Sequence[Rung]) -> list[Rung]:
  """Rungs with the seeds that all of them have; where none is common, with all.

  Runs of one seed see the same data in the same order at every size, and are
  lucky together: means over different seeds would differ by that luck.
  """
  seeds = [{result["seed"] for result in rung.results} for rung in rungs]
  common = set.intersection(*seeds)
  if not common:
    return list(rungs)
  found = []
  for rung in rungs:
    kept = [
      place
      for place, result in enumerate(rung.results)
      if result["seed"] in common
    ]
    found.append(
      dataclasses.replace(
        rung,
        results=[rung.results[place] for place in kept],
        ranked=[rung.ranked[place] for place in kept],
      )
    )
  return found


def find_runs(
  places: Sequence[pathlib.Path],
) -> tuple[list[pathlib.Path], list[str]]:
  """Finished run directories, and a sentence on each that was left out.

  A place is a run directory, a folder of runs, or the list of an experiment
  file in such a folder (`plan.list_path`). Of a list, the runs that it
  names and those that differ from one of them by seed alone; of a folder, those
  of all its lists, or all runs where no file was swept whole.
  """
  found: list[pathlib.Path] = []
  notes: list[str] = []
  for place in places:
    if is_run(place):
      found.append(place)
      continue
    is_list = place.name.endswith(plan.LIST_SUFFIX)
    folder = place.parent if is_list else place
    lists = {
      path: set((plan.read_list(path) or {}).values())
      for path in folder.glob(f"*{plan.LIST_SUFFIX}")
    }
    if is_list and place not in lists:
      raise DataError(
        f"{place} is absent: sweep the whole experiment file into {folder}"
      )
    inside = sorted(path.parent for path in folder.glob("*/status.json"))
    if not inside:
      raise DataError(
        f"{place} holds no run: name run directories or the folder of a sweep"
      )
    known = {name for names in lists.values() for name in names}
    if lists:
      listed = lists[place] if is_list else known
      names = {run.name for run in inside}
      notes += [
        f"{name} is left out: it has not begun"
        for name in sorted(listed - names)
      ]
      wanted = {but_seed(run) for run in inside if run.name in listed} - {None}
      others = {
        run
        for run in inside
        if run.name not in listed and but_seed(run) not in wanted
      }
      inside = [run for run in inside if run not in others]
      notes += [
        f"{run.name} is left out: no experiment file, as it was last swept,"
        " has such a run"
        for run in sorted(others)
        if run.name not in known
      ]
    found += inside
  done = []
  for path in dict.fromkeys(found):  # places may overlap
    if (state := run_state.state_of(path)) == "done":
      done.append(path)
    else:
      notes.append(f"{path.name} is left out: it is {state}")
  if not done:
    raise DataError(
      f"no run under {', '.join(map(str, places))} is finished"
      f" ({'; '.join(notes)}): sweep again"
    )
  return done, notes


def is_run(place: pathlib.Path) -> bool:
  return (place / "status.json").is_file()


def but_seed(run_dir: pathlib.Path) -> tuple[str, ...] | None:
  """What runs that differ by seed alone share; None of an unfinished one."""
  result = records.read_json(run_dir / "result.json")
  if result is None:
    return None
  try:
    same = records.config_hash(result["config"])
  except config_lib.ConfigError:  # of another version of fmjax
    return None
  return same, result["code_hash"], result["data_checksum"]


def read_rungs(run_dirs: Sequence[pathlib.Path]) -> list[Rung]:
  """Runs grouped by configuration, smallest backbone first."""
  found = []
  for run_dir in run_dirs:
    result = records.read_json(run_dir / "result.json")
    if result is None:
      raise DataError(f"{run_dir} lacks result.json; run it again")
    found.append((run_dir, result))
  groups: dict[tuple[str, ...], Rung] = {}
  # By seed: names of directories end in a hash of the sources, too, and draws
  # of seeds for an interval must not depend on those.
  for run_dir, result in sorted(found, key=lambda run: run[1]["seed"]):
    same = records.config_hash(result["config"]), result["code_hash"]
    name = result["name"]
    if any(key != same and rung.name == name for key, rung in groups.items()):
      name = run_dir.name
    rung = groups.setdefault(same, Rung(name=name, results=[], ranked=[]))
    rung.results.append(result)
    rung.ranked.append(from_parquet(run_dir / "test.parquet"))
  rungs = sorted(groups.values(), key=lambda r: (r.backbone, r.name))
  checksums = {r["data_checksum"] for rung in rungs for r in rung.results}
  if len(checksums) > 1:
    raise DataError(
      "the runs were evaluated on different data"
      f" ({', '.join(sorted(checksums))}): report on one data set at a time"
    )
  return rungs


# What rungs of a ladder or a grid differ in. The rate is the recipe's under
# `StandardScale`, and then a function of the width.
_AXES = (
  "model.width",
  "model.layers",
  "model.heads",
  "run.seed",
  "run.checkpoint_every",
  "run.log_every",
)
_LENGTH = ("run.steps", "run.evaluate_every")
_RATE = "optim.learning_rate"


def refuse_mixture(
  rungs: Sequence[Rung],
  places: Sequence[pathlib.Path],
  *,
  lengths: bool = False,
  free: Sequence[str] = (),
) -> None:
  """A folder is taken for one ladder; what is none must be asked for.

  Args:
    rungs: of the folder.
    places: that were named.
    lengths: rungs may differ in their training's length, too.
    free: other choices that they may differ in, such as "optim.learning_rate".
  """
  where = ", ".join(map(str, places))
  remedy = "name the run directories that belong together"
  steps = {rung.name: rung.steps for rung in rungs}
  if not lengths and len(set(steps.values())) > 1:
    shown = ", ".join(f"{name} {count:,}" for name, count in steps.items())
    raise DataError(
      f"the runs under {where} trained for unequal steps ({shown}); {remedy}"
    )
  for rung in rungs:
    twins = [o.name for o in rungs if o.first["name"] == rung.first["name"]]
    if len(twins) > 1:
      raise DataError(
        f"{' and '.join(twins)} under {where} differ by more than their seed;"
        f" {remedy}"
      )
  first = _flat(rungs[0].first["config"])
  allowed = {*_AXES, *_LENGTH, *free}
  if first["model.scale.type"] == StandardScale.__name__:
    allowed.add(_RATE)
  for rung in rungs[1:]:
    other = _flat(rung.first["config"])
    for path in sorted(first.keys() | other.keys()):
      if path not in allowed and first.get(path) != other.get(path):
        raise DataError(
          f"{rungs[0].name} and {rung.name} under {where} differ in {path}"
          f" ({first.get(path)}, {other.get(path)}), and are no rungs of one"
          f" ladder; {remedy}, or compare arms with --reference"
        )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
  """Leaves of a configuration's tree by their path."""
  if not isinstance(tree, dict):
    return {path: tree}
  found: dict[str, Any] = {}
  for name, value in tree.items():
    found |= _flat(value, f"{path}.{name}" if path else name)
  return found

"""What a sweep works on: the experiments of a file, and where each runs.

`<file>.sweep.json` lists the runs of an experiment file as it was last swept
whole, by the names that it gives them: what a report is on. Several files may
share a root; a run that they have in common is trained once, whatever each
calls it.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fmjax.config import (
  Experiment,
  branch_step,
  content_hash,
  trunk_identity,
  validate,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.scaling import records
from fmjax.scaling.sweep.run_state import alone, directory, run_id, state_of
from fmjax.train.checkpoint import BRANCHES
from fmjax.train.loop import check

LIST_SUFFIX = ".sweep.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """An experiment of a file, its data, and the directory of its run.

  Attributes:
    name: of the experiment.
    experiment: its configuration.
    prepared: its data.
    run_dir: of its run.
    branches: steps whose states are kept for the shorter runs of the file that
      are one with it until then.
    trunk: the directory of the longest such run, where this is a shorter one.
  """

  name: str
  experiment: Experiment
  prepared: Prepared
  run_dir: pathlib.Path
  branches: tuple[int, ...] = ()
  trunk: pathlib.Path | None = None


def jobs(entries: Iterable[Entry]) -> list[list[Entry]]:
  """What one job works on, in order: the runs of a trunk, the longest first."""
  found: dict[pathlib.Path, list[Entry]] = {}
  for entry in entries:
    found.setdefault(entry.trunk or entry.run_dir, []).append(entry)
  return [
    sorted(job, key=lambda entry: -entry.experiment.run.steps)
    for job in found.values()
  ]


def plan(
  experiments: Mapping[str, Experiment], root: pathlib.Path
) -> list[Entry]:
  """Where each experiment runs; prepares data that are not prepared yet."""
  for experiment in experiments.values():
    validate(experiment)  # all of them, before hours of work on the first
  opened: dict[Any, Prepared] = {}
  entries = []
  for name, experiment in experiments.items():
    data = experiment.data
    key = (data.source, data.granularity, data.split, data.held_out)
    if key not in opened:
      opened[key] = ensure_prepared(data)
    prepared = opened[key]
    check(experiment, prepared)
    run = run_id(experiment, data_checksum=prepared.checksum)
    entries.append(
      Entry(
        name=name,
        experiment=experiment,
        prepared=prepared,
        run_dir=directory(root, name, run),
      )
    )
  return _with_trunks(entries)


def _with_trunks(entries: Sequence[Entry]) -> list[Entry]:
  """Says of each entry which others it shares its first steps with."""
  groups: dict[str, list[Entry]] = {}
  for entry in entries:
    same = trunk_identity(entry.experiment)
    if same is not None:
      key = content_hash({**same, "data_checksum": entry.prepared.checksum})
      groups.setdefault(key, []).append(entry)
  changes: dict[str, dict[str, Any]] = {}
  for group in groups.values():
    longest = max(group, key=lambda entry: entry.experiment.run.steps)
    others = [e for e in group if e.run_dir != longest.run_dir]
    steps = sorted({branch_step(other.experiment) for other in others})
    changes[longest.name] = {"branches": tuple(steps)}
    for other in others:
      changes[other.name] = {"trunk": longest.run_dir}
  return [
    dataclasses.replace(entry, **changes.get(entry.name, {}))
    for entry in entries
  ]


def list_path(root: pathlib.Path, file: str) -> pathlib.Path:
  """The list of an experiment file's runs under `root`, present or not."""
  return root / f"{file}{LIST_SUFFIX}"


def write_list(root: pathlib.Path, file: str, entries: Sequence[Entry]) -> None:
  """Of all runs under `root`, those of the experiment file as it is now."""
  path = list_path(root, file)
  listed = {entry.name: entry.run_dir.name for entry in entries}
  if read_list(path) != listed:
    with alone(root):
      records.write_json(path, {"runs": listed})


def read_list(path: pathlib.Path) -> dict[str, str] | None:
  """Directory of each experiment that a list holds; None if there is none."""
  saved = records.read_json(path)
  return None if saved is None else saved["runs"]


def clear(job: Sequence[Entry]) -> None:
  """Deletes what a trunk kept, once no run is left to begin with it."""
  if all(state_of(entry.run_dir) == "done" for entry in job):
    shutil.rmtree(job[0].run_dir / BRANCHES, ignore_errors=True)

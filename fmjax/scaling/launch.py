"""Runs of experiments, each in a directory named by what it depends on.

`<root>/<name>-<run id>`: the id hashes everything that determines the trained
model, so launching twice runs nothing twice. A directory holds

  status.json   {"state": "running" | "done" | "failed" | "interrupted", …}
  result.json   counts and metrics of the selected step, once done
  test.parquet  the rank of every test query
  and what train/ writes: config.json, metrics.jsonl, checkpoints.

Beside them, `<file>.sweep.json` lists the runs of an experiment file as it was
last swept whole, by the names that it gives them: what a report is on. Several
files may share a root; a run that they have in common is trained once, whatever
each calls it.

A run that is "running" while nobody holds its lock was killed; it is resumed.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import time
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, Literal

from fmjax.config import (
  ConfigError,
  Experiment,
  branch_step,
  content_hash,
  identity,
  trunk_identity,
  validate,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.data.store import Prepared
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.scaling import records
from fmjax.scaling.measure import baselines_of, is_current, measure
from fmjax.train.loop import check, train
from fmjax.train.stop import Stop, on_sigterm

LIST_SUFFIX = ".sweep.json"

_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 3, 0.05

State = Literal["new", "running", "killed", "interrupted", "failed", "done"]
Say = Callable[[str], None]


def run_id(experiment: Experiment, *, data_checksum: str) -> str:
  """Of everything that determines the trained model and its selection."""
  return content_hash(
    {
      **identity(experiment),
      "data_checksum": data_checksum,
      "code_hash": records.code_hash(),
    }
  )


def directory(root: pathlib.Path, name: str, run: str) -> pathlib.Path:
  """Of this run, also if it once ran under another name; present or not."""
  for path in sorted(root.glob(f"*-{run}")):
    return path
  return root / f"{name}-{run}"


def state_of(run_dir: pathlib.Path) -> State:
  """What a look at the directory tells, without waiting for anyone."""
  status = records.read_json(run_dir / "status.json")
  if status is None:
    return "new"
  if status["state"] != "running":
    return status["state"]
  return "running" if _is_locked(run_dir) else "killed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """An experiment of a file, its data, and the directory of its run."""

  name: str
  experiment: Experiment
  prepared: Prepared
  run_dir: pathlib.Path

  @property
  def trunk(self) -> str:
    """Shared by runs that branch off one another; else the run's own."""
    shared = trunk_identity(self.experiment)
    if shared is None:
      return self.run_dir.name
    return content_hash({**shared, "data_checksum": self.prepared.checksum})


def jobs(entries: Iterable[Entry]) -> list[list[Entry]]:
  """What is worked on in order: the runs of a trunk, the longest first.

  It keeps the states with which the others begin.
  """
  found: dict[str, list[Entry]] = {}
  for entry in entries:
    found.setdefault(entry.trunk, []).append(entry)
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
  return entries


def list_path(root: pathlib.Path, file: str) -> pathlib.Path:
  """The list of an experiment file's runs under `root`, present or not."""
  return root / f"{file}{LIST_SUFFIX}"


def write_list(root: pathlib.Path, file: str, entries: Sequence[Entry]) -> None:
  """Of all runs under `root`, those of the experiment file as it is now."""
  path = list_path(root, file)
  listed = {entry.name: entry.run_dir.name for entry in entries}
  if read_list(path) != listed:
    records.write_json(path, {"runs": listed})


def read_list(path: pathlib.Path) -> dict[str, str] | None:
  """Directory of each experiment that a list holds; None if there is none."""
  saved = records.read_json(path)
  return None if saved is None else saved["runs"]


def execute(
  experiment: Experiment,
  *,
  name: str,
  root: pathlib.Path,
  prepared: Prepared | None = None,
  branches: Collection[int] = (),
  trunk: pathlib.Path | None = None,
) -> pathlib.Path:
  """Trains, resumes or keeps one run, and evaluates its selected step.

  `branches` and `trunk` are those of `train.loop.train`.

  Returns:
    The run's directory; `state_of` tells "done" or, after SIGTERM,
    "interrupted" (or "new", if nothing was begun).

  Raises:
    RunError: training failed, now.
    BusyError: another process is working on this run.
  """
  validate(experiment)
  with on_sigterm() as stop:
    if prepared is None:
      prepared = ensure_prepared(experiment.data)
    run = run_id(experiment, data_checksum=prepared.checksum)
    run_dir = directory(root, name, run)
    if stop.requested:
      return run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    with _lock(run_dir):
      _execute(
        experiment,
        prepared,
        run_dir,
        name=name,
        run=run,
        stop=stop,
        branches=branches,
        trunk=trunk,
      )
    return run_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """What a sweep did with one experiment.

  Attributes:
    name: of the experiment.
    run_dir: its directory.
    state: when the sweep ended.
    action: "kept", "trained", "resumed", "retried", "evaluated" or "skipped".
    error: one sentence, if it failed.
    test: metrics with intervals, once done.
  """

  name: str
  run_dir: pathlib.Path
  state: State
  action: str
  error: str | None = None
  test: Mapping[str, Any] | None = None

  def to_dict(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "run_dir": str(self.run_dir)}


def sweep(
  experiments: Mapping[str, Experiment],
  root: pathlib.Path,
  *,
  listed: str = "",
  retry_failed: bool = False,
  say: Say = lambda _: None,
) -> list[Row]:
  """Every experiment once, one after the other; what is finished is kept.

  A failed run is marked and the sweep goes on; it stays marked until
  `retry_failed`. A run that another process is working on is skipped. The
  baselines of each data set are ranked once. After SIGTERM the experiments not
  begun are skipped.

  Args:
    experiments: by name.
    root: runs go to `<root>/<name>-<run id>`.
    listed: the file that has these experiments and no others: its list, which
      says what a report is on, is written.
    retry_failed: train failed runs again, from their last checkpoint.
    say: told one line about each experiment.
  """
  with on_sigterm() as stop:
    entries = plan(experiments, root)
    if listed:
      write_list(root, listed, entries)
    asked = {
      (e.prepared.checksum, e.experiment.run.targets): e for e in entries
    }
    for entry in asked.values():
      if not stop.requested:
        targets = entry.experiment.run.targets
        baselines_of(entry.prepared, root=root, targets=targets)
    rows = {
      entry.name: _sweep_one(
        entry,
        root,
        job=job,
        retry_failed=retry_failed,
        stop=stop,
        say=say,
      )
      for job in jobs(entries)
      for entry in job
    }
    return [rows[entry.name] for entry in entries]


def _sweep_one(
  entry: Entry,
  root: pathlib.Path,
  *,
  job: Sequence[Entry],
  retry_failed: bool,
  stop: Stop,
  say: Say,
) -> Row:
  run_dir, before = entry.run_dir, state_of(entry.run_dir)
  action, error = _ACTIONS[before], None
  if before == "done" and not is_current(run_dir):
    action = "evaluated"
  if before == "failed" and not retry_failed:
    action = "kept"
    error = (records.read_json(run_dir / "status.json") or {}).get("error")
  elif stop.requested and action != "kept":
    action = "skipped"
  elif action not in ("kept", "skipped"):
    say(f"{entry.name}: to be {action} in {run_dir}")
    try:
      execute(
        entry.experiment,
        name=entry.name,
        root=root,
        prepared=entry.prepared,
        branches=_branches(entry, job),
        trunk=None if entry is job[0] else job[0].run_dir,
      )
    except BusyError:
      action = "skipped"
    except (ConfigError, DataError):
      raise
    except Exception as failure:
      error = _sentence(failure)
      say(f"{entry.name}: failed: {error}")
  if action == "skipped" and state_of(run_dir) == "running":
    say(f"{entry.name}: skipped, another process is working on {run_dir}")
  result = records.read_json(run_dir / "result.json") or {}
  return Row(
    name=entry.name,
    run_dir=run_dir,
    state="failed" if error else state_of(run_dir),
    action=action,
    error=error,
    test=result.get("test"),
  )


def _branches(entry: Entry, job: Sequence[Entry]) -> list[int]:
  """Steps at which runs that are still to be begun leave this one's trunk."""
  if entry is not job[0]:
    return []
  return [
    branch_step(other.experiment)
    for other in job[1:]
    if state_of(other.run_dir) == "new"
  ]


_ACTIONS = {
  "new": "trained",
  "killed": "resumed",
  "interrupted": "resumed",
  "failed": "retried",
  "running": "skipped",
  "done": "kept",
}


def _execute(
  experiment: Experiment,
  prepared: Prepared,
  run_dir: pathlib.Path,
  *,
  name: str,
  run: str,
  stop: Stop,
  branches: Collection[int],
  trunk: pathlib.Path | None,
) -> None:
  status_path = run_dir / "status.json"
  old = records.read_json(status_path) or {}
  if old.get("state") == "done" and is_current(run_dir):
    return
  about = {
    "name": name,
    "run_id": run,
    "data_checksum": prepared.checksum,
  }

  def mark(state: State, **facts: Any) -> None:
    records.write_json(status_path, {"state": state, **about, **facts})

  mark("running")
  try:
    # A finished run passes through here too, when only its evaluation is old:
    # the loop finds its last checkpoint and takes no step.
    outcome = train(
      experiment,
      prepared,
      run_dir,
      evaluators=[
        ValidationEvaluator(
          prepared,
          experiment.data,
          period=experiment.run.evaluate_every,
          targets=experiment.run.targets,
        )
      ],
      name=name,
      branches=branches,
      trunk=trunk,
    )
    if outcome.state == "interrupted" or stop.requested:
      mark("interrupted", step=outcome.step)
      return
    result = measure(experiment, prepared, run_dir, outcome)
    records.write_json(
      run_dir / "result.json",
      {"name": name, "run_id": run, **result, "wall_s": outcome.wall_s},
    )
    mark("done", step=outcome.step)
  except KeyboardInterrupt:
    mark("interrupted")
    raise
  except Exception as error:
    mark("failed", error=_sentence(error))
    raise


class BusyError(ConfigError):
  """Another process is working on a run."""


@contextlib.contextmanager
def _lock(run_dir: pathlib.Path) -> Iterator[None]:
  """Held while a process works on a run; the system lifts it if that dies."""
  with (run_dir / ".lock").open("a") as file:
    for attempt in range(_LOCK_ATTEMPTS):
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if attempt == _LOCK_ATTEMPTS - 1:
          raise BusyError(
            f"another process is working on {run_dir}; wait for it to end"
          ) from None
      time.sleep(_LOCK_PAUSE_S)  # someone who only looks is gone by then
    yield


def _is_locked(run_dir: pathlib.Path) -> bool:
  """Looks, and leaves no trace: a folder that one may only read will do."""
  try:
    with (run_dir / ".lock").open() as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except FileNotFoundError:
    return False
  except BlockingIOError:
    return True
  return False


def _sentence(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return f"out of memory; lower data.rows or objective.chunk ({text[:200]})"
  return text

"""Runs of experiments, each in a directory named by what it depends on.

`<root>/<name>-<run id>`: the id hashes everything that determines the trained
model, so launching twice runs nothing twice. A directory holds

  status.json   {"state": "running" | "done" | "failed" | "interrupted", …};
                "starts" has the step that each process which worked on the run
                began from, "process" the last one as host:id; of a failure
                "cause" and "error" tell
  result.json   counts and metrics of the selected step, once done
  test.parquet  the rank of every test query
  and what train/ writes: config.json, metrics.jsonl, checkpoints.

Beside them, `<file>.sweep.json` lists the runs of an experiment file as it was
last swept whole, by the names that it gives them: what a report is on. Several
files may share a root; a run that they have in common is trained once, whatever
each calls it.

A run that is "running" while nobody holds its lock was killed; it is resumed.
Runs that several machines work on need a file system whose locks (flock) all of
them respect.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import socket
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
from fmjax.scaling.measure import (
  baseline_dir,
  baselines_of,
  is_current,
  measure,
)
from fmjax.train.checkpoint import BRANCHES
from fmjax.train.loop import check, train
from fmjax.train.stop import Stop, on_sigterm

LIST_SUFFIX = ".sweep.json"

_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 3, 0.05

State = Literal["new", "running", "killed", "interrupted", "failed", "done"]
Cause = Literal["crashed", "out of memory"]
Action = Literal[
  "kept", "trained", "resumed", "retried", "evaluated", "skipped"
]
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
    with _alone(root):
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


def attempt(
  experiment: Experiment,
  *,
  name: str,
  root: pathlib.Path,
  run_dir: pathlib.Path,
  branches: Collection[int] = (),
  trunk: pathlib.Path | None = None,
) -> str | None:
  """As `execute`, for a process that a sweep began and that ends with the run.

  Args:
    experiment: the configuration.
    name: of the experiment.
    root: the folder of the sweep.
    run_dir: where the sweep expects the run.
    branches: of the entry.
    trunk: of the entry.

  Returns:
    Why the run failed, in one sentence, also marked; None if it did not, or if
    another process is working on it.
  """
  try:
    (entry,) = plan({name: experiment}, root)
    if entry.run_dir != run_dir:
      return (
        f"the sources of fmjax or the data have changed since the sweep began:"
        f" it expects {run_dir}, which is {entry.run_dir} now; sweep again"
      )
    execute(
      experiment,
      name=name,
      root=root,
      prepared=entry.prepared,
      branches=branches,
      trunk=trunk,
    )
  except BusyError:
    return None
  except Exception as error:
    sentence = _sentence(error)
    mark_failed(run_dir, error=sentence, cause=_cause(error))
    return sentence
  return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """What a sweep did with one experiment.

  Attributes:
    name: of the experiment.
    run_dir: its directory.
    state: when the sweep ended.
    action: what it did; "skipped" if another process works on the run or if the
      sweep was to end first.
    error: one sentence, if it failed.
    test: metrics with intervals, once done.
  """

  name: str
  run_dir: pathlib.Path
  state: State
  action: Action
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
    entries = begin(experiments, root, listed=listed, stop=stop)
    rows: dict[str, Row] = {}
    for job in jobs(entries):
      for entry in job:
        rows[entry.name] = _sweep_one(
          entry, root, retry_failed=retry_failed, stop=stop, say=say
        )
      clear(job)
    return [rows[entry.name] for entry in entries]


def begin(
  experiments: Mapping[str, Experiment],
  root: pathlib.Path,
  *,
  listed: str,
  stop: Stop,
) -> list[Entry]:
  """What a sweep does before its first run; the arguments are `sweep`'s.

  Of sweeps that begin together one ranks the baselines, and the others wait.
  """
  entries = plan(experiments, root)
  if listed:
    write_list(root, listed, entries)
  unranked = {
    folder: entry
    for entry in entries
    for folder in [
      baseline_dir(
        entry.prepared.checksum,
        root=root,
        targets=entry.experiment.run.targets,
      )
    ]
    if not (folder / "summary.json").is_file()
  }
  if unranked:
    with _alone(root):
      for entry in unranked.values():
        if not stop.requested:
          targets = entry.experiment.run.targets
          baselines_of(entry.prepared, root=root, targets=targets)
  return entries


def action_on(entry: Entry, *, retry_failed: bool) -> Action:
  """What a sweep is to do with a run, as it stands now."""
  state = state_of(entry.run_dir)
  if state == "done" and not is_current(entry.run_dir):
    return "evaluated"
  if state == "failed" and not retry_failed:
    return "kept"
  action = _ACTIONS[state]
  if action != "kept" and entry.trunk and state_of(entry.trunk) == "running":
    return "skipped"  # who trains the trunk goes on with its branches
  return action


def row_of(entry: Entry, action: Action, *, error: str | None = None) -> Row:
  """How an experiment stands at the end of a sweep.

  Args:
    entry: the experiment.
    action: what the sweep did with it.
    error: why this attempt failed, where the run itself does not say.
  """
  state = "failed" if error else state_of(entry.run_dir)
  if state == "failed" and not error:
    status = records.read_json(entry.run_dir / "status.json") or {}
    error = status.get("error")
  result = records.read_json(entry.run_dir / "result.json") or {}
  return Row(
    name=entry.name,
    run_dir=entry.run_dir,
    state=state,
    action=action,
    error=error,
    test=result.get("test"),
  )


def _sweep_one(
  entry: Entry,
  root: pathlib.Path,
  *,
  retry_failed: bool,
  stop: Stop,
  say: Say,
) -> Row:
  run_dir, error = entry.run_dir, None
  action = action_on(entry, retry_failed=retry_failed)
  if stop.requested and action != "kept":
    action = "skipped"
  elif action not in ("kept", "skipped"):
    say(f"{entry.name}: to be {action} in {run_dir}")
    try:
      execute(
        entry.experiment,
        name=entry.name,
        root=root,
        prepared=entry.prepared,
        branches=entry.branches,
        trunk=entry.trunk,
      )
    except BusyError:
      action = "skipped"
    except (ConfigError, DataError):
      raise
    except Exception as failure:
      error = _sentence(failure)
      say(f"{entry.name}: failed: {error}")
  for busy in (run_dir, entry.trunk):
    if action == "skipped" and busy and state_of(busy) == "running":
      say(f"{entry.name}: skipped, another process is working on {busy}")
  return row_of(entry, action, error=error)


def clear(job: Sequence[Entry]) -> None:
  """Deletes what a trunk kept, once no run is left to begin with it."""
  if all(state_of(entry.run_dir) == "done" for entry in job):
    shutil.rmtree(job[0].run_dir / BRANCHES, ignore_errors=True)


_ACTIONS: Mapping[State, Action] = {
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
    "starts": [*old.get("starts", []), saved_step(run_dir)],
    "process": f"{socket.gethostname()}:{os.getpid()}",
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
    mark("failed", error=_sentence(error), cause=_cause(error))
    raise


def saved_step(run_dir: pathlib.Path) -> int:
  """Of the checkpoint that training would go on from; 0 if there is none.

  Orbax gives a folder its number when all of it is written.
  """
  steps = (
    int(path.name)
    for path in (run_dir / "checkpoints").glob("*")
    if path.name.isdigit()
  )
  return max(steps, default=0)


def mark_failed(run_dir: pathlib.Path, *, error: str, cause: Cause) -> None:
  """Of a run whose process could not say so itself; one that ended is kept.

  Args:
    run_dir: of the run; may be absent.
    error: one sentence.
    cause: of the failure.
  """
  run_dir.mkdir(parents=True, exist_ok=True)
  path = run_dir / "status.json"
  with contextlib.suppress(BusyError), _lock(run_dir):
    status = records.read_json(path) or {}
    if status.get("state") not in ("done", "failed"):
      marked = {**status, "state": "failed", "error": error, "cause": cause}
      records.write_json(path, marked)


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


@contextlib.contextmanager
def _alone(root: pathlib.Path) -> Iterator[None]:
  """Held while a sweep writes what all sweeps into `root` share."""
  root.mkdir(parents=True, exist_ok=True)
  with (root / ".lock").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
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


def _cause(error: BaseException) -> Cause:
  exhausted = isinstance(error, MemoryError) or (
    "RESOURCE_EXHAUSTED" in str(error)  # how XLA says it
  )
  return "out of memory" if exhausted else "crashed"


def _sentence(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if _cause(error) == "out of memory":
    return f"out of memory; lower data.rows or objective.chunk ({text[:200]})"
  return text

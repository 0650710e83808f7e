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

How a directory stands is told in run_state.py, what a sweep works on in
plan.py.
"""

import dataclasses
import os
import pathlib
import socket
from collections.abc import (
  Callable,
  Collection,
  Mapping,
)
from typing import Any, Literal

from fmjax.config import (
  ConfigError,
  Experiment,
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
from fmjax.scaling.sweep.plan import Entry, clear, jobs, plan, write_list
from fmjax.scaling.sweep.run_state import (
  BusyError,
  State,
  alone,
  cause_of,
  directory,
  lock,
  mark_failed,
  run_id,
  saved_step,
  sentence_of,
  state_of,
)
from fmjax.train.loop import train
from fmjax.train.stop import Stop, on_sigterm

Action = Literal[
  "kept", "trained", "resumed", "retried", "evaluated", "skipped"
]
Say = Callable[[str], None]


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
    with lock(run_dir):
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
    sentence = sentence_of(error)
    mark_failed(run_dir, error=sentence, cause=cause_of(error))
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
    with alone(root):
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
      error = sentence_of(failure)
      say(f"{entry.name}: failed: {error}")
  for busy in (run_dir, entry.trunk):
    if action == "skipped" and busy and state_of(busy) == "running":
      say(f"{entry.name}: skipped, another process is working on {busy}")
  return row_of(entry, action, error=error)


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
    mark("failed", error=sentence_of(error), cause=cause_of(error))
    raise

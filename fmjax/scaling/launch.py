"""Runs of experiments, each in a directory named by what it depends on.

`<root>/<name>-<run id>`: the id hashes everything that determines the trained
model, so launching twice runs nothing twice. A directory holds

  status.json   {"state": "running" | "done" | "failed" | "interrupted", …}
  result.json   counts and metrics of the selected step, once done
  test.parquet  the rank of every test query
  and what train/ writes: config.json, metrics.jsonl, checkpoints.

A run that is "running" while nobody holds its lock was killed; it is resumed.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from fmjax.config import (
  ConfigError,
  Experiment,
  content_hash,
  to_dict,
  validate,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.scaling import records
from fmjax.scaling.measure import baselines_of, is_current, measure
from fmjax.train.loop import RunError, train

State = Literal["new", "running", "killed", "interrupted", "failed", "done"]
Say = Callable[[str], None]


def run_id(experiment: Experiment, *, data_checksum: str) -> str:
  """Of everything that determines the trained model and its selection.

  The mesh and paths do not; the content of a log counts, not where it lies.
  """
  tree = to_dict(experiment)
  source = tree["data"]["source"]
  for place in ("raw", "mapping"):
    source.pop(place, None)
  run = experiment.run
  return content_hash(
    {
      **{part: tree[part] for part in ("data", "model", "objective", "optim")},
      "seed": run.seed,
      "steps": run.steps,
      "evaluate_every": run.evaluate_every,
      "data_checksum": data_checksum,
      "code_hash": records.code_hash(),
    }
  )


def directory(root: pathlib.Path, name: str, identity: str) -> pathlib.Path:
  """Of this run, also if it once ran under another name; present or not."""
  for path in sorted(root.glob(f"*-{identity}")):
    return path
  return root / f"{name}-{identity}"


def state_of(run_dir: pathlib.Path) -> State:
  """What a look at the directory tells, without waiting for anyone."""
  status = records.read_json(run_dir / "status.json")
  if status is None:
    return "new"
  if status["state"] != "running":
    return status["state"]
  with contextlib.suppress(_Locked), _lock(run_dir):
    return "killed"
  return "running"


def execute(
  experiment: Experiment,
  *,
  name: str,
  root: pathlib.Path,
  prepared: Prepared | None = None,
) -> pathlib.Path:
  """Trains, resumes or keeps one run, and evaluates its selected step.

  Returns:
    The run's directory; `state_of` tells "done" or, after SIGTERM,
    "interrupted".

  Raises:
    RunError: training failed, now.
    ConfigError: another process is working on this run.
  """
  validate(experiment)
  if prepared is None:
    prepared = ensure_prepared(experiment.data)
  identity = run_id(experiment, data_checksum=prepared.checksum)
  run_dir = directory(root, name, identity)
  run_dir.mkdir(parents=True, exist_ok=True)
  try:
    with _lock(run_dir):
      _execute(experiment, prepared, run_dir, name=name, identity=identity)
  except _Locked:
    raise ConfigError(
      f"another process is working on {run_dir}; wait for it to end"
    ) from None
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
  retry_failed: bool = False,
  say: Say = lambda _: None,
) -> list[Row]:
  """Every experiment once, one after the other; what is finished is kept.

  A failed run is marked and the sweep goes on; it stays marked until
  `retry_failed`. The baselines of each data set are ranked once. After SIGTERM
  the experiments not begun are skipped.

  Args:
    experiments: by name.
    root: runs go to `<root>/<name>-<run id>`.
    retry_failed: train failed runs again, from their last checkpoint.
    say: told one line about each experiment.
  """
  for experiment in experiments.values():
    validate(experiment)  # all of them, before hours of work on the first
  opened: dict[Any, Prepared] = {}
  rows: list[Row] = []
  stopped = False
  for name, experiment in experiments.items():
    data = experiment.data
    key = (data.source, data.granularity, data.split)
    if key not in opened:
      opened[key] = ensure_prepared(data)
      baselines_of(opened[key], root=root)
    prepared = opened[key]
    identity = run_id(experiment, data_checksum=prepared.checksum)
    run_dir = directory(root, name, identity)
    before, error = state_of(run_dir), None
    if stopped or (before == "failed" and not retry_failed):
      action = "kept" if before in ("failed", "done") else "skipped"
      error = (records.read_json(run_dir / "status.json") or {}).get("error")
    else:
      action = _ACTIONS[before]
      if before == "done" and not is_current(run_dir):
        action = "evaluated"
      say(f"{name}: {action}, {run_dir}")
      try:
        execute(experiment, name=name, root=root, prepared=prepared)
      except (RunError, MemoryError, RuntimeError, ValueError) as failure:
        if isinstance(failure, ConfigError):
          raise
        error = _sentence(failure)
        say(f"{name}: failed: {error}")
    state = state_of(run_dir)
    stopped = stopped or (action != "skipped" and state == "interrupted")
    result = records.read_json(run_dir / "result.json") or {}
    rows.append(
      Row(
        name=name,
        run_dir=run_dir,
        state=state,
        action=action,
        error=error,
        test=result.get("test"),
      )
    )
  return rows


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
  identity: str,
) -> None:
  status_path = run_dir / "status.json"
  old = records.read_json(status_path) or {}
  if old.get("state") == "done" and is_current(run_dir):
    return
  began, spent_s = time.monotonic(), old.get("wall_s", 0.0)

  def mark(state: str, **facts: Any) -> None:
    wall_s = spent_s + time.monotonic() - began
    status = {"state": state, "name": name, "run_id": identity}
    records.write_json(status_path, {**status, "wall_s": wall_s, **facts})

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
          prepared, experiment.data, period=experiment.run.evaluate_every
        )
      ],
      name=name,
    )
    if outcome.state == "interrupted":
      mark("interrupted", step=outcome.step)
      return
    result = measure(experiment, prepared, run_dir, outcome)
    wall_s = spent_s + time.monotonic() - began
    records.write_json(
      run_dir / "result.json",
      {"name": name, "run_id": identity, **result, "wall_s": wall_s},
    )
    mark("done", step=outcome.step)
  except KeyboardInterrupt:
    mark("interrupted")
    raise
  except Exception as error:
    mark("failed", error=_sentence(error))
    raise


class _Locked(Exception):
  """Someone else holds the lock."""


@contextlib.contextmanager
def _lock(run_dir: pathlib.Path) -> Iterator[None]:
  """Held while a process works on a run; the system lifts it if that dies."""
  with (run_dir / ".lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise _Locked from None
    yield


def _sentence(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return f"out of memory; lower data.rows or objective.chunk ({text[:200]})"
  return text

"""How a run's directory tells what became of it, and who works on it.

A run that is "running" while nobody holds its lock was killed; it is resumed.
Runs that several machines work on need a file system whose locks (flock) all of
them respect.
"""

import contextlib
import fcntl
import pathlib
import time
from collections.abc import Iterator
from typing import Literal

from fmjax.config import ConfigError, Experiment, content_hash, identity
from fmjax.scaling import records

_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 3, 0.05

State = Literal["new", "running", "killed", "interrupted", "failed", "done"]
Cause = Literal["crashed", "out of memory"]


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
  with contextlib.suppress(BusyError), lock(run_dir):
    status = records.read_json(path) or {}
    if status.get("state") not in ("done", "failed"):
      marked = {**status, "state": "failed", "error": error, "cause": cause}
      records.write_json(path, marked)


class BusyError(ConfigError):
  """Another process is working on a run."""


@contextlib.contextmanager
def lock(run_dir: pathlib.Path) -> Iterator[None]:
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
def alone(root: pathlib.Path) -> Iterator[None]:
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


def cause_of(error: BaseException) -> Cause:
  exhausted = isinstance(error, MemoryError) or (
    "RESOURCE_EXHAUSTED" in str(error)  # how XLA says it
  )
  return "out of memory" if exhausted else "crashed"


def sentence_of(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if cause_of(error) == "out of memory":
    return f"out of memory; lower data.rows or objective.chunk ({text[:200]})"
  return text

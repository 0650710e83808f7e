"""A job: runs in order, each in a process of its own, wherever it is started.

What starts the job (submitit, here or on a cluster) watches over processes and
trains nothing itself, so that a run which dies takes no other run with it, and
somebody is left to say how it died. A process of a run is a child in the same
process group: to kill the group is to kill all of it.

The module imports no jax: a job needs one process that does, not two.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from submitit.helpers import Checkpointable, DelayedSubmission

from fmjax.config import Experiment

Setup = Callable[[], object]

# Ends of a process that somebody asked for: the run goes on another time.
_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A run as another process can be told of it.

  Attributes:
    name: of the experiment.
    experiment: its configuration.
    root: the folder of the sweep.
    run_dir: where the sweep expects the run.
    branches: steps whose states it keeps for others.
    trunk: directory of the run with whose state it may begin.
  """

  name: str
  experiment: Experiment
  root: pathlib.Path
  run_dir: pathlib.Path
  branches: tuple[int, ...] = ()
  trunk: pathlib.Path | None = None


class Job(Checkpointable):
  """Works on tasks in order; what submitit calls, and calls again.

  SIGTERM saves the run under way and ends the job. At SIGUSR2, which Slurm
  sends before the time is up, submitit asks for a `checkpoint`: the run is
  saved, and the same job is queued again.
  """

  def __init__(
    self,
    tasks: Sequence[Task],
    *,
    setup: Setup | None = None,
    environment: Mapping[str, str] | None = None,
  ):
    """`setup` is called, and `environment` set, in the process of each run."""
    self._tasks, self._setup = tuple(tasks), setup
    self._environment = dict(environment or {})
    self._child: BaseProcess | None = None
    self._stopped = False

  def __call__(self) -> list[str | None]:
    """Why each attempt failed, in one sentence; None where it did not."""
    before = signal.signal(signal.SIGTERM, lambda *_: self._stop())
    try:
      return [self._run(task) for task in self._tasks]
    finally:
      signal.signal(signal.SIGTERM, before)

  def checkpoint(self) -> DelayedSubmission:
    """Ends the run under way where it can be resumed; what is to be queued."""
    self._stop()
    if self._child is not None:
      self._child.join()
    again = Job(self._tasks, setup=self._setup, environment=self._environment)
    return DelayedSubmission(again)

  def _run(self, task: Task) -> str | None:
    if self._stopped:
      return None
    os.environ.update(self._environment)
    # A fresh interpreter: a fork of a process with threads may hang.
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_work, args=(task, self._setup, sender))
    child.start()
    self._child = child
    sender.close()  # so that the end of the child is the end of the pipe
    if self._stopped:  # it was asked while there was no child to tell
      child.terminate()
    try:
      error = receiver.recv()
    except EOFError:
      error = None
    child.join()
    self._child = None
    return error or _death(task, child.exitcode or 0)

  def _stop(self) -> None:
    self._stopped = True
    if self._child is not None:
      self._child.terminate()


def _work(task: Task, setup: Setup | None, answer: Connection) -> None:
  """The process of a run."""
  # Slurm tells every process of a job that its time is up. This one is told by
  # its parent, with the signal that the training loop knows.
  signal.signal(signal.SIGUSR2, signal.SIG_IGN)
  if setup is not None:
    setup()
  from fmjax.scaling import launch  # jax: in this process, not in the parent

  answer.send(
    launch.attempt(
      task.experiment,
      name=task.name,
      root=task.root,
      run_dir=task.run_dir,
      branches=task.branches,
      trunk=task.trunk,
    )
  )


def _death(task: Task, exit_code: int) -> str | None:
  """Marks a run whose process died; the sentence, or None if it did not."""
  if exit_code == 0 or -exit_code in _ASKED:
    return None
  from fmjax.scaling.sweep import run_state

  if -exit_code == signal.SIGKILL:
    # The kernel's way to end what wants more memory than there is.
    cause = "out of memory"
    error = (
      "its process was killed by SIGKILL, probably out of memory: lower"
      " data.rows or objective.chunk, or run fewer jobs at once"
    )
  else:
    cause = "crashed"
    how = (
      f"was killed by {signal.Signals(-exit_code).name}"
      if exit_code < 0
      else f"ended with code {exit_code}"
    )
    error = f"its process {how} without a word: see the log of its job"
  run_state.mark_failed(task.run_dir, error=error, cause=cause)
  return error

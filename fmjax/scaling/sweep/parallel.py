"""A sweep whose runs are worked on in several jobs at once.

The runs' directories say how they stand, and the lock of a run keeps all but
one process away from it: neither two sweeps nor a job that outlived its sweep
train one run at the same time.
"""

import collections
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fmjax.config import Experiment
from fmjax.scaling import launch
from fmjax.scaling.launch import Action, Row, Say
from fmjax.scaling.sweep import executors, plan, run_state
from fmjax.scaling.sweep.executors import Executor, Local, Slurm, Submitted
from fmjax.scaling.sweep.job import Setup, Task
from fmjax.scaling.sweep.plan import Entry
from fmjax.scaling.sweep.run_state import Cause
from fmjax.scaling.sweep.standing import Standing, standing
from fmjax.train.stop import on_sigterm

Watch = Callable[[Sequence[Standing]], None]

_GROWTH = 1.5  # of the pause between two looks at the jobs


def sweep(
  experiments: Mapping[str, Experiment],
  root: pathlib.Path,
  *,
  launcher: Local | Slurm,
  listed: str = "",
  retry_failed: bool = False,
  setup: Setup | None = None,
  say: Say = lambda _: None,
  watch: Watch = lambda _: None,
) -> list[Row]:
  """As `launch.sweep`, several runs at once.

  After SIGTERM the processes of this machine save and end. Jobs of a cluster go
  on, and the next sweep finds them.

  Args:
    experiments: by name.
    root: runs go to `<root>/<name>-<run id>`.
    launcher: where the jobs run.
    listed: the file that has these experiments and no others.
    retry_failed: train failed runs again, from their last checkpoint.
    setup: called first in the process of each run; pickled by its name.
    say: told one line about each run that begins or fails.
    watch: told again and again how all of them stand.

  Raises:
    ConfigError: the cluster is absent, or refuses such jobs.
  """
  with on_sigterm() as stop:
    entries = launch.begin(experiments, root, listed=listed, stop=stop)
    course = _Course(entries, root, retry_failed=retry_failed, say=say)
    if stop.requested:
      course.drop()
    if course.waiting:
      executor, folder = executors.make_executor(
        launcher, root, jobs=len(course.waiting), setup=setup
      )
      pause_s, longest_s = executor.pauses_s
      try:
        while course.waiting or course.active:
          if stop.requested:
            course.stop(executor)
            if executor.outlives:
              break
          course.settle(executor)
          course.begin(executor)
          watch(course.standings())
          time.sleep(pause_s)
          pause_s = min(_GROWTH * pause_s, longest_s)
      except KeyboardInterrupt:
        course.stop(executor)
        raise
      if not course.active and not course.errors:
        shutil.rmtree(folder)
    watch(course.standings())
    return course.rows()


@dataclass(frozen=True, kw_only=True)
class _Active:
  """A job that is not over yet, and what it works on."""

  job: Submitted
  entries: Sequence[Entry]


class _Course:
  """The entries of a sweep on their way through its jobs.

  Attributes:
    waiting: what the jobs that have not begun are to work on.
    active: jobs under way.
    errors: why attempts of this sweep failed, by the name of the experiment.
  """

  def __init__(
    self,
    entries: Sequence[Entry],
    root: pathlib.Path,
    *,
    retry_failed: bool,
    say: Say,
  ):
    self._entries, self._root, self._say = entries, root, say
    self._retry_failed, self._stopped = retry_failed, False
    queued = executors.queued(root)
    self._actions: dict[str, Action] = {}
    for entry in entries:
      self._actions[entry.name] = self._action(entry)
      if job := queued.get(entry.run_dir.absolute()):
        self._actions[entry.name] = "skipped"
        say(f"{entry.name}: is in the queue, job {job}")
    self.waiting = collections.deque(
      plan.jobs([entry for entry in entries if self._is_to_begin(entry)])
    )
    self._standings: dict[str, Standing] = {}
    self._fresh: set[str] = set()  # active at the last look
    self.active: list[_Active] = []
    self.errors: dict[str, str] = {}

  def begin(self, executor: Executor) -> None:
    """Hands over as many jobs as there is room for."""
    batch: list[list[Entry]] = []
    while self.waiting and len(batch) < executor.capacity - len(self.active):
      entries = self.waiting.popleft()
      for entry in entries:  # another sweep may have begun it in the meantime
        self._actions[entry.name] = self._action(entry)
      if entries := [entry for entry in entries if self._is_to_begin(entry)]:
        batch.append(entries)
    if not batch:
      return
    for entry in (entry for entries in batch for entry in entries):
      action = self._actions[entry.name]
      self._say(f"{entry.name}: to be {action} in {entry.run_dir}")
    tasks = [[self._task(entry) for entry in entries] for entries in batch]
    self.active += [
      _Active(job=job, entries=entries)
      for job, entries in zip(executor.submit(tasks), batch, strict=True)
    ]

  def settle(self, executor: Executor) -> None:
    """Takes note of the jobs that are over."""
    for active in list(self.active):
      # A process may outlive its job, and is none too few before it ends.
      if executor.is_over(active.job) and not any(
        run_state.state_of(entry.run_dir) == "running"
        for entry in active.entries
      ):
        self.active.remove(active)
        self._note(active)

  def drop(self) -> None:
    """Begins nothing more."""
    for entry in (entry for entries in self.waiting for entry in entries):
      self._actions[entry.name] = "skipped"
    self.waiting.clear()

  def stop(self, executor: Executor) -> None:
    """Begins nothing more, and asks what was begun to end."""
    self.drop()
    if not self._stopped:
      self._stopped = True
      for active in self.active:
        executor.stop(active.job)

  def standings(self) -> list[Standing]:
    """How all stand; what is over, and no job's any more, is not read again."""
    active = {e.name for active in self.active for e in active.entries}
    for entry in self._entries:
      last = self._standings.get(entry.name)
      if last is None or not last.over or entry.name in active | self._fresh:
        self._standings[entry.name] = standing(entry)
    self._fresh = active
    return list(self._standings.values())

  def rows(self) -> list[Row]:
    for job in plan.jobs(self._entries):
      plan.clear(job)
    rows = []
    for entry in self._entries:
      if run_state.state_of(entry.run_dir) == "running":
        self._actions[entry.name] = "skipped"
        self._say(f"{entry.name}: a process is working on {entry.run_dir}")
      rows.append(
        launch.row_of(
          entry,
          self._actions[entry.name],
          error=self.errors.get(entry.name),
        )
      )
    return rows

  def _action(self, entry: Entry) -> Action:
    return launch.action_on(entry, retry_failed=self._retry_failed)

  def _is_to_begin(self, entry: Entry) -> bool:
    return self._actions[entry.name] not in ("kept", "skipped")

  def _task(self, entry: Entry) -> Task:
    return Task(
      name=entry.name,
      experiment=entry.experiment,
      root=self._root,
      run_dir=entry.run_dir,
      branches=entry.branches,
      trunk=entry.trunk,
    )

  def _note(self, active: _Active) -> None:
    answers = executors.answers(active.job)
    if answers is None:
      died = None if self._stopped else executors.death(active.job)
      answers = [_mark_dead(entry, died) for entry in active.entries]
    for entry, error in zip(active.entries, answers, strict=True):
      if error is not None:
        self.errors[entry.name] = error
        self._say(f"{entry.name}: failed: {error}")


def _mark_dead(entry: Entry, died: tuple[str, Cause] | None) -> str | None:
  """Of an entry whose job ended without an answer: what is said of it."""
  state = run_state.state_of(entry.run_dir)
  if died is None or state not in ("new", "killed"):
    return None
  error, cause = died
  if state == "killed":
    run_state.mark_failed(entry.run_dir, error=error, cause=cause)
  return error

"""Where the jobs of a sweep run: processes of this machine, or Slurm.

submitit starts them. What it keeps of the jobs of one sweep, and their logs,
are in `<root>/.jobs/<sweep>`.
"""

import collections
import math
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import submitit
from submitit.core.utils import FailedJobError

from fmjax.config import ConfigError
from fmjax.scaling import records
from fmjax.scaling.sweep.job import Job, Setup, Task
from fmjax.scaling.sweep.run_state import Cause

_FOLDER, _QUEUE = ".jobs", "queue.json"
_MINUTES_PER_HOUR, _SECONDS_PER_HOUR = 60, 3_600
# A job of this machine has no limit; submitit wants one.
_NO_LIMIT_MIN = 60 * 24 * 365
# A run may be longer than a cluster lets any job be: as often as it takes.
_REQUEUES = 1_000
# Before the time is up, for the step under way and a checkpoint: at most, and
# as a share of the time.
_NOTICE_S, _NOTICE_SHARE = 180, 0.1
_LOG_TAIL_BYTES = 4_096
# Of a GPU's memory, for all the processes that share it.
_SHARED_MEMORY = 0.9

Submitted = submitit.Job[list[str | None]]


@dataclass(frozen=True, kw_only=True)
class Local:
  """Processes of this machine; each has one of its GPUs, where it has any.

  Attributes:
    jobs: how many at once.
  """

  jobs: int


@dataclass(frozen=True, kw_only=True)
class Slurm:
  """An array of jobs, and what each of them needs; None: the cluster's default.

  What is not here, sbatch takes from its environment (SBATCH_RESERVATION, …).

  Attributes:
    jobs: how many at once.
    hours: limit of a job; what is not done by then is saved and queued again.
    partition: of the cluster.
    account: that pays.
    qos: quality of service.
    constraint: features that a node must have.
    cpus: of a job.
    gpus: of a job.
    memory_gb: of a job.
  """

  jobs: int
  hours: float = 12.0
  partition: str | None = None
  account: str | None = None
  qos: str | None = None
  constraint: str | None = None
  cpus: int | None = None
  gpus: int | None = None
  memory_gb: float | None = None


class Executor(Protocol):
  """Starts jobs, and knows which of them are over.

  Attributes:
    capacity: how many jobs to hand over at once.
    pauses_s: shortest and longest time between two looks at them.
    outlives: the jobs go on when the sweep is told to end.
  """

  capacity: int
  pauses_s: tuple[float, float]
  outlives: bool

  def submit(self, jobs: Sequence[Sequence[Task]]) -> list[Submitted]: ...

  def is_over(self, job: Submitted) -> bool: ...

  def stop(self, job: Submitted) -> None: ...


def make_executor(
  launcher: Local | Slurm,
  root: pathlib.Path,
  *,
  jobs: int,
  setup: Setup | None = None,
) -> tuple[Executor, pathlib.Path]:
  """An executor for at most `jobs` jobs, and the new folder of their logs.

  Raises:
    ConfigError: there is no such cluster here.
  """
  (root / _FOLDER).mkdir(parents=True, exist_ok=True)
  folder = pathlib.Path(tempfile.mkdtemp(dir=root / _FOLDER, prefix="sweep-"))
  match launcher:
    case Local():
      return _LocalExecutor(launcher, folder, setup=setup), folder
    case Slurm():
      return _SlurmExecutor(launcher, folder, jobs=jobs, setup=setup), folder


def answers(job: Submitted) -> list[str | None] | None:
  """What a job that is over says of its tasks; None if it died instead."""
  if not job.paths.result_pickle.exists():
    return None
  try:
    return job.result()
  except FailedJobError:
    return None


def death(job: Submitted) -> tuple[str, Cause] | None:
  """Why a job ended without an answer; None if somebody wanted it to end."""
  log = job.paths.stdout
  tail = ""
  if log.is_file():
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
  if "CANCELLED AT" in tail:  # Slurm's word for scancel, preemption, time limit
    return None
  if "oom-kill" in tail or "oom_kill" in tail:
    return (
      f"its job {job.job_id} was killed out of memory: give it more (--slurm"
      " memory_gb=…), or lower data.rows or objective.chunk",
      "out of memory",
    )
  return f"its job {job.job_id} died without a word: see {log}", "crashed"


# ---- processes of this machine ----------------------------------------------


class _LocalExecutor:
  pauses_s = (0.05, 1.0)
  outlives = False

  def __init__(
    self, launcher: Local, folder: pathlib.Path, *, setup: Setup | None
  ):
    self.capacity = launcher.jobs
    self._setup, self._gpus = setup, gpus()
    self._gpu_of: dict[str, str] = {}
    self._executor = submitit.AutoExecutor(folder, cluster="local")
    self._executor.update_parameters(
      timeout_min=_NO_LIMIT_MIN, stderr_to_stdout=True
    )

  def submit(self, jobs: Sequence[Sequence[Task]]) -> list[Submitted]:
    submitted = []
    for tasks in jobs:
      gpu = self._least_used()
      job = self._executor.submit(
        Job(tasks, setup=self._setup, environment=self._environment(gpu))
      )
      if gpu is not None:
        self._gpu_of[job.job_id] = gpu
      submitted.append(job)
    return submitted

  def is_over(self, job: Submitted) -> bool:
    over = job.done()
    if over:
      self._gpu_of.pop(job.job_id, None)
    return over

  def stop(self, job: Submitted) -> None:
    """SIGTERM: `cancel` would interrupt, and nothing would be saved."""
    if not job.done():
      os.kill(int(job.job_id), signal.SIGTERM)

  def _least_used(self) -> str | None:
    if not self._gpus:
      return None
    used = collections.Counter(self._gpu_of.values())
    return min(self._gpus, key=lambda gpu: used[gpu])

  def _environment(self, gpu: str | None) -> dict[str, str]:
    if gpu is None:
      return {}
    told = {"CUDA_VISIBLE_DEVICES": gpu}
    sharing = math.ceil(self.capacity / len(self._gpus))
    if sharing > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
      # Each process of jax takes three quarters of a GPU unless told otherwise.
      share = f"{_SHARED_MEMORY / sharing:.3f}"
      told["XLA_PYTHON_CLIENT_MEM_FRACTION"] = share
    return told


def gpus() -> list[str]:
  """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES."""
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    return [gpu for gpu in visible.split(",") if gpu]
  try:
    told = subprocess.run(
      ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
    )
  except FileNotFoundError:
    return []
  lines = told.stdout.splitlines() if told.returncode == 0 else []
  return [str(number) for number, _ in enumerate(lines)]


# ---- Slurm ------------------------------------------------------------------


class _SlurmExecutor:
  pauses_s = (1.0, 30.0)
  outlives = True

  def __init__(
    self,
    launcher: Slurm,
    folder: pathlib.Path,
    *,
    jobs: int,
    setup: Setup | None,
  ):
    self.capacity = jobs  # all of them at once: Slurm knows how many may run
    self._folder, self._setup = folder, setup
    try:
      self._executor = submitit.AutoExecutor(
        folder, cluster="slurm", slurm_max_num_timeout=_REQUEUES
      )
    except RuntimeError as error:
      raise ConfigError(
        "there is no Slurm here (no srun on the PATH): sweep on a machine that"
        " submits to it, or with --launcher local"
      ) from error
    self._executor.update_parameters(**_parameters(launcher))

  def submit(self, jobs: Sequence[Sequence[Task]]) -> list[Submitted]:
    made = [Job(tasks, setup=self._setup) for tasks in jobs]
    try:
      with self._executor.batch():
        submitted = [self._executor.submit(job) for job in made]
    except FailedJobError as error:
      raise ConfigError(
        f"sbatch refuses the jobs ({_last_line(str(error))}): correct --slurm"
      ) from error
    queue = {
      job.job_id: [str(task.run_dir.absolute()) for task in tasks]
      for job, tasks in zip(submitted, jobs, strict=True)
    }
    path = self._folder / _QUEUE
    records.write_json(path, {**(records.read_json(path) or {}), **queue})
    return submitted

  def is_over(self, job: Submitted) -> bool:
    # Not submitit's question, which is for accounting that not all clusters
    # have, and which takes a job that waits to be queued again for a dead one.
    if job.paths.result_pickle.exists():
      return True
    known = _in_queue()
    return known is not None and job.job_id not in known

  def stop(self, job: Submitted) -> None:
    """Nothing: the cluster has the jobs, and another sweep finds them there."""


def queued(root: pathlib.Path) -> dict[pathlib.Path, str]:
  """Absolute directories of runs that Slurm has in its queue, and the jobs.

  None, where Slurm does not answer: a run's lock keeps a second job from
  training it, so that all that such a job costs is its place in the queue.
  """
  found = {}
  for path in (root / _FOLDER).glob(f"*/{_QUEUE}"):
    for job, run_dirs in (records.read_json(path) or {}).items():
      found |= {pathlib.Path(run_dir): job for run_dir in run_dirs}
  if not found:
    return {}
  known = _in_queue() or frozenset()
  return {run_dir: job for run_dir, job in found.items() if job in known}


def _in_queue() -> frozenset[str] | None:
  """Jobs that Slurm knows of, pending or running; None: it does not answer."""
  try:
    told = subprocess.run(
      ["squeue", "--me", "--noheader", "--array", "--format=%i"],
      capture_output=True,
      text=True,
    )
  except FileNotFoundError:
    return None
  return frozenset(told.stdout.split()) if told.returncode == 0 else None


def _parameters(launcher: Slurm) -> Mapping[str, Any]:
  """As submitit calls them; None is left to the cluster."""
  notice_s = min(_NOTICE_S, _NOTICE_SHARE * launcher.hours * _SECONDS_PER_HOUR)
  return {
    "name": "fmjax",
    "timeout_min": math.ceil(launcher.hours * _MINUTES_PER_HOUR),
    "cpus_per_task": launcher.cpus,
    "gpus_per_node": launcher.gpus,
    "mem_gb": launcher.memory_gb,
    "stderr_to_stdout": True,
    "slurm_partition": launcher.partition,
    "slurm_account": launcher.account,
    "slurm_qos": launcher.qos,
    "slurm_constraint": launcher.constraint,
    "slurm_array_parallelism": launcher.jobs,
    "slurm_signal_delay_s": math.ceil(notice_s),
  }


def _last_line(text: str) -> str:
  return next(filter(None, map(str.strip, reversed(text.splitlines()))), "")

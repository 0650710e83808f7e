"""Sweeps in several jobs at once: who trains what, and what becomes of it."""

import functools
import os
import signal
import stat
import subprocess
import threading
import types

import pytest
import submitit
import sweep_world as world

from fmjax.config import ConfigError, override
from fmjax.scaling import launch
from fmjax.scaling.sweep import executors, parallel, plan, run_state
from fmjax.scaling.sweep.executors import Local, Slurm
from fmjax.scaling.sweep.job import Job, Task
from fmjax.train.stop import Stop

TWO = Local(jobs=2)
# What the process of a run calls first: it is the end of it.
KILLED = functools.partial(signal.raise_signal, signal.SIGKILL)
ABORTED = os.abort
TERMINATED = functools.partial(signal.raise_signal, signal.SIGTERM)

# submitit's debug executor leaves the logs that it opens to the collector.
pytestmark = pytest.mark.filterwarnings(
  r"ignore:unclosed file.*DEBUG_\d+_0_log:ResourceWarning"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    yield


@pytest.fixture(autouse=True)
def _programs(monkeypatch, compiled):
  """Other processes find what was compiled here."""
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)


@pytest.fixture
def experiments(tmp_path):
  return world.write(tmp_path, seeds=1, steps=20)


@pytest.fixture
def root(tmp_path):
  return world.root(tmp_path)


def tasks_of(experiments, root):
  return [
    Task(name=e.name, experiment=e.experiment, root=root, run_dir=e.run_dir)
    for e in launch.begin(experiments, root, listed="", stop=Stop())
  ]


def executable(folder, name, text):
  """A command of the system that the test plays."""
  folder.mkdir(exist_ok=True)
  path = folder / name
  path.write_text(f"#!/bin/sh\n{text}\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


# ---- a job, by submitit's own executors ------------------------------------


@pytest.mark.slow  # a sweep in jobs is tested whole below
def test_a_job_trains_its_tasks_in_order(experiments, root, tmp_path):
  tasks = tasks_of(experiments, root)
  executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="debug")
  assert executor.submit(Job(tasks)).result() == [None, None]
  ends = [(t.run_dir / "result.json").stat().st_mtime for t in tasks]
  assert ends == sorted(ends)
  processes = {world.process_of(task.run_dir) for task in tasks}
  assert len(processes) == 2  # each its own, and none this one
  assert os.getpid() not in processes


@pytest.mark.parametrize(
  "end,cause,sentence",
  [
    (KILLED, "out of memory", "killed by SIGKILL, probably out of memory"),
    (ABORTED, "crashed", "killed by SIGABRT without a word"),
  ],
  ids=["SIGKILL", "SIGABRT"],
)
def test_a_process_that_dies_is_a_failure_with_a_cause(
  end, cause, sentence, experiments, root, tmp_path
):
  task, _ = tasks_of(experiments, root)
  executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="debug")
  (error,) = executor.submit(Job([task], setup=end)).result()
  assert sentence in error
  status = world.status(task.run_dir)
  assert (status["state"], status["cause"]) == ("failed", cause)
  assert status["error"] == error


def test_a_process_that_is_asked_to_end_is_no_failure(
  experiments, root, tmp_path
):
  task, _ = tasks_of(experiments, root)
  executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="debug")
  assert executor.submit(Job([task], setup=TERMINATED)).result() == [None]
  assert run_state.state_of(task.run_dir) == "new"


def test_a_job_of_other_sources_trains_nothing_and_says_so(
  experiments, root, tmp_path
):
  task, other = tasks_of(experiments, root)
  moved = Task(
    name=task.name,
    experiment=task.experiment,
    root=root,
    run_dir=other.run_dir,
  )
  executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="debug")
  (error,) = executor.submit(Job([moved])).result()
  assert "have changed since the sweep began" in error
  assert world.run_dirs(tmp_path) == []


@pytest.mark.slow
def test_a_job_whose_time_is_up_saves_and_goes_on_when_it_is_begun_again(
  root, tmp_path
):
  longer = world.write(tmp_path, seeds=1, steps=400)
  (task, _) = tasks_of(longer, root)
  executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
  executor.update_parameters(timeout_min=60)
  job = executor.submit(Job([task]))
  world.wait_for(lambda: max_step(task.run_dir) >= 20)
  # To the process that watches over the run's, as Slurm sends it: submitit
  # asks for a checkpoint, and its controller begins the job again.
  os.kill(parent_of(world.process_of(task.run_dir)), signal.SIGUSR2)
  assert job.result() == [None]
  first, second = world.status(task.run_dir)["starts"]
  assert first == 0
  assert second >= 20
  assert world.logged_steps(task.run_dir) == list(range(1, 401))


def max_step(run_dir):
  return max(world.logged_steps(run_dir), default=0)


def parent_of(process):
  told = subprocess.run(
    ["ps", "-o", "ppid=", "-p", str(process)],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(told.stdout)


# ---- a sweep in processes of this machine ----------------------------------


def test_a_sweep_in_jobs_trains_every_experiment_once(experiments, root):
  looks, told = [], []
  rows = parallel.sweep(
    experiments,
    root,
    launcher=TWO,
    listed="ladder",
    say=told.append,
    watch=looks.append,
  )
  assert [(r.name, r.action, r.state) for r in rows] == [
    (name, "trained", "done") for name in experiments
  ]
  assert all(row.test is not None for row in rows)
  assert plan.read_list(plan.list_path(root, "ladder")) == {
    row.name: row.run_dir.name for row in rows
  }
  assert [one.state for one in looks[0]] == ["new", "new"]
  assert [(one.state, one.step) for one in looks[-1]] == [("done", 20)] * 2
  assert len(told) == 2
  assert list((root / ".jobs").iterdir()) == []
  for again in (launch.sweep(experiments, root), run(experiments, root)):
    assert {row.action for row in again} == {"kept"}
  assert all(world.status(row.run_dir)["starts"] == [0] for row in rows)


def run(experiments, root, **options):
  return parallel.sweep(experiments, root, launcher=TWO, **options)


@pytest.mark.slow
def test_entries_that_form_one_job_are_trained_by_it(
  experiments, root, monkeypatch
):
  submitted = []
  submit = executors._LocalExecutor.submit

  def count(self, jobs):
    submitted.extend(jobs)
    return submit(self, jobs)

  monkeypatch.setattr(executors._LocalExecutor, "submit", count)
  monkeypatch.setattr(parallel, "jobs", lambda entries: [list(entries)])
  rows = run(experiments, root)
  assert {row.state for row in rows} == {"done"}
  assert [[task.name for task in job] for job in submitted] == [
    list(experiments)
  ]


@pytest.mark.slow
def test_a_run_that_is_killed_fails_alone_and_is_retried_on_request(
  root, tmp_path
):
  experiments = world.write(tmp_path, seeds=1, steps=400)
  rows = []
  sweep = threading.Thread(
    target=lambda: rows.extend(run(experiments, root)), daemon=True
  )
  sweep.start()
  victim = plan.plan(experiments, root)[0].run_dir
  world.wait_for(lambda: run_state.saved_step(victim) >= 10)
  os.kill(world.process_of(victim), signal.SIGKILL)
  sweep.join(timeout=300)
  assert [(row.action, row.state) for row in rows] == [
    ("trained", "failed"),
    ("trained", "done"),
  ]
  assert "probably out of memory" in rows[0].error
  assert list((root / ".jobs").iterdir()) != []  # the log of its job is kept
  kept = run(experiments, root)
  assert [row.action for row in kept] == ["kept", "kept"]
  assert kept[0].error == rows[0].error
  retried = run(experiments, root, retry_failed=True)
  assert [(row.action, row.state) for row in retried] == [
    ("retried", "done"),
    ("kept", "done"),
  ]
  assert world.status(victim)["starts"][1] >= 10  # from its last checkpoint
  assert world.logged_steps(victim) == list(range(1, 401))


@pytest.mark.slow
def test_a_failure_that_a_run_tells_itself_is_marked_with_its_cause(
  experiments, root
):
  broken = {
    name: override(
      experiment, {"optim.learning_rate": 1e30, "optim.clip_norm": 1e9}
    )
    for name, experiment in experiments.items()
  }
  told = []
  rows = run(broken, root, say=told.append)
  assert [row.state for row in rows] == ["failed", "failed"]
  for row in rows:
    assert "the loss is" in row.error
    assert world.status(row.run_dir)["cause"] == "crashed"
    assert any(f"{row.name}: failed: the loss is" in line for line in told)


@pytest.mark.parametrize(
  "error,cause",
  [
    (MemoryError(), "out of memory"),
    (
      RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
      "out of memory",
    ),
    (OSError("disk full"), "crashed"),
  ],
  ids=["python", "xla", "other"],
)
def test_what_memory_was_lacking_is_told_from_other_failures(
  error, cause, experiments, root, monkeypatch
):
  def train(*_, **__):
    raise error

  monkeypatch.setattr(launch, "train", train)
  (row, _) = launch.sweep(experiments, root)
  assert row.state == "failed"
  assert world.status(row.run_dir)["cause"] == cause
  assert (cause == "out of memory") == ("lower data.rows" in row.error)


# In one process a sweep does so, too (test_launch.py).
@pytest.mark.slow
def test_sigterm_saves_what_runs_and_begins_nothing_more(root, tmp_path):
  experiments = world.write(tmp_path, seeds=2, steps=5_000)
  sweep = world.start(tmp_path, "--jobs", "2")
  try:
    world.wait_for(
      lambda: sum(max_step(d) >= 20 for d in world.run_dirs(tmp_path)) == 2
    )
    os.kill(sweep.pid, signal.SIGTERM)  # not its children: it tells them
    assert sweep.wait(timeout=120) == 0
  finally:
    if sweep.poll() is None:
      world.kill(sweep)
  entries = plan.plan(experiments, root)
  states = [run_state.state_of(entry.run_dir) for entry in entries]
  assert sorted(states) == ["interrupted", "interrupted", "new", "new"]
  for entry in entries:
    if run_state.state_of(entry.run_dir) == "interrupted":
      step = world.status(entry.run_dir)["step"]
      assert run_state.saved_step(entry.run_dir) == step >= 20


@pytest.mark.slow
def test_two_sweeps_of_one_file_share_the_work(tmp_path):
  world.write(tmp_path, seeds=2)
  sweeps = [world.start(tmp_path, "--jobs", jobs) for jobs in ("1", "2")]
  assert [sweep.wait(timeout=500) for sweep in sweeps] == [0, 0]
  dirs = world.run_dirs(tmp_path)
  assert len(dirs) == 4
  for run_dir in dirs:
    assert run_state.state_of(run_dir) == "done"
    assert world.status(run_dir)["starts"] == [0]
    assert world.logged_steps(run_dir) == list(range(1, world.STEPS + 1))


@pytest.mark.slow
def test_jobs_that_outlive_their_sweep_are_left_alone_by_the_next(
  root, tmp_path
):
  experiments = world.write(tmp_path, seeds=1, steps=400)
  sweep = world.start(tmp_path, "--jobs", "2")
  world.wait_for(
    lambda: sum(max_step(d) >= 20 for d in world.run_dirs(tmp_path)) == 2
  )
  os.kill(sweep.pid, signal.SIGKILL)  # alone: its children go on
  sweep.wait()
  rows = run(experiments, root)
  assert [row.action for row in rows] == ["skipped", "skipped"]
  world.wait_for_ends(tmp_path)
  for row in rows:
    world.wait_for(lambda row=row: run_state.state_of(row.run_dir) == "done")
    assert world.status(row.run_dir)["starts"] == [0]
    assert world.logged_steps(row.run_dir) == list(range(1, 401))


# ---- what a machine and a cluster are told ---------------------------------


@pytest.mark.parametrize(
  "jobs,expected",
  [
    (2, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
    (
      3,
      [
        {
          "CUDA_VISIBLE_DEVICES": gpu,
          "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450",
        }
        for gpu in ("0", "1", "0")
      ],
    ),
  ],
)
def test_each_job_has_a_gpu_and_shares_it_only_where_it_must(
  jobs, expected, tmp_path, monkeypatch
):
  executable(tmp_path / "bin", "nvidia-smi", "echo GPU 0: A; echo GPU 1: B")
  monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  told = []

  class Recorded:
    def __init__(self, *_, **__):
      self.update_parameters = lambda **_: None

    def submit(self, job):
      told.append(job._environment)
      return types.SimpleNamespace(job_id=str(len(told)))

  monkeypatch.setattr(submitit, "AutoExecutor", Recorded)
  executor, _ = executors.make_executor(Local(jobs=jobs), tmp_path, jobs=jobs)
  executor.submit([[]] * jobs)
  assert told == expected


def test_slurm_is_asked_for_what_a_job_needs(
  experiments, root, tmp_path, monkeypatch
):
  executable(tmp_path / "bin", "srun", "")
  executable(tmp_path / "bin", "squeue", "echo 7_0; echo 7_1")
  executable(
    tmp_path / "bin",
    "sbatch",
    f'cp "$1" {tmp_path}/asked; echo Submitted batch job 7',
  )
  monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
  launcher = Slurm(
    jobs=1, hours=1.5, partition="gpu", gpus=2, cpus=3, memory_gb=4
  )
  watched = []

  def watch(standings):
    watched.append(standings)
    os.kill(os.getpid(), signal.SIGTERM)  # enough: the cluster has the jobs

  rows = parallel.sweep(experiments, root, launcher=launcher, watch=watch)
  assert {row.state for row in rows} == {"new"}
  asked = (tmp_path / "asked").read_text()
  for line in (
    "--array=0-1%1",
    "--partition=gpu",
    "--time=90",
    "--gpus-per-node=2",
    "--cpus-per-task=3",
    "--mem=4GB",
    "--signal=USR2@180",
  ):
    assert f"#SBATCH {line}\n" in asked
  # They are in the queue: the next sweep submits none of them again.
  (tmp_path / "asked").unlink()
  again = parallel.sweep(experiments, root, launcher=launcher)
  assert {row.action for row in again} == {"skipped"}
  assert not (tmp_path / "asked").exists()
  told = world.ask_status(tmp_path)
  assert {one["state"] for one in told} == {"queued"}


def test_a_cluster_that_is_absent_or_refuses_is_one_sentence(
  experiments, root, tmp_path, monkeypatch
):
  executable(tmp_path / "bin", "sbatch", "echo no such partition >&2; exit 1")
  monkeypatch.setenv("PATH", str(tmp_path / "bin"))
  with pytest.raises(ConfigError, match="there is no Slurm here"):
    parallel.sweep(experiments, root, launcher=Slurm(jobs=2))
  executable(tmp_path / "bin", "srun", "")
  with pytest.raises(ConfigError, match=r"refuses .*no such partition"):
    parallel.sweep(experiments, root, launcher=Slurm(jobs=2))


@pytest.mark.parametrize(
  "log,cause",
  [
    ("slurmstepd: error: Detected 1 oom-kill event(s)", "out of memory"),
    ("Segmentation fault", "crashed"),
    ("slurmstepd: error: *** JOB 7 ON n CANCELLED AT 2026 ***", None),
  ],
)
def test_of_a_job_that_died_its_log_tells_why(log, cause, tmp_path):
  job = submitit.SlurmJob(tmp_path, "7")
  job.paths.stdout.write_text(f"{log}\n")
  found = executors.death(job)
  assert (found and found[1]) == cause
  if cause == "crashed":
    assert str(job.paths.stdout) in found[0]

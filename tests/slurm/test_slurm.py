"""Sweeps on a real cluster: `make test-slurm` starts one of a single node."""

import os
import shutil
import signal
import subprocess

import pytest
import sweep_world as world

from fmjax.scaling.sweep import executors, parallel, run_state
from fmjax.scaling.sweep.executors import Slurm

CLUSTER = Slurm(jobs=2, hours=1.0, cpus=1)


def answers() -> bool:
  if shutil.which("sinfo") is None:
    return False
  return subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = [
  pytest.mark.slurm,
  pytest.mark.skipif(not answers(), reason="no Slurm: make test-slurm"),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    yield


@pytest.fixture(autouse=True)
def _leave_no_jobs():
  yield
  subprocess.run(["scancel", "--me"], check=True)
  world.wait_for(lambda: not queue())


def queue() -> list[str]:
  told = subprocess.run(
    ["squeue", "--me", "--noheader", "--array", "--format=%i %T %r"],
    capture_output=True,
    text=True,
    check=True,
  )
  return told.stdout.splitlines()


def running_past(folder, step):
  """The directory of a run that Slurm has trained beyond `step`."""

  def found():
    return [
      run_dir
      for run_dir in world.run_dirs(folder)
      if run_state.state_of(run_dir) == "running"
      and max(world.logged_steps(run_dir), default=0) > step
    ]

  world.wait_for(lambda: found(), seconds=180)
  return found()[0]


def job_of(run_dir):
  return executors.queued(run_dir.parent)[run_dir.absolute()]


def test_a_sweep_is_an_array_of_which_so_many_run_at_once(tmp_path):
  experiments = world.write(tmp_path, seeds=2)
  most = []

  def watch(standings):
    most.append(sum(one.state == "running" for one in standings))

  rows = parallel.sweep(
    experiments, world.root(tmp_path), launcher=CLUSTER, watch=watch
  )
  assert [(r.action, r.state) for r in rows] == [("trained", "done")] * 4
  assert max(most) <= 2
  for run_dir in world.run_dirs(tmp_path):
    assert world.status(run_dir)["starts"] == [0]
    assert world.logged_steps(run_dir) == list(range(1, world.STEPS + 1))
  # Nothing is submitted for what is done.
  again = parallel.sweep(experiments, world.root(tmp_path), launcher=CLUSTER)
  assert {row.action for row in again} == {"kept"}
  assert list((world.root(tmp_path) / ".jobs").iterdir()) == []


def test_a_job_whose_time_is_up_saves_and_is_queued_again(tmp_path):
  world.write(tmp_path, seeds=1, steps=600)
  sweep = world.start(tmp_path, *words())
  try:
    run_dir = running_past(tmp_path, 50)
    # What Slurm sends before the limit.
    subprocess.run(["scancel", "--signal=USR2", job_of(run_dir)], check=True)
    assert sweep.wait(timeout=400) == 0
  finally:
    end(sweep)
  first, second = world.status(run_dir)["starts"]
  assert first == 0
  assert second > 50
  assert world.logged_steps(run_dir) == list(range(1, 601))


def test_jobs_outlive_the_sweep_and_the_next_one_submits_none_twice(tmp_path):
  experiments = world.write(tmp_path, seeds=2, steps=600)
  sweep = world.start(tmp_path, *words("--jobs", "1"))
  run_dir = running_past(tmp_path, 10)
  world.kill(sweep)
  jobs = [line.split()[0] for line in queue()]
  assert len(jobs) == 4
  states = [one["state"] for one in world.ask_status(tmp_path)]
  assert sorted(states) == ["queued", "queued", "queued", "running"]
  rows = parallel.sweep(experiments, world.root(tmp_path), launcher=CLUSTER)
  assert {row.action for row in rows} == {"skipped"}
  assert [line.split()[0] for line in queue()] == jobs
  # Canceled, they are no failures: what was begun is saved, and goes on.
  subprocess.run(["scancel", "--me"], check=True)
  world.wait_for(lambda: not queue())
  world.wait_for_ends(tmp_path)
  states = {run_state.state_of(row.run_dir) for row in rows}
  assert states <= {"interrupted", "killed", "new", "done"}
  assert run_state.state_of(run_dir) != "new"


def test_a_run_that_dies_is_marked_and_the_others_go_on(tmp_path):
  experiments = world.write(tmp_path, seeds=1, steps=600)
  sweep = world.start(tmp_path, *words())
  try:
    run_dir = running_past(tmp_path, 10)
    os.kill(world.process_of(run_dir), signal.SIGKILL)
    assert sweep.wait(timeout=400) == 4
  finally:
    end(sweep)
  status = world.status(run_dir)
  assert (status["state"], status["cause"]) == ("failed", "out of memory")
  states = [run_state.state_of(d) for d in world.run_dirs(tmp_path)]
  assert sorted(states) == ["done", "failed"]
  rows = parallel.sweep(
    experiments, world.root(tmp_path), launcher=CLUSTER, retry_failed=True
  )
  assert sorted(row.action for row in rows) == ["kept", "retried"]
  assert {row.state for row in rows} == {"done"}


def words(*others):
  resources = ["--launcher", "slurm", "--slurm", "hours=1,cpus=1"]
  return [*(others or ("--jobs", "2")), *resources]


def end(sweep):
  if sweep.poll() is None:
    world.kill(sweep)

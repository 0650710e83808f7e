"""What a killed sweep leaves: all that it saved, and nothing is done twice."""

import random
import time

import pyarrow.parquet as pq
import pytest
import sweep_world as world

from fmjax.scaling import launch, records
from fmjax.scaling.sweep import run_state

# What two sweeps of the same experiments may differ in.
CLOCK = ("train_s", "wall_s", "device")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    yield


def tables(folder):
  paths = records.write_tables(world.run_dirs(folder), folder / "tables")
  runs, evals = map(pq.read_table, paths)
  return runs.drop_columns(list(CLOCK)), evals


@pytest.mark.parametrize("kills,seeds", [(1, 1), (5, 3)])
@pytest.mark.slow  # test_launch.py kills one run
def test_a_sweep_killed_at_random_moments_ends_as_if_undisturbed(
  kills, seeds, tmp_path
):
  generator = random.Random(kills)
  experiments = world.write(tmp_path, seeds=seeds)
  names = sorted(experiments)
  # The step that each process which ever works on a run must go on from.
  expected = {name: [0] for name in names}
  for number in range(kills):
    sweep = world.start(tmp_path, "--jobs", "2")
    wait_for_more(sweep, tmp_path, saved=number % 2 == 0)
    # In whatever comes next: a step, a checkpoint, an evaluation, the end of a
    # run, the start of another.
    time.sleep(generator.uniform(0.0, 1.5))
    assert sweep.poll() is None, "it ended before it could be killed"
    world.kill(sweep)
    world.wait_for_ends(tmp_path)  # the children die with the group
    for run_dir in world.run_dirs(tmp_path):
      name = world.status(run_dir)["name"]
      began = world.status(run_dir)["starts"]
      assert began in (expected[name], expected[name][:-1])
      expected[name] = began
      if run_state.state_of(run_dir) == "killed":
        expected[name] = [*began, run_state.saved_step(run_dir)]
      else:
        assert run_state.state_of(run_dir) == "done"
  assert world.start(tmp_path, "--jobs", "2").wait(timeout=300) == 0
  # Every run exists once, and nothing that was saved was trained again.
  found = {world.status(d)["name"]: d for d in world.run_dirs(tmp_path)}
  assert sorted(found) == names
  assert len(world.run_dirs(tmp_path)) == len(names)
  began = {name: world.status(d)["starts"] for name, d in found.items()}
  assert began == expected
  assert any(step for steps in began.values() for step in steps)
  for run_dir in found.values():
    assert run_state.state_of(run_dir) == "done"
    assert world.logged_steps(run_dir) == list(range(1, world.STEPS + 1))
  # One run after the other, in this process.
  undisturbed = tmp_path / "undisturbed"
  launch.sweep(experiments, world.root(undisturbed))
  for ours, theirs in zip(tables(tmp_path), tables(undisturbed), strict=True):
    assert rows_of(ours) == rows_of(theirs)


@pytest.mark.slow
def test_a_killed_trunk_and_its_branches_end_as_if_undisturbed(tmp_path):
  generator = random.Random(7)
  experiments = world.write_trunk(tmp_path)
  for number in range(5):
    sweep = world.start(tmp_path)
    wait_for_more(sweep, tmp_path, saved=number % 2 == 0)
    time.sleep(generator.uniform(0.0, 0.5))
    world.kill(sweep)
    world.wait_for_ends(tmp_path)
    if all(run_state.state_of(d) == "done" for d in world.run_dirs(tmp_path)):
      break
  assert number > 0, "it ended before it could be killed twice"
  assert world.start(tmp_path).wait(timeout=300) == 0
  found = {world.status(d)["name"]: d for d in world.run_dirs(tmp_path)}
  assert sorted(found) == sorted(experiments)
  for name, run_dir in found.items():
    assert run_state.state_of(run_dir) == "done"
    steps = experiments[name].run.steps
    # A branch's log begins with what it shares.
    assert world.logged_steps(run_dir) == list(range(1, steps + 1))
  undisturbed = tmp_path / "undisturbed"
  launch.sweep(experiments, world.root(undisturbed))
  for ours, theirs in zip(tables(tmp_path), tables(undisturbed), strict=True):
    assert rows_of(ours) == rows_of(theirs)


def wait_for_more(sweep, folder, *, saved):
  """Until a run that this sweep began is a step, or a checkpoint, further."""
  at = {
    d: (starts(d), progress(d, saved=saved)) for d in world.run_dirs(folder)
  }

  def is_further():
    assert sweep.poll() is None, "it ended before it could be killed"
    return any(
      starts(run_dir) > at.get(run_dir, (0, 0))[0]
      and progress(run_dir, saved=saved) > at.get(run_dir, (0, 0))[1]
      for run_dir in world.run_dirs(folder)
    )

  world.wait_for(is_further)


def starts(run_dir):
  return len(world.status(run_dir)["starts"])


def progress(run_dir, *, saved):
  if saved:
    return run_state.saved_step(run_dir)
  return len(world.logged_steps(run_dir))


def rows_of(table):
  """In an order that does not depend on which run was done first."""
  return sorted(table.to_pylist(), key=lambda row: list(map(str, row.values())))

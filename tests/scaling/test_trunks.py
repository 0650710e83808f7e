"""A sweep in which runs of several lengths share their first steps."""

import fcntl
import json
import pathlib

import pytest
from test_launch import BASE

from fmjax.config import StableDecay, branch_step, override
from fmjax.scaling import launch
from fmjax.scaling.sweep import plan
from fmjax.train.checkpoint import BRANCHES
from fmjax.train.log import read_metrics

LENGTHS = (4, 8, 12)


def of_length(steps: int, *, seed: int = 0):
  return override(
    BASE,
    {
      "model.width": 8,
      "optim.schedule": StableDecay(warmup_steps=1, decay=0.25),
      "run.steps": steps,
      "run.evaluate_every": steps,
      "run.seed": seed,
    },
  )


GRID = {
  f"t{steps}-s{seed}": of_length(steps, seed=seed)
  for seed in (0, 1)
  for steps in LENGTHS
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory, compiled):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[pathlib.Path, list[launch.Row]]:
  root = tmp_path_factory.mktemp("runs") / "grid"
  return root, launch.sweep(GRID, root)


def result(run_dir: pathlib.Path) -> dict:
  return json.loads((run_dir / "result.json").read_text())


def test_a_job_is_the_runs_of_a_trunk_the_longest_first(swept):
  root, _ = swept
  jobs = plan.jobs(plan.plan(GRID, root))
  assert [[entry.name for entry in job] for job in jobs] == [
    ["t12-s0", "t8-s0", "t4-s0"],
    ["t12-s1", "t8-s1", "t4-s1"],
  ]
  for first, *others in jobs:
    assert first.trunk is None
    assert first.branches == (3, 6)
    assert sorted(map(branch_step, (o.experiment for o in others))) == [3, 6]
    assert {other.trunk for other in others} == {first.run_dir}


def test_runs_that_share_nothing_are_jobs_of_their_own(tmp_path):
  other = override(BASE, {"run.seed": 3})  # a cosine: no trunk
  jobs = plan.jobs(plan.plan({"a": BASE, "b": other}, tmp_path))
  assert [[entry.name for entry in job] for job in jobs] == [["a"], ["b"]]


def test_rows_are_in_the_order_of_the_file_and_all_are_done(swept):
  _, rows = swept
  assert [row.name for row in rows] == list(GRID)
  assert {(row.state, row.action) for row in rows} == {("done", "trained")}


def test_a_branch_has_the_result_of_a_run_of_its_own(swept, tmp_path):
  _, rows = swept
  (alone,) = launch.sweep({"t8-s0": GRID["t8-s0"]}, tmp_path)
  branch = next(row for row in rows if row.name == "t8-s0")
  ours, theirs = result(branch.run_dir), result(alone.run_dir)
  clock = ("train_s", "wall_s")
  assert {k: v for k, v in ours.items() if k not in clock} == {
    k: v for k, v in theirs.items() if k not in clock
  }
  steps = [r["step"] for r in read_metrics(branch.run_dir / "metrics.jsonl")]
  assert sorted(set(steps)) == list(range(1, 9))


def test_the_runs_of_a_trunk_say_so_and_of_another_seed_do_not(swept):
  _, rows = swept
  trunks = [result(row.run_dir)["trunk"] for row in rows]
  assert len(set(trunks[:3])) == len(set(trunks[3:])) == 1
  assert trunks[0] != trunks[3]


def test_what_was_kept_is_deleted_when_no_run_needs_it(swept):
  root, _ = swept
  assert list(root.glob(f"*/{BRANCHES}")) == []


def test_branches_wait_for_whoever_trains_their_trunk(tmp_path):
  of_seed = {name: GRID[name] for name in ("t4-s0", "t12-s0")}
  entries = {e.name: e for e in plan.plan(of_seed, tmp_path)}
  trunk = entries["t12-s0"].run_dir
  trunk.mkdir(parents=True)
  (trunk / "status.json").write_text('{"state": "running"}')
  said = []
  with (trunk / ".lock").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    rows = launch.sweep(of_seed, tmp_path, say=said.append)
  assert {row.action for row in rows} == {"skipped"}
  assert not entries["t4-s0"].run_dir.exists()
  assert any(
    f"t4-s0: skipped, another process is working on {trunk}" in s for s in said
  )


def test_a_branch_whose_trunk_is_done_trains_from_its_first_step(
  swept, tmp_path
):
  root, rows = swept
  later = {"t12-s0": GRID["t12-s0"], "t6-s0": of_length(6)}
  (tmp_path / "runs").symlink_to(root)
  _, added = launch.sweep(later, root)
  assert added.state == "done"
  assert result(added.run_dir)["trunk"] == result(rows[0].run_dir)["trunk"]

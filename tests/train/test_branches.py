"""Short runs that begin with what a long one kept."""

import dataclasses
import itertools

import pytest
from test_loop import assert_bit_equal, latest

from fmjax.config import (
  ChronologicalLast,
  ConfigError,
  CosineDecay,
  OptimConfig,
  StableDecay,
  branch_step,
  override,
  trunk_identity,
)
from fmjax.train.log import read_metrics
from fmjax.train.loop import train
from fmjax.train.optimizer import make_schedule

LONG, SHORT = 10, 5
SCHEDULE = StableDecay(warmup_steps=2, decay=0.4)


def of_length(small, steps):
  return override(
    small,
    {
      "optim.schedule": SCHEDULE,
      "run.steps": steps,
      "run.evaluate_every": steps,
      "run.checkpoint_every": 4,
    },
  )


@pytest.fixture(scope="module")
def long(small):
  return of_length(small, LONG)


@pytest.fixture(scope="module")
def short(small):
  return of_length(small, SHORT)


@pytest.fixture(scope="module")
def trunk(long, short, prepared, tmp_path_factory):
  run_dir = tmp_path_factory.mktemp("long")
  train(long, prepared, run_dir, branches=[branch_step(short)])
  return run_dir


def test_a_branch_is_the_same_to_the_bit_as_a_run_of_its_own(
  short, prepared, trunk, tmp_path
):
  alone, branch = tmp_path / "alone", tmp_path / "branch"
  assert train(short, prepared, alone).tokens > 0
  outcome = train(short, prepared, branch, trunk=trunk)
  assert outcome.state == "done"
  assert_bit_equal(
    latest(short, prepared, branch), latest(short, prepared, alone)
  )
  told = [
    [(r["step"], r["loss"], r["tokens"], r["learning_rate"]) for r in records]
    for records in (
      read_metrics(run_dir / "metrics.jsonl") for run_dir in (alone, branch)
    )
  ]
  assert told[0] == told[1]
  assert len(told[0]) == SHORT


def test_a_branch_trains_only_what_the_trunk_did_not(
  short, prepared, trunk, tmp_path, monkeypatch
):
  from fmjax.train import loop

  begun = []
  real = loop.windows.batch_iterator

  def watched(dataset, *, start):
    begun.append(start)
    return real(dataset, start=start)

  monkeypatch.setattr(loop.windows, "batch_iterator", watched)
  train(short, prepared, tmp_path, trunk=trunk)
  assert begun == [branch_step(short)] == [3]


def test_keeping_states_changes_nothing_in_the_long_run(
  long, prepared, trunk, tmp_path
):
  train(long, prepared, tmp_path)
  assert_bit_equal(
    latest(long, prepared, tmp_path), latest(long, prepared, trunk)
  )


def test_without_what_it_would_begin_with_a_branch_trains_alone(
  small, prepared, trunk, tmp_path
):
  other = of_length(small, 7)  # of which the trunk kept nothing
  assert train(other, prepared, tmp_path / "a", trunk=trunk).step == 7
  nowhere = tmp_path / "nowhere"
  assert train(other, prepared, tmp_path / "b", trunk=nowhere).step == 7
  assert not nowhere.exists()


def test_what_another_experiment_kept_is_refused(
  short, prepared, trunk, tmp_path
):
  other = override(short, {"optim.learning_rate": 1e-4})
  with pytest.raises(ConfigError, match=r"step 3 .* another optim"):
    train(other, prepared, tmp_path, trunk=trunk)


def test_what_depends_on_the_length_before_the_decay_has_no_trunk(long):
  assert trunk_identity(long) == trunk_identity(of_length(long, SHORT))
  seed = override(long, {"run.seed": 1})
  assert trunk_identity(seed) != trunk_identity(long)
  for change in (
    {"optim.schedule": CosineDecay()},
    {"data.recency": ChronologicalLast()},
    {"run.evaluate_every": LONG - 1},  # an earlier step may be selected
  ):
    assert trunk_identity(override(long, change)) is None


@pytest.mark.parametrize("steps", [20, 100, 1_000])
def test_the_rate_is_stable_and_one_for_all_lengths_until_it_falls(steps):
  optim = OptimConfig(
    learning_rate=1e-2, schedule=StableDecay(warmup_steps=10, decay=0.2)
  )
  rates, longer = (
    [float(make_schedule(optim, total_steps=total)(step)) for step in range(20)]
    for total in (steps, 4_000)
  )
  stable = optim.schedule.stable_until(steps)
  assert stable == steps * 4 // 5
  assert rates[:stable] == longer[: min(stable, 20)]
  assert rates[0] == pytest.approx(1e-3)
  assert rates[9] == rates[min(stable, 20) - 1] == pytest.approx(1e-2)


def test_the_rate_falls_to_almost_nothing_and_never_to_nothing():
  optim = OptimConfig(learning_rate=1.0, schedule=StableDecay())
  schedule = make_schedule(optim, total_steps=1_000)
  rates = [float(schedule(step)) for step in range(799, 1_000)]
  assert rates[0] == 1
  assert all(a > b for a, b in itertools.pairwise(rates))
  assert 0 < rates[-1] < 3e-3


def test_a_warm_up_that_ends_in_the_decay_is_refused(small, prepared, tmp_path):
  late = dataclasses.replace(SCHEDULE, warmup_steps=9)
  with pytest.raises(ConfigError, match=r"warmup_steps=9 exceeds the 6 steps"):
    train(
      override(of_length(small, LONG), {"optim.schedule": late}),
      prepared,
      tmp_path,
    )

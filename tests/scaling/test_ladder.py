import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.config import (
  ConfigError,
  Experiment,
  MaximalUpdate,
  StableDecay,
  override,
  trunk_identity,
  validate,
)
from fmjax.data.schema import DataSpec
from fmjax.scaling.count import parameters, step_flops
from fmjax.scaling.ladder import (
  at_compute,
  critical_rows,
  grid,
  in_context,
  ladder,
  rung,
  train_on,
)

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 256)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_rung_is_a_valid_experiment_on_the_same_tokens(width):
  base = Experiment()
  made = rung(base, width)
  validate(made)
  assert made.model.width == width
  assert (made.data, made.run, made.objective) == (
    base.data,
    base.run,
    base.objective,
  )


def test_the_backbone_grows_with_every_rung_and_spans_decades():
  spec = DataSpec(items=10_000)
  sizes = [
    parameters(made.model, spec, window=64).backbone
    for made in ladder(Experiment(), WIDTHS).values()
  ]
  assert sizes == sorted(set(sizes))
  assert sizes[5] > 30 * sizes[1]  # 16 to 64
  assert sizes[-1] > 1_000 * sizes[0]


def test_names_tell_the_width_from_the_smallest_on():
  assert list(ladder(Experiment(), (64, 16, 32))) == ["d16", "d32", "d64"]


def test_wider_rungs_take_smaller_steps_and_the_base_keeps_its_own():
  base = Experiment()
  rates = [rung(base, width).optim.learning_rate for width in WIDTHS]
  assert rates == sorted(rates, reverse=True)
  assert rung(base, 64).optim == base.optim
  assert rung(base, 16).optim.learning_rate == pytest.approx(
    2 * base.optim.learning_rate
  )


def stable(**changes) -> Experiment:
  return override(
    Experiment(),
    {
      "model.width": 32,
      "model.scale": MaximalUpdate(base_width=32),
      "optim.schedule": StableDecay(),
      **changes,
    },
  )


def test_under_mup_width_and_heads_are_all_that_differs():
  base = stable()
  for made in ladder(base, (16, 32, 96)).values():
    same = {"model.width": 32, "model.heads": base.model.heads}
    assert override(made, same) == base
  assert rung(base, 128).model.heads == 8


def test_a_grid_is_sizes_by_lengths_by_seeds_in_names_that_say_so():
  made = grid(stable(), widths=(32, 16), tokens=(250_000, 1_500_000), seeds=2)
  assert list(made) == [
    f"d{width}-{tokens}-s{seed}"
    for width in (16, 32)
    for tokens in ("250k", "1.5m")
    for seed in (0, 1)
  ]
  for experiment in made.values():
    validate(experiment)
  positions = 32 * 64  # of a batch
  long = made["d16-1.5m-s1"]
  assert long.run.steps == long.run.evaluate_every == round(1.5e6 / positions)
  assert (long.model.width, long.run.seed) == (16, 1)


def test_the_lengths_of_a_rung_and_seed_share_a_trunk_and_no_others_do():
  made = grid(stable(), widths=(16, 32), tokens=(250_000, 10**6), seeds=2)
  trunks = [str(trunk_identity(experiment)) for experiment in made.values()]
  assert len(set(trunks)) == 4
  assert all(trunks.count(trunk) == 2 for trunk in trunks)


def test_lengths_need_a_schedule_whose_runs_share_a_trunk():
  with pytest.raises(ConfigError, match=r"use StableDecay\(\)"):
    train_on(Experiment(), 10**6)


@given(exponent=st.integers(3, 11))
def test_a_longer_context_leaves_the_positions_of_a_batch(exponent):
  base = stable()
  made = in_context(base, 2**exponent)
  assert made.data.stride == made.data.window == 2**exponent
  assert made.data.rows * made.data.window == 32 * 64
  assert override(made, {"data": base.data}) == base


def test_a_context_that_does_not_divide_a_batch_is_refused():
  with pytest.raises(ConfigError, match=r"2048 positions .* rows of 96"):
    in_context(stable(), 96)


@pytest.mark.parametrize("window", [64, 512, 2_048])
def test_at_equal_compute_a_longer_window_trains_on_fewer_tokens(window):
  spec, base = DataSpec(items=2_000), stable()

  def flops(experiment: Experiment) -> int:
    data = experiment.data
    step = step_flops(
      experiment.model,
      spec,
      objective=experiment.objective,
      rows=data.rows,
      window=data.window,
    )
    return experiment.run.steps * step.model.total

  made = at_compute(
    in_context(base, window), like=base, tokens=4 * 10**6, spec=spec
  )
  assert flops(made) == pytest.approx(
    flops(train_on(base, 4 * 10**6)), rel=1e-3
  )
  assert made.run.steps <= train_on(base, 4 * 10**6).run.steps


def test_the_critical_batch_grows_with_the_tokens_to_the_power_047():
  assert critical_rows(16, tokens=10**6, at_tokens=10**6) == 16
  assert critical_rows(16, tokens=10**6, at_tokens=10**8) == 139
  assert critical_rows(16, tokens=10**6, at_tokens=10**4) == 1


def test_a_grid_of_contexts_says_them_in_its_names():
  made = grid(
    stable(), widths=(16,), tokens=(10**6,), windows=(64, 512), seeds=1
  )
  assert {name: e.data.window for name, e in made.items()} == {
    "d16-w64-1m-s0": 64,
    "d16-w512-1m-s0": 512,
  }


def test_under_mup_a_width_that_would_change_the_heads_is_refused():
  with pytest.raises(ConfigError, match="multiple of 16"):
    rung(stable(), 24)

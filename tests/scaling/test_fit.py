import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmjax.scaling import fit
from fmjax.scaling.laws.curves import PowerOffset, RisingOffset
from fmjax.scaling.laws.polynomial import Power

X = np.geomspace(1e3, 1e6, 12)
FALLING = PowerOffset()
RISING = RisingOffset()
LINE = Power()
TRUE = {"E": 1.7, "A": 40.0, "alpha": 0.35}


def law(x, *, noise: float = 0.0, seed: int = 0):
  draw = np.random.default_rng(seed).normal(size=len(x))
  y = TRUE["E"] + TRUE["A"] * np.asarray(x) ** -TRUE["alpha"]
  return y * np.exp(noise * draw)


# Fits to the last digit: no residual is left to read the noise from.
@example(floor=1.0, share=1.0, alpha=0.109375)
@settings(deadline=None, max_examples=25)
@given(
  floor=st.floats(0.5, 10),
  # The falling term at the smallest x, in floors.
  share=st.floats(0.05, 20),
  alpha=st.floats(0.1, 1.2),
)
def test_a_noise_free_offset_law_is_recovered_from_most_starts(
  floor, share, alpha
):
  amplitude = floor * share * X[0] ** alpha
  result = fit.fit(X, floor + amplitude * X**-alpha, form=FALLING)
  assert result.parameters["E"] == pytest.approx(floor, rel=1e-6)
  assert result.parameters["A"] == pytest.approx(amplitude, rel=1e-5)
  assert result.parameters["alpha"] == pytest.approx(alpha, rel=1e-6)
  assert result.agreement >= 0.75
  assert result.good
  assert result.warnings == ()


def test_the_constants_of_chinchilla_are_found_from_95_in_100_starts():
  # Hoffmann et al. 2022, equation 10, the data term left out.
  n = np.geomspace(4e7, 2e10, 12)
  result = fit.fit(n, 1.69 + 406.4 * n**-0.34, form=FALLING, starts=225)
  assert result.parameters == pytest.approx(
    {"E": 1.69, "A": 406.4, "alpha": 0.34}, rel=1e-6
  )
  assert result.agreement >= 0.95


@settings(deadline=None, max_examples=25)
@given(
  ceiling=st.floats(0.05, 1.0),
  share=st.floats(0.1, 0.9),
  alpha=st.floats(0.1, 1.2),
)
def test_a_noise_free_metric_rising_to_a_ceiling_is_recovered(
  ceiling, share, alpha
):
  missing = ceiling * share * (X / X[0]) ** -alpha
  result = fit.fit(X, ceiling - missing, form=RISING)
  assert result.parameters["R_inf"] == pytest.approx(ceiling, rel=1e-5)
  assert result.parameters["alpha"] == pytest.approx(alpha, rel=1e-5)
  assert result.good


@pytest.mark.parametrize("alpha", [-0.4, 0.05, 0.7])
def test_a_power_law_falls_or_rises(alpha):
  result = fit.fit(X, 3 * X**-alpha, form=LINE)
  assert result.parameters["A"] == pytest.approx(3, rel=1e-9)
  assert result.parameters["alpha"] == pytest.approx(alpha, rel=1e-9)
  assert result.good


def test_units_of_x_and_y_change_no_prediction():
  y = law(X, noise=0.01)
  plain = fit.fit(X, y, form=FALLING)
  scaled = fit.fit(1e6 * X, 1e-3 * y, form=FALLING)
  np.testing.assert_allclose(
    scaled.predict(1e6 * X), 1e-3 * plain.predict(X), rtol=1e-6
  )


def test_the_objective_is_the_sum_of_huber_losses_of_log_residuals():
  y = law(X, noise=0.01)
  delta = 1e-2
  result = fit.fit(X, y, form=FALLING, delta=delta)
  size = np.abs(np.log(y) - np.log(result.predict(X)))
  huber = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
  assert result.objective == pytest.approx(huber.sum(), rel=1e-9)


def test_the_optimum_is_no_worse_than_the_truth_or_anything_near_it():
  y = law(X, noise=0.01)
  result = fit.fit(X, y, form=FALLING)
  near = np.random.default_rng(1).normal(size=(2_000, 3)) * 0.05
  theta = result.theta_i + np.concatenate([np.zeros((1, 3)), near])
  data = result.data
  size = np.abs(data.z_n - FALLING.log_y(theta, data.u_nk))
  huber = np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum(-1)
  assert result.objective <= huber.min() * (1 + 1e-9)
  assert result.gradient_norm < 1e-4


def test_intervals_cover_the_truth_as_often_as_they_say():
  inside = dict.fromkeys(TRUE, 0)
  estimates = []
  replicates = 150
  for seed in range(replicates):
    y = law(X, noise=0.005, seed=seed)
    result = fit.fit(X, y, form=FALLING, starts=9)
    estimates.append(result.parameters["alpha"])
    for name, (low, high) in result.intervals.items():
      inside[name] += low <= TRUE[name] <= high
  for name, count in inside.items():
    assert 0.85 <= count / replicates <= 0.96, name
  bias = abs(np.mean(estimates) - TRUE["alpha"])
  assert bias < 0.5 * np.std(estimates)


def test_one_outlier_in_twenty_moves_the_exponent_by_less_than_half_an_error():
  x = np.geomspace(1e3, 1e6, 40)
  y = law(x, noise=0.005)
  clean = fit.fit(x, y, form=FALLING)
  y[[7, 29]] *= (1.5, 0.6)
  spoiled = fit.fit(x, y, form=FALLING)
  moved = abs(spoiled.parameters["alpha"] - clean.parameters["alpha"])
  assert moved < 0.5 * clean.standard_errors["alpha"]


def test_a_range_too_short_to_show_the_floor_is_said():
  x = np.geomspace(1e3, 2e3, 10)
  result = fit.fit(x, law(x, noise=0.005), form=FALLING, x_name="params")
  assert not result.good
  assert "E" in result.vague
  assert any(w.startswith("not identified: E") for w in result.warnings)
  assert any("params spans 0.30 decades" in w for w in result.warnings)
  low, high = result.intervals["E"]
  assert low < 0.2
  assert high > 2 * TRUE["E"]


def test_a_floor_that_is_not_there_is_not_reported():
  y = 5 * X**-0.2 * np.exp(0.01 * np.random.default_rng(0).normal(size=len(X)))
  result = fit.fit(X, y, form=FALLING)
  assert not result.good
  assert "E" in result.vague or result.at_bound


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_the_exponent_of_an_input_that_hardly_varies_is_never_good(noise):
  n, d = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1.0233e9, 4))
  x = np.stack([n.ravel(), d.ravel()], axis=1)
  draw = np.random.default_rng(0).normal(size=len(x))
  y = 5 * x[:, 0] ** -0.1 * np.exp(noise * draw)
  result = fit.fit(x, y, form=Power(("params", "tokens")))
  assert not result.good
  assert any("tokens spans 0.01 decades" in w for w in result.warnings)
  # Without noise beta is known to every digit, of these runs alone.
  assert ("beta" in result.vague) == (noise > 0)


def test_an_exponent_near_zero_is_identified_by_a_narrow_interval():
  noise = np.random.default_rng(0).normal(size=len(X))
  result = fit.fit(X, 3 * np.exp(0.005 * noise), form=LINE)
  assert abs(result.parameters["alpha"]) < 0.01
  assert result.vague == ()
  wild = fit.fit(X, 3 * np.exp(2 * noise), form=LINE)
  assert "alpha" in wild.vague


@pytest.mark.parametrize(
  "y",
  [
    [7.0, 7.1, 7.2, 7.3, 7.5],  # rises
    [7.0, 7.001, 7.0005, 7.0001, 7.0002],  # flat
    [8.0, 7.2, 7.0, 7.3, 7.9],  # turns
    [7.0, 8.0, 7.0, 8.0, 7.0],  # no law at all
  ],
)
def test_points_that_are_no_falling_law_are_never_called_good(y):
  x = np.array([1e3, 3e3, 1e4, 4e4, 1e5])
  result = fit.fit(x, np.array(y), form=FALLING)
  assert not result.good
  assert len(result.warnings) > 1


def test_a_metric_that_falls_is_never_called_a_good_rise():
  result = fit.fit(
    X[:6], np.array([0.06, 0.055, 0.052, 0.05, 0.047, 0.045]), form=RISING
  )
  assert not result.good
  assert any("does not rise" in w for w in result.warnings)


def test_as_many_points_as_parameters_have_no_intervals():
  result = fit.fit(X[::5], law(X[::5]), form=FALLING)
  assert not result.good
  assert all(math.isnan(error) for error in result.standard_errors.values())
  assert any("nothing is left to judge it by" in w for w in result.warnings)
  assert result.to_dict()["intervals"] == {name: [None, None] for name in TRUE}


def test_a_fit_and_its_json_are_deterministic_and_finite():
  y = law(X, noise=0.01)
  one, two = (fit.fit(X, y, form=FALLING).to_dict() for _ in range(2))
  assert one == two
  json.dumps(one, allow_nan=False)


def test_predictions_come_with_intervals_that_widen_beyond_the_points():
  result = fit.fit(X, law(X, noise=0.005), form=FALLING)
  near, far = result.predict_interval(np.array([3e4, 1e9]))
  assert near[0] < result.predict(np.array([3e4]))[0] < near[1]
  assert far[1] - far[0] > 2 * (near[1] - near[0])


def test_a_long_table_needs_no_more_memory_than_its_starts_in_turn():
  x = np.geomspace(1e3, 1e7, 20_000)
  y = law(x, noise=0.01)
  tracemalloc.start()
  result = fit.fit(x, y, form=FALLING, starts=30)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert result.good
  # A start needs about 200 bytes a row; all at once they took 6,000.
  assert peak < 2_000 * len(x)


def test_a_fit_of_many_points_from_many_starts_takes_seconds_at_most():
  x = np.geomspace(1e3, 1e7, 240)
  started = time.perf_counter()
  fit.fit(x, law(x, noise=0.01), form=FALLING, starts=200)
  assert time.perf_counter() - started < 10

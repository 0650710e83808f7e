import numpy as np
import pytest
from surface_world import HOFFMANN, SURFACE, design, losses

from fmjax.scaling.fit import fit
from fmjax.scaling.laws import varpro
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.laws.noise import ALL_SQUARES
from fmjax.scaling.laws.surfaces import OverTraining

X = design(sizes=8, data_sizes=8)


def test_a_noise_free_surface_is_recovered_from_95_in_100_starts():
  result = varpro.fit(X, losses(X), form=SURFACE, starts=60)
  assert result.parameters == pytest.approx(HOFFMANN, rel=1e-6)
  assert result.agreement >= 0.95
  assert result.good


def test_a_curve_is_recovered():
  x = np.geomspace(1e3, 1e6, 12)
  result = varpro.fit(x, 1.7 + 40 * x**-0.35, form=PowerOffset(), starts=20)
  assert result.parameters == pytest.approx(
    {"E": 1.7, "A": 40, "alpha": 0.35}, rel=1e-6
  )
  assert result.good


@pytest.mark.parametrize(
  "form", [SURFACE, OverTraining()], ids=lambda f: f.name
)
def test_both_fitters_agree_where_there_are_no_outliers(form):
  y = losses(X, noise=0.005)
  projected = varpro.fit(X, y, form=form, starts=20)
  squares = fit(X, y, form=form, delta=ALL_SQUARES, starts=20)
  for name, error in squares.standard_errors.items():
    gap = projected.parameters[name] - squares.parameters[name]
    assert abs(gap) < 0.1 * error, name
  assert projected.gradient_norm < 1e-6


def test_its_optimum_is_no_worse_than_the_truth_or_anything_near_it():
  y = losses(X, noise=0.01)
  result = varpro.fit(X, y, form=SURFACE, starts=20)
  ratio_n = result.predict(X) / y
  assert result.objective == pytest.approx(((1 - ratio_n) ** 2).sum() / 2)
  near = np.random.default_rng(0).normal(size=(1_000, 5)) * 0.02
  data = result.data
  for theta_i in result.theta_i + near:
    log_y_n = SURFACE.log_y(theta_i[None], data.u_nk)[0]
    worse = ((1 - np.exp(log_y_n - data.z_n)) ** 2).sum() / 2
    assert worse >= result.objective


def test_a_term_that_is_not_there_is_zero_and_said_to_be():
  result = varpro.fit(X, 2 + 50 * X[:, 0] ** -0.3, form=SURFACE, starts=20)
  assert not result.good
  assert any("y does not fall with tokens" in w for w in result.warnings) or (
    {"B", "beta"} & {*result.vague}
  )

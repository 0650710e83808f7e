import numpy as np
import pytest
from surface_world import HOFFMANN, SURFACE, design, losses

from fmjax.scaling.fit import fit
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.trust.profile import profile

X = design(sizes=8, data_sizes=10)


@pytest.fixture(scope="module")
def law():
  return fit(X, losses(X, noise=0.002), form=SURFACE, starts=16)


@pytest.mark.parametrize("name", HOFFMANN)
def test_where_a_parameter_is_well_known_profile_and_covariance_agree(
  law, name
):
  found = profile(law, name)
  low, high = law.intervals[name]
  assert found.low == pytest.approx(low, abs=0.4 * (high - low))
  assert found.high == pytest.approx(high, abs=0.4 * (high - low))
  assert found.low < found.value < found.high
  assert found.value == pytest.approx(law.parameters[name])


def test_the_deviance_is_least_at_the_optimum_and_rises_to_both_sides(law):
  found = profile(law, "alpha")
  lowest = found.deviance_s.argmin()
  assert found.at_s[lowest] == pytest.approx(found.value, rel=0.01)
  assert (found.deviance_s > -1e-3).all()
  below = found.deviance_s[(found.at_s > 0.3) & (found.at_s < found.low)]
  assert (below > 1).all()


def test_a_floor_that_the_points_do_not_show_has_an_open_interval():
  x = np.geomspace(1e3, 2e3, 10)
  noise = np.random.default_rng(0).normal(size=10)
  y = (1.7 + 40 * x**-0.35) * np.exp(0.005 * noise)
  found = profile(fit(x, y, form=PowerOffset()), "E")
  assert found.low == 0
  assert 1.7 < found.high < 10


def test_profile_intervals_cover_the_truth_as_often_as_they_say():
  x = np.geomspace(1e3, 1e6, 12)
  inside = 0
  for seed in range(60):
    noise = np.random.default_rng(seed).normal(size=12)
    y = (1.7 + 40 * x**-0.35) * np.exp(0.005 * noise)
    found = profile(fit(x, y, form=PowerOffset(), starts=9), "alpha")
    inside += found.low <= 0.35 <= found.high
  assert 49 <= inside <= 58


def test_what_cannot_be_profiled_is_refused(law):
  with pytest.raises(ValueError, match="no parameter 'gamma': E, A, B"):
    profile(law, "gamma")
  x = np.geomspace(1e3, 1e6, 3)
  exact = fit(x, 1.7 + 40 * x**-0.35, form=PowerOffset())
  with pytest.raises(ValueError, match="no noise is left"):
    profile(exact, "E")

import dataclasses

import numpy as np
import pytest
import scipy.optimize
from surface_world import HOFFMANN, SURFACE, design, losses

from fmjax.data.schema import DataError
from fmjax.scaling.fit import fit
from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.laws.repeated import DataConstrained
from fmjax.scaling.laws.surfaces import OverTraining
from fmjax.scaling.trust import allocation

EXPONENT, LOG_PARAMS = allocation.chinchilla_optimum(HOFFMANN)
BUDGETS = np.geomspace(1e17, 1e21, 5)
MUENNIGHOFF = {
  "E": np.exp(0.6254804),
  "A": np.exp(6.255414),
  "B": np.exp(7.3049974),
  "alpha": 0.3526596,
  "beta": 0.3526596,
  "R_D": 15.387756,
  "R_N": 5.309743,
}


def best_params(compute):
  return np.exp(LOG_PARAMS + EXPONENT * np.log(compute))


def curves(half_width: float, *, points: int = 15, off: float = 1.0):
  """IsoFLOP curves, noise free, sampled evenly in log N about the optimum."""
  compute = np.repeat(BUDGETS, points)
  steps = np.tile(np.geomspace(1 / half_width, half_width, points), 5)
  params = off * steps * best_params(compute)
  x = np.stack([params, compute / (6 * params)], axis=1)
  return compute, params, losses(x)


def test_the_closed_form_is_the_lowest_point_of_the_surface():
  for compute in (1e17, 1e21, 3e24):

    def loss(log_n, compute=compute):
      n = np.exp(log_n)
      return evaluate(SURFACE, HOFFMANN, np.array([[n, compute / (6 * n)]]))[0]

    found = scipy.optimize.minimize_scalar(
      loss, bounds=np.log([1e6, 1e13]), method="bounded"
    )
    assert np.exp(found.x) == pytest.approx(best_params(compute), rel=1e-3)


@pytest.mark.parametrize(
  "half_width,bias", [(2, 0.33), (4, 1.32), (8, 2.99), (16, 5.37)]
)
def test_a_parabola_is_biased_the_more_the_wider_it_is_sampled(
  half_width, bias
):
  second = allocation.isoflop(*curves(half_width))
  found = 100 * (second.params(3e24) / best_params(3e24) - 1)
  print(f"half-width {half_width}: N* at 3e24 FLOPs off by {found:+.2f} %")
  assert found == pytest.approx(bias, abs=0.1)
  assert not second.warnings


def test_akima_is_biased_less_than_a_parabola():
  wide = curves(16)
  bias = {
    curve: abs(
      allocation.isoflop(*wide, curve=curve).params(3e24) / best_params(3e24)
      - 1
    )
    for curve in ("quadratic", "akima")
  }
  assert bias["akima"] < 0.2 * bias["quadratic"]


def test_three_approaches_agree_on_a_surface_without_noise():
  params = np.geomspace(1e6, 3e11, 60)
  compute = [np.geomspace(1e16, 1e24, 300) for _ in params]
  loss = [
    losses(np.stack([np.full(300, n), c / (6 * n)], axis=1))
    for n, c in zip(params, compute, strict=True)
  ]
  first = allocation.envelope(compute, loss, params)
  second = allocation.isoflop(*curves(4))
  third = allocation.parametric(fit(design(), losses(design()), form=SURFACE))
  for each in (first, second, third):
    assert each.params_exponent == pytest.approx(EXPONENT, abs=0.01)
    assert each.params_exponent + each.tokens_exponent == 1
    assert each.params(1e20) == pytest.approx(best_params(1e20), rel=0.05)
    assert 6 * each.params(1e20) * each.tokens(1e20) == pytest.approx(1e20)
  assert third.params_exponent == pytest.approx(0.28 / 0.62, rel=1e-6)
  told = allocation.compare([first, second, third])
  assert [each["approach"][0] for each in told["approaches"]] == ["1", "2", "3"]
  assert told["warnings"] == []


def test_approaches_2_and_3_that_disagree_get_a_warning():
  third = allocation.parametric(fit(design(), losses(design()), form=SURFACE))
  for gap, warned in ((0.049, 0), (0.051, 1), (-0.051, 1)):
    second = dataclasses.replace(
      third,
      approach="2: isoFLOP, quadratic",
      params_exponent=third.params_exponent + gap,
    )
    warnings = allocation.compare([second, third])["warnings"]
    assert len(warnings) == warned
    assert all("trust neither beyond the points" in w for w in warnings)


def test_a_budget_without_a_minimum_is_left_out_and_said():
  compute, params, loss = curves(4)
  keep = (compute > 2e17) | (params > 1.5 * best_params(compute))
  second = allocation.isoflop(compute[keep], params[keep], loss[keep])
  assert len(second.compute_b) == 4
  assert "no minimum between the smallest and the largest" in second.warnings[0]
  with pytest.raises(DataError, match="0 of the budgets show a minimum"):
    allocation.isoflop(*curves(2, off=4.0))
  with pytest.raises(DataError, match="0 of the budgets"):
    allocation.isoflop(*curves(2, off=4.0), curve="akima")
  with pytest.raises(DataError, match="0 of the budgets"):
    allocation.isoflop(*curves(2, points=2))


def test_an_envelope_that_no_middle_run_touches_is_refused():
  compute = [np.geomspace(1e18, 1e19, 50)] * 2
  loss = [np.linspace(4, 3, 50), np.linspace(5, 3.5, 50)]
  with pytest.raises(DataError, match="add sizes, or longer runs"):
    allocation.envelope(compute, loss, [1e7, 1e8])


def test_the_optimum_of_a_law_that_is_no_good_fit_says_so():
  x = design(sizes=3, data_sizes=3)
  law = fit(x, losses(x, noise=0.3), form=SURFACE)
  assert not law.good
  assert "no good fit" in allocation.parametric(law).warnings[0]
  with pytest.raises(ValueError, match="no closed form"):
    allocation.parametric(fit(x, losses(x), form=OverTraining()))


def test_with_enough_unique_data_the_optimum_is_chinchillas():
  known = {name: MUENNIGHOFF[name] for name in SURFACE.parameters}
  exponent, log_params = allocation.chinchilla_optimum(known)
  best = allocation.with_unique_data(MUENNIGHOFF, compute=1e21, unique=1e12)
  expected = np.exp(log_params + exponent * np.log(1e21))
  assert best.params == pytest.approx(expected, rel=1e-6)
  assert best.epochs < 1


def test_with_few_unique_data_it_is_better_to_train_longer_than_bigger():
  known = {name: MUENNIGHOFF[name] for name in SURFACE.parameters}
  exponent, log_params = allocation.chinchilla_optimum(known)
  free = np.exp(log_params + exponent * np.log(1e23))
  best = allocation.with_unique_data(MUENNIGHOFF, compute=1e23, unique=25e9)
  assert best.epochs > 4
  assert best.params < free
  assert 6 * best.params * best.tokens == pytest.approx(1e23)
  # No size of a fine grid does better.
  params = np.geomspace(1e8, 1e12, 4_000)
  x = np.stack([params, 1e23 / (6 * params), np.full(4_000, 25e9)], axis=1)
  assert best.loss <= evaluate(DataConstrained(), MUENNIGHOFF, x).min() + 1e-12

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import ConfigError
from fmjax.scaling import forms
from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.laws.law import natural_values

TWO = ("params", "tokens")
THREE = (*TWO, "unique")
# Every law, with as many inputs as it may have.
LAWS = {
  "power": forms.form("power"),
  "power of two": forms.form("power", inputs=TWO),
  "power of three": forms.form("power", inputs=THREE),
  "power_offset": forms.form("power_offset"),
  "rising power_offset": forms.form("power_offset", rising=True),
  "broken_power_1": forms.form("broken_power_1"),
  "broken_power_2": forms.form("broken_power_2"),
  "quadratic": forms.form("quadratic"),
  "quadratic of two": forms.form("quadratic", inputs=TWO),
  "chinchilla": forms.form("chinchilla", inputs=TWO),
  "over_training": forms.form("over_training", inputs=TWO),
  "data_constrained": forms.form("data_constrained", inputs=THREE),
}
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
# Muennighoff et al. 2023, fitted to their runs.
MUENNIGHOFF = {
  "E": np.exp(0.6254804),
  "A": np.exp(6.255414),
  "B": np.exp(7.3049974),
  "alpha": 0.3526596,
  "beta": 0.3526596,
  "R_D": 15.387756,
  "R_N": 5.309743,
}
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def logs(law, seed: int = 0, points: int = 20) -> np.ndarray:
  generator = np.random.default_rng(seed)
  return generator.uniform(-3, 3, size=(points, len(law.inputs)))


@each_law
@pytest.mark.parametrize("seed", range(3))
def test_jacobians_equal_finite_differences(law, seed):
  u = logs(law, seed)
  theta = law.starts(u, 60)[seed::20]
  exact = law.jacobian(theta, u)
  for i in range(theta.shape[1]):
    step = np.zeros(theta.shape[1])
    step[i] = 1e-6
    numeric = (law.log_y(theta + step, u) - law.log_y(theta - step, u)) / 2e-6
    np.testing.assert_allclose(exact[..., i], numeric, rtol=1e-5, atol=1e-6)


@each_law
@settings(deadline=None, max_examples=20)
@given(
  shift=st.lists(st.floats(-20, 20), min_size=3, max_size=3),
  shift_y=st.floats(-5, 5),
  start=st.integers(0, 40),
)
def test_natural_parameters_are_those_of_the_equation_in_any_units(
  law, shift, shift_y, start
):
  u = logs(law)
  theta = law.starts(u, 200)[start % len(law.starts(u, 200))]
  shift_k = law.shift(u + np.array(shift)[: u.shape[1]])
  shift_k = shift_k - law.shift(u) + 0.0
  value, _ = law.natural(theta, shift_k=shift_k, shift_y=shift_y)
  y = evaluate(law, natural_values(law, value), np.exp(u + shift_k))
  expected = np.exp(law.log_y(theta[None], u)[0] + shift_y)
  np.testing.assert_allclose(y, expected, rtol=1e-6)


@each_law
def test_the_derivative_of_natural_parameters_equals_finite_differences(law):
  u = logs(law)
  shift_k = law.shift(u + 10.0)
  theta = law.starts(u, 200)[17]
  _, slope = law.natural(theta, shift_k=shift_k, shift_y=1.0)
  for i in range(len(theta)):
    step = np.zeros(len(theta))
    step[i] = 1e-6
    above, _ = law.natural(theta + step, shift_k=shift_k, shift_y=1.0)
    below, _ = law.natural(theta - step, shift_k=shift_k, shift_y=1.0)
    numeric = (above - below) / 2e-6
    np.testing.assert_allclose(slope[:, i], numeric, rtol=1e-5, atol=1e-6)


def test_the_data_constrained_law_gives_the_number_of_its_paper():
  law = LAWS["data_constrained"]
  (loss,) = evaluate(law, MUENNIGHOFF, np.array([[6.34e9, 242e9, 25e9]]))
  assert loss == pytest.approx(2.2256440889984477, abs=1e-9)


def test_with_new_data_and_no_excess_parameters_nothing_is_constrained():
  constrained, surface = LAWS["data_constrained"], LAWS["chinchilla"]
  known = {name: MUENNIGHOFF[name] for name in surface.parameters}
  x = np.array([[1e8, 2e11, 2e11], [1e9, 1e11, 5e11]])
  np.testing.assert_allclose(
    evaluate(constrained, MUENNIGHOFF, x),
    evaluate(surface, known, x[:, :2]),
    rtol=1e-12,
  )


def test_repeated_tokens_are_worth_less_than_new_ones_and_more_than_none():
  law = LAWS["data_constrained"]
  once, repeated, fresh = evaluate(
    law,
    MUENNIGHOFF,
    np.array([[1e9, 25e9, 25e9], [1e9, 100e9, 25e9], [1e9, 100e9, 100e9]]),
  )
  assert fresh < repeated < once


def test_over_training_is_chinchilla_with_equal_exponents():
  eta, a, b = 0.17, 30.0, 50.0
  x = np.array(list(itertools.product([1e7, 1e8, 1e9], [1e9, 1e10, 1e12])))
  # C/M = 6·N² and C·M = 6·D².
  twin = {
    "E": 1.7,
    "A": a * 6**-eta,
    "B": b * 6**-eta,
    "alpha": 2 * eta,
    "beta": 2 * eta,
  }
  law = {"E": 1.7, "a": a, "b": b, "eta": eta}
  loss = evaluate(LAWS["over_training"], law, x)
  np.testing.assert_allclose(
    loss, evaluate(LAWS["chinchilla"], twin, x), rtol=1e-12
  )
  # And the equation as it is printed.
  compute, per_parameter = 6 * x[:, 0] * x[:, 1], x[:, 1] / x[:, 0]
  printed = 1.7 + (
    (a * per_parameter**eta + b * per_parameter**-eta) * compute**-eta
  )
  np.testing.assert_allclose(loss, printed, rtol=1e-12)


def test_a_broken_power_law_is_the_equation_of_its_paper():
  law = LAWS["broken_power_2"]
  p = {"a": 0.5, "b": 50.0, "c0": 0.1}
  p |= {"c1": 0.3, "d1": 1e4, "f1": 0.4, "c2": -0.2, "d2": 1e6, "f2": 0.6}
  x = np.geomspace(1e2, 1e9, 9)
  printed = p["b"] * x ** -p["c0"]
  for i in "12":
    c, d, f = (p[name + i] for name in "cdf")
    printed = printed * (1 + (x / d) ** (1 / f)) ** (-c * f)
  np.testing.assert_allclose(evaluate(law, p, x), p["a"] + printed, rtol=1e-12)


def test_one_law_belongs_to_every_name():
  for name in forms.FORMS:
    inputs = next(law.inputs for law in LAWS.values() if law.name == name)
    assert forms.form(name, inputs=inputs).name == name


@pytest.mark.parametrize(
  "name,inputs,rising,sentence",
  [
    ("chinchila", TWO, False, "did you mean 'chinchilla'"),
    ("chinchilla", ("params",), False, "params and tokens, not of params:"),
    ("power_offset", TWO, False, "is a law of params, not of params and token"),
    ("data_constrained", TWO, False, "of params and tokens and unique, not"),
    ("chinchilla", TWO, True, "falls to a floor, as a loss does; for a metric"),
  ],
)
def test_a_law_of_other_inputs_is_refused_in_one_sentence(
  name, inputs, rising, sentence
):
  with pytest.raises(ConfigError, match=sentence):
    forms.form(name, inputs=inputs, rising=rising)

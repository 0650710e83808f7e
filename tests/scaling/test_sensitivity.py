import json

import numpy as np
import pytest
from surface_world import EXPONENTS, SURFACE, design, losses

from fmjax.scaling.fit import fit
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.trust.bootstrap import bootstrap
from fmjax.scaling.trust.checklist import BY_AUTHOR, checklist
from fmjax.scaling.trust.sensitivity import sensitivity

X = design(sizes=6, data_sizes=8)


@pytest.fixture(scope="module")
def law():
  return fit(X, losses(X, noise=0.005), form=SURFACE, starts=16)


def test_every_choice_is_a_row_and_the_first_is_the_fit_itself(law):
  rows = sensitivity(law)
  assert rows[0]["choice"] == "as fitted"
  assert rows[0]["parameters"] == pytest.approx(law.parameters)
  assert set(rows[0]["moved"].values()) == {0.0}
  choices = " ".join(row["choice"] for row in rows)
  for words in ("Huber delta 0.1", "squares of log", "of y itself", "largest"):
    assert words in choices
  # On clean data no choice matters much.
  for row in rows:
    assert all(abs(row["moved"][name]) < 2.5 for name in EXPONENTS), row
  json.dumps(rows, allow_nan=False)


def test_with_an_outlier_the_choices_that_it_moves_stand_out():
  y = losses(X, noise=0.005)
  y[-1] *= 1.5
  rows = {row["choice"]: row for row in sensitivity(fit(X, y, form=SURFACE))}
  assert abs(rows["squares of log residuals"]["moved"]["alpha"]) > 1
  assert abs(rows["without the 1 largest residuals"]["moved"]["alpha"]) < 0.5
  assert rows["without the 1 largest residuals"]["points"] == len(X) - 1


def test_points_without_which_a_size_is_lost_are_not_left_out():
  x = np.repeat([1e3, 1e4, 1e5], [9, 9, 2])
  y = 2 + 30 * x**-0.4
  y *= np.exp(0.001 * np.random.default_rng(0).normal(size=20))
  y[-2:] *= (1.1, 0.9)
  law = fit(x, y, form=PowerOffset(), delta=1.0)
  choices = [row["choice"] for row in sensitivity(law)]
  assert "without the 1 largest residuals" in choices
  assert "without the 2 largest residuals" not in choices


def test_another_definition_of_the_parameters_is_a_row(law):
  total = np.stack([X[:, 0] + 3e8, X[:, 1]], axis=1)
  rows = sensitivity(law, definitions={"params with item tables": total})
  row = rows[-1]
  assert row["choice"] == "params with item tables"
  # Tables that do not scale make small models look large.
  assert row["moved"]["alpha"] > 3


def test_without_noise_nothing_is_measured_in_standard_errors():
  x = np.geomspace(1e3, 1e6, 3)
  exact = fit(x, 1.7 + 40 * x**-0.35, form=PowerOffset())
  assert set(sensitivity(exact)[1]["moved"].values()) == {None}


def test_the_checklist_answers_from_the_fit_and_leaves_the_rest_to_the_author(
  law,
):
  lines = checklist(law, clusters=12, refits=bootstrap(law, draws=20))
  text = "\n".join(lines)
  for fact in (
    "E + A·N^(-alpha) + B·D^(-beta)",
    "5 to 48 points, 43 left",
    "12 clusters",
    "delta 0.001",
    "16 fixed starts",
    "A good fit",
    "20 bootstrap draws of 48 clusters",
  ):
    assert fact in text, fact
  assert text.count("Not said: the author must.") == len(BY_AUTHOR)
  question = next(iter(BY_AUTHOR))
  said = checklist(law, answers={question: "Chinchilla's, against the line."})
  assert f"* {question} Chinchilla's, against the line." in said
  with pytest.raises(ValueError, match="is no question of the checklist"):
    checklist(law, answers={"Why?": "Because."})


def test_the_checklist_says_of_a_bad_fit_that_it_is_one():
  x = np.geomspace(1e3, 2e3, 10)
  law = fit(x, 5 * x**-0.2 + np.tile([0, 1e-3], 5), form=PowerOffset())
  assert not law.good
  assert any("Not a good fit" in line for line in checklist(law))

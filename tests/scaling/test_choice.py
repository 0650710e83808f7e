import json

import numpy as np
import pytest
from surface_world import SURFACE, design, losses

from fmjax.data.schema import DataError
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.laws.surfaces import OverTraining
from fmjax.scaling.trust.choice import leave_largest_out

X = design(sizes=8, data_sizes=6)
INPUTS = {"params": X[:, 0], "tokens": X[:, 1]}


def by_name(choice):
  return {each.form.name: each for each in choice.ranked}


def test_the_true_surface_predicts_the_largest_runs_better_than_the_nulls():
  y = losses(X, noise=0.002)
  choice = leave_largest_out(INPUTS, y, forms=[SURFACE], size="params", count=2)
  ranked = by_name(choice)
  assert choice.best is not None
  assert choice.best.form == SURFACE
  assert ranked["chinchilla"].error < 0.5 * ranked["power"].error
  assert len(choice.held_out) == 12
  assert X[choice.held_out, 0].min() > np.delete(X[:, 0], choice.held_out).max()
  print({name: f"{each.error:.3%}" for name, each in ranked.items()})


def test_a_non_monotone_surface_is_refused_by_the_forms_that_only_fall():
  # Too many parameters for the data: the loss turns, as on small catalogs.
  log_n = np.log(INPUTS["params"])
  y = 3 + 0.02 * (log_n - log_n.mean()) ** 2 + 50 * INPUTS["tokens"] ** -0.2
  y *= np.exp(0.002 * np.random.default_rng(0).normal(size=len(y)))
  choice = leave_largest_out(
    INPUTS, y, forms=[SURFACE, OverTraining()], size="params", count=2
  )
  ranked = by_name(choice)
  assert choice.best is not None
  assert choice.best.form.name == "quadratic"
  for name in ("chinchilla", "over_training"):
    assert "worse" in ranked[name].refused
    assert "than quadratic does" in ranked[name].refused
  json.dumps(choice.rows(), allow_nan=False)


def test_laws_that_noise_alone_parts_are_not_refused():
  for seed in range(5):
    choice = leave_largest_out(
      INPUTS, losses(X, noise=0.02, seed=seed), forms=[SURFACE], count=3
    )
    assert not by_name(choice)["chinchilla"].refused


def test_what_is_held_out_changes_no_fit():
  y = losses(X, noise=0.002)
  largest = np.unique(X[:, 0])[-1]
  other = np.where(X[:, 0] == largest, 2 * y, y)
  one, two = (
    by_name(
      leave_largest_out(INPUTS, each, forms=[SURFACE], size="params", count=1)
    )
    for each in (y, other)
  )
  for name in one:
    assert one[name].law is not None
    assert two[name].law is not None
    np.testing.assert_array_equal(one[name].law.theta_i, two[name].law.theta_i)
    assert two[name].error > one[name].error


def test_largest_is_by_compute_or_by_the_only_input_unless_said():
  choice = leave_largest_out(INPUTS, losses(X), forms=[], count=2)
  assert choice.size == "compute"
  assert X[choice.held_out].prod(1).min() == np.sort(np.unique(X.prod(1)))[-2]
  x = np.geomspace(1e3, 1e6, 8)
  curve = leave_largest_out(
    {"flops": x}, 1.7 + 40 * x**-0.35, forms=[PowerOffset(("flops",))]
  )
  assert curve.size == "flops"
  assert curve.held_out.tolist() == [6, 7]
  assert curve.best is not None
  assert curve.best.error < 1e-6


def test_too_few_points_refuse_a_law_or_the_question():
  x = np.geomspace(1e3, 1e6, 6)
  y = 1.7 + 40 * x**-0.35
  choice = leave_largest_out(
    {"params": x}, y, forms=[PowerOffset(("params",))], count=4
  )
  assert "2 rows cannot determine" in by_name(choice)["power_offset"].refused
  with pytest.raises(DataError, match="without the 6 largest no point is left"):
    leave_largest_out({"params": x}, y, forms=[], count=6)
  with pytest.raises(ValueError, match="known: params"):
    leave_largest_out({"params": x}, y, forms=[], size="tokens")

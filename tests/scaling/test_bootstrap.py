import numpy as np
import pytest
from surface_world import HOFFMANN, SURFACE, design, losses

from fmjax.scaling.fit import fit, search
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.laws.law import natural_values
from fmjax.scaling.laws.surfaces import OverTraining
from fmjax.scaling.trust.bootstrap import bootstrap

X = design()
NOISE = 0.005


@pytest.fixture(scope="module")
def law():
  return fit(X, losses(X, noise=NOISE), form=SURFACE, starts=16)


def test_resampled_points_know_as_much_as_the_covariance(law):
  refits = bootstrap(law, draws=300)
  for name, error in refits.standard_errors().items():
    assert error == pytest.approx(law.standard_errors[name], rel=0.25)
  for name, (low, high) in refits.intervals().items():
    assert low < law.parameters[name] < high


def test_a_refit_is_the_optimum_of_its_resampled_points(law):
  refits = bootstrap(law, draws=6)
  drawn = refits.parameters()
  for draw, weight_n in enumerate(refits.weight_sn):
    # The same points, drawn as often, fitted from 200 starts.
    rows = np.repeat(np.arange(len(X)), weight_n.astype(int))
    again = fit(X[rows], law.data.y_n[rows], form=SURFACE)
    for name, value in again.parameters.items():
      assert drawn[name][draw] == pytest.approx(value, rel=1e-4)


def test_trunks_drawn_whole_know_less_than_their_points_drawn_apart():
  # Eight decay branches of each trunk share its luck.
  sizes = np.geomspace(1e4, 1e7, 30)
  trunk = np.repeat(np.arange(30), 8)
  luck = 0.01 * np.random.default_rng(0).normal(size=30)
  own = 0.001 * np.random.default_rng(1).normal(size=240)
  x = sizes[trunk]
  y = (1.7 + 40 * x**-0.35) * np.exp(luck[trunk] + own)
  law = fit(x, y, form=PowerOffset())
  apart = bootstrap(law, draws=300)
  whole = bootstrap(law, cluster=trunk, draws=300)
  assert (apart.clusters, whole.clusters) == (240, 30)
  ratios = {
    name: error / apart.standard_errors()[name]
    for name, error in whole.standard_errors().items()
  }
  print(f"clustered / naive standard errors: {ratios}")
  # All of the noise is shared by eight: its errors are sqrt(8) = 2.8 larger.
  for ratio in ratios.values():
    assert 2.0 < ratio < 4.0


def test_points_of_a_cluster_come_and_go_together(law):
  cluster = np.array([f"trunk {i % 40}" for i in range(len(X))])
  refits = bootstrap(law, cluster=cluster, draws=20)
  for weight_n in refits.weight_sn:
    for label in np.unique(cluster):
      assert len(set(weight_n[cluster == label])) == 1
    assert weight_n.sum() == len(X)


def test_the_same_seed_gives_the_same_refits_and_another_one_others(law):
  one, two, other = (bootstrap(law, draws=5, seed=s) for s in (0, 0, 1))
  np.testing.assert_array_equal(one.theta_si, two.theta_si)
  assert not np.array_equal(one.theta_si, other.theta_si)


def test_a_new_run_is_less_certain_than_the_law_and_covered_as_often_as_said(
  law,
):
  refits = bootstrap(law, draws=300)
  inner = refits.predict_interval(X)
  outer = refits.predict_interval(X, new_run=True)
  covariance = law.predict_interval(X, new_run=True)
  assert (outer[:, 0] < inner[:, 0]).all()
  assert (outer[:, 1] > inner[:, 1]).all()
  for seed in range(1, 6):
    fresh = losses(X, noise=NOISE, seed=seed)
    for ends in (outer, covariance):
      inside = (ends[:, 0] < fresh) & (fresh < ends[:, 1])
      assert 0.83 < inside.mean() < 0.97


def test_few_clusters_are_said_to_be_few():
  x = np.geomspace(1e4, 1e7, 12)
  y = 1.7 + 40 * x**-0.35
  y *= np.exp(0.005 * np.random.default_rng(0).normal(size=12))
  law = fit(x, y, form=PowerOffset())
  refits = bootstrap(law, cluster=np.arange(12) // 3, draws=50)
  assert any("4 clusters are too few" in fact for fact in refits.warnings)


def test_draws_that_hold_too_few_points_are_left_out_and_said():
  x = np.geomspace(1e4, 1e7, 12)
  y = 1.7 + 40 * x**-0.35
  y *= np.exp(0.005 * np.random.default_rng(0).normal(size=12))
  law = fit(x, y, form=PowerOffset())
  # Of two clusters, one draw in four holds the first alone: two points.
  refits = bootstrap(law, cluster=np.arange(12) > 1, draws=200)
  assert 25 < refits.dropped < 75
  assert len(refits.theta_si) == 200 - refits.dropped
  assert any("too few distinct points" in fact for fact in refits.warnings)


def test_draws_that_do_not_show_every_parameter_are_left_out():
  # Three sizes: of three trunks, seven draws in nine hold two sizes or one.
  x = design(sizes=3, data_sizes=8)
  law = fit(x, losses(x, noise=NOISE), form=SURFACE, starts=16)
  refits = bootstrap(law, cluster=x[:, 0], draws=180)
  assert 120 < refits.dropped < 160
  for weight_n in refits.weight_sn:
    assert len(np.unique(x[weight_n > 0, 0])) == 3
  assert refits.to_dict()["dropped"] == refits.dropped
  # Two sizes and two lengths: four points for four parameters, in vain.
  x = design(sizes=2, data_sizes=3)
  law = fit(x, losses(x, noise=NOISE), form=OverTraining(), starts=16)
  refits = bootstrap(law, cluster=x[:, 1], draws=90)
  for weight_n in refits.weight_sn:
    assert len(np.unique(x[weight_n > 0, 1])) == 3


def test_a_few_draws_left_out_are_counted_without_a_warning(law):
  x = design(sizes=6, data_sizes=8)
  small = fit(x, losses(x, noise=NOISE), form=SURFACE, starts=16)
  refits = bootstrap(small, cluster=x[:, 0], draws=400)
  assert 0 < refits.dropped <= 40
  assert not any("left out" in fact for fact in refits.warnings)
  assert bootstrap(law, draws=20).dropped == 0


def test_without_noise_every_refit_is_the_law():
  law = fit(X, losses(X), form=SURFACE, starts=16)
  refits = bootstrap(law, draws=20)
  for name, (low, high) in refits.intervals().items():
    assert low == pytest.approx(HOFFMANN[name], rel=1e-6)
    assert high == pytest.approx(HOFFMANN[name], rel=1e-6)


def test_searches_end_where_the_law_is(law):
  theta_si, objective_s = search(SURFACE, law.data, delta=law.delta, starts=16)
  value_i, _ = SURFACE.natural(
    theta_si[objective_s.argmin()],
    shift_k=law.data.shift_k,
    shift_y=law.data.shift_y,
  )
  assert natural_values(SURFACE, value_i) == pytest.approx(
    law.parameters, rel=1e-5
  )

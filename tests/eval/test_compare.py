import dataclasses

import numpy as np
import pytest
from test_metrics import make_ranked

from fmjax.config import ConfigError
from fmjax.eval.compare import compare
from fmjax.eval.metrics import MetricError, query_values

_RANDOM = np.random.default_rng(0)
_RANK = _RANDOM.integers(1, 20, 300)


def test_a_run_does_not_differ_from_itself():
  ranked = make_ranked(_RANK)
  result = compare(ranked, ranked)
  assert (result.difference, result.interval) == (0, (0, 0))
  assert not result.separates


def test_a_small_but_constant_gain_separates_though_the_intervals_overlap():
  worse, better = make_ranked(_RANK + 1), make_ranked(_RANK)
  result = compare(better, worse, metric="mrr")
  assert result.separates
  assert result.interval[0] <= result.difference <= result.interval[1]
  expected = query_values(better, "mrr") - query_values(worse, "mrr")
  assert result.difference == pytest.approx(expected.mean())


def test_swapping_the_runs_negates_the_difference():
  one = make_ranked(_RANK)
  other = make_ranked(_RANDOM.permutation(_RANK))
  forth, back = compare(one, other), compare(other, one)
  assert forth.difference == pytest.approx(-back.difference, abs=1e-12)
  np.testing.assert_allclose(forth.interval, [-x for x in back.interval[::-1]])


def test_the_same_seed_gives_the_same_interval():
  one = make_ranked(_RANK)
  other = make_ranked(_RANDOM.permutation(_RANK))
  assert compare(one, other, seed=3) == compare(one, other, seed=3)
  assert compare(one, other, seed=3) != compare(one, other, seed=4)


def test_seeds_are_averaged_before_users_are_resampled():
  seeds = [make_ranked(_RANDOM.permutation(_RANK)) for _ in range(3)]
  other = make_ranked(_RANK)
  values = np.mean([query_values(run, "ndcg@10") for run in seeds], axis=0)
  result = compare(seeds, other)
  assert result.first == pytest.approx(values.mean())
  single = compare(seeds[0], other)
  width = result.interval[1] - result.interval[0]
  assert width < single.interval[1] - single.interval[0]


def test_a_query_of_weight_two_counts_as_two_and_one_of_none_as_none():
  weight_n = _RANDOM.integers(0, 3, len(_RANK))
  one, other = make_ranked(_RANK), make_ranked(_RANDOM.permutation(_RANK))
  result = compare(one, other, weight_n=weight_n.astype(float))
  gain = query_values(one, "ndcg@10") - query_values(other, "ndcg@10")
  assert result.difference == pytest.approx(np.average(gain, weights=weight_n))
  assert result.users == (weight_n > 0).sum()
  kept = weight_n > 0
  alone = compare(
    one.where(kept), other.where(kept), weight_n=weight_n[kept].astype(float)
  )
  assert alone.interval == result.interval


def test_weights_of_few_users_give_an_interval_those_of_nobody_a_sentence():
  ranked = make_ranked(_RANK), make_ranked(_RANK + 1)
  weight_n = np.zeros(len(_RANK))
  with pytest.raises(ConfigError, match="have the weight 0"):
    compare(*ranked, weight_n=weight_n)
  weight_n[3] = 0.5
  assert np.isfinite(compare(*ranked, weight_n=weight_n).interval).all()


def test_users_with_several_queries_are_drawn_whole():
  user = np.repeat(np.arange(100), 3)
  one, other = make_ranked(_RANK, user), make_ranked(_RANK + 2, user)
  result = compare(one, other)
  assert (result.users, result.queries) == (100, 300)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"split": "validation"}, "split is 'test' in one and 'validation'"),
    ({"seen_filtered": False}, "seen_filtered is True"),
    ({"data_checksum": "other"}, "data_checksum is 'c0ffee'"),
    ({"item": np.full(300, 2, np.int32)}, "item of query 0 is 1 in one and 2"),
  ],
)
def test_runs_that_were_not_asked_the_same_are_refused(changes, message):
  ranked = make_ranked(_RANK)
  with pytest.raises(ConfigError, match=message):
    compare(ranked, dataclasses.replace(ranked, **changes))


def test_runs_with_different_numbers_of_queries_are_refused():
  with pytest.raises(ConfigError, match="300 in one, 299 in the other"):
    compare(make_ranked(_RANK), make_ranked(_RANK[1:]))


def test_an_nll_that_is_not_finite_is_refused():
  ranked = make_ranked(_RANK)
  broken = dataclasses.replace(ranked, nll=np.full(300, np.nan))
  with pytest.raises(MetricError, match="not finite"):
    compare(ranked, broken, metric="nll")


def test_no_query_is_refused():
  with pytest.raises(ConfigError, match="nothing to compare"):
    compare(make_ranked([]), make_ranked([]))

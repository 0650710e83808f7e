import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fmjax.config import ConfigError
from fmjax.data.schema import DataError
from fmjax.eval import metrics
from fmjax.eval.ranked import Ranked, from_parquet


def make_ranked(rank, user=None, **changes):
  n = len(rank)
  user = np.arange(n) if user is None else np.asarray(user)
  history = np.zeros(n, np.int32)
  for place in range(1, n):
    if user[place] == user[place - 1]:
      history[place] = history[place - 1] + 1
  columns = {
    "user": user.astype(np.int32),
    "history_length": history,
    "item": np.ones(n, np.int32),
    "time_s": np.arange(n, dtype=np.int32),
    "rank": np.asarray(rank, np.int32),
    "nll": np.full(n, 2.5, np.float32),
    "train_count": np.zeros(n, np.int32),
    "top10_nk": np.tile(np.arange(10, dtype=np.int32), (n, 1)),
    "catalog_items": 90,
    "split": "test",
    "targets": "first",
    "seen_filtered": True,
    "data_checksum": "c0ffee",
  }
  return Ranked(**{**columns, **changes})


def test_metrics_of_known_ranks_are_their_definitions():
  result = metrics.summary(make_ranked([1, 3, 10, 11, 1000]))
  discount = np.log2([2, 4, 11, 12])
  assert result["hr@5"] == pytest.approx(2 / 5)
  assert result["hr@10"] == pytest.approx(3 / 5)
  assert result["hr@100"] == pytest.approx(4 / 5)
  assert result["ndcg@10"] == pytest.approx(sum(1 / discount[:3]) / 5)
  assert result["ndcg@100"] == pytest.approx(sum(1 / discount) / 5)
  assert result["mrr"] == pytest.approx(
    (1 + 1 / 3 + 1 / 10 + 1 / 11 + 1 / 1000) / 5
  )
  assert result["nll"] == pytest.approx(2.5)
  # Row 0 means "no candidate", so items 1 to 9 of 90 are covered.
  assert result["coverage@10"] == pytest.approx(9 / 90)
  assert (result["queries"], result["users"]) == (5, 5)


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200)), min_size=1),
  st.integers(0, 20),
)
@hypothesis.settings(deadline=None)
def test_totals_of_parts_add_up_to_the_whole(queries, cut):
  user, rank = np.array(sorted(queries)).T
  ranked = make_ranked(rank, user)
  first = np.arange(len(rank)) < cut
  parts = [ranked.where(first), ranked.where(~first)]
  for metric in metrics.MEANS:
    whole = metrics.query_values(ranked, metric)
    pieces = [metrics.query_values(part, metric).sum() for part in parts]
    assert whole.sum() == pytest.approx(sum(pieces))
    assert metrics.by_user(user, whole).sum() == pytest.approx(whole.sum())


def test_intervals_contain_the_mean_and_are_the_same_for_the_same_seed():
  rank = np.random.default_rng(0).integers(1, 30, 400)
  ranked = make_ranked(rank, np.repeat(np.arange(200), 2))
  result = metrics.summary(ranked, draws=200, seed=7)
  for metric in metrics.MEANS:
    low, high = result[f"{metric}_ci"]
    assert low <= result[metric] <= high
  assert result == metrics.summary(ranked, draws=200, seed=7)
  assert result != metrics.summary(ranked, draws=200, seed=8)


def test_the_interval_has_the_width_of_the_normal_approximation():
  hit = np.random.default_rng(0).random(2_000) < 0.2
  ranked = make_ranked(np.where(hit, 1, 50))
  low, high = metrics.summary(ranked)["hr@10_ci"]
  expected = 2 * 1.96 * hit.std() / np.sqrt(len(hit))
  assert high - low == pytest.approx(expected, rel=0.1)


def test_users_are_resampled_not_their_queries():
  hit = np.random.default_rng(0).random(100) < 0.5
  rank = np.repeat(np.where(hit, 1, 50), 25)
  alone = metrics.summary(make_ranked(rank))
  clustered = metrics.summary(make_ranked(rank, np.repeat(np.arange(100), 25)))
  assert clustered["hr@10"] == alone["hr@10"]
  width = {
    name: result["hr@10_ci"][1] - result["hr@10_ci"][0]
    for name, result in {"alone": alone, "clustered": clustered}.items()
  }
  # 25 equal answers a user are worth one: √25 times the width.
  assert width["clustered"] == pytest.approx(5 * width["alone"], rel=0.15)


@pytest.mark.parametrize("nll", [np.nan, np.inf])
def test_an_nll_that_is_not_finite_is_refused_not_left_out(nll):
  ranked = make_ranked([1, 2], nll=np.array([1, nll], np.float32))
  for measure in (metrics.means, metrics.summary):
    with pytest.raises(metrics.MetricError, match=f"nll is {nll} for 1 of 2 "):
      measure(ranked)


def shown_to(random, users):
  """Ten of 400 items for each user, some items far more often."""
  weight = 1 / np.arange(1, 401)
  top = [
    random.choice(400, 10, replace=False, p=weight / weight.sum()) + 1
    for _ in range(users)
  ]
  return np.array(top, np.int32)


def test_the_interval_of_coverage_is_the_jackknife_by_definition():
  top10_nk = shown_to(np.random.default_rng(0), 60)
  top10_nk[::7, 5:] = 0  # fewer candidates than ten
  user = np.repeat(np.arange(30), 2)
  ranked = make_ranked(np.ones(60), user, top10_nk=top10_nk, catalog_items=400)
  without = np.array(
    [metrics.coverage(ranked.where(user != left)) for left in range(30)]
  )
  error = np.sqrt(29 / 30 * ((without - without.mean()) ** 2).sum())
  value = metrics.coverage(ranked)
  low, high = metrics.summary(ranked, draws=10)["coverage@10_ci"]
  assert [low, high] == pytest.approx(
    [value - 1.96 * error, value + 1.96 * error]
  )


def test_the_interval_of_coverage_holds_what_other_users_would_give():
  random = np.random.default_rng(1)
  draws = [
    make_ranked(np.ones(80), top10_nk=shown_to(random, 80), catalog_items=400)
    for _ in range(200)
  ]
  value = np.array([metrics.coverage(ranked) for ranked in draws])
  ends = np.array([metrics.coverage_interval(ranked) for ranked in draws])
  assert ((ends[:, 0] <= value) & (value <= ends[:, 1])).all()
  covered = (ends[:, 0] <= value.mean()) & (value.mean() <= ends[:, 1])
  assert covered.mean() > 0.93
  # Wide, but not vacuous.
  width = (ends[:, 1] - ends[:, 0]).mean()
  assert width < 2.5 * 2 * 1.96 * value.std()


def test_no_query_gives_no_metric():
  assert metrics.summary(make_ranked([])) == {"queries": 0, "users": 0}


@pytest.mark.parametrize("name", ["ndgc@10", "ndcg", "hr@ten", "mrr@10"])
def test_a_mistyped_metric_is_refused_with_a_suggestion(name):
  with pytest.raises(ConfigError, match=f"no metric '{name}'; "):
    metrics.query_values(make_ranked([1]), name)


def test_ranks_survive_parquet(tmp_path):
  ranked = make_ranked([4, 5, 6], [3, 3, 8])
  ranked.to_parquet(tmp_path / "ranks.parquet")
  loaded = from_parquet(tmp_path / "ranks.parquet")
  for field in dataclasses.fields(Ranked):
    value, again = getattr(ranked, field.name), getattr(loaded, field.name)
    np.testing.assert_array_equal(value, again, strict=True)


def test_a_file_without_ranks_is_refused_by_name(tmp_path):
  with pytest.raises(DataError, match=r"ranks\.parquet is absent"):
    from_parquet(tmp_path / "ranks.parquet")
  (tmp_path / "ranks.parquet").write_bytes(b"PAR1")
  with pytest.raises(DataError, match="evaluate the run again"):
    from_parquet(tmp_path / "ranks.parquet")

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from test_timeline import make_timeline

from fmjax.config import LeaveLastOut, MovieTweetings
from fmjax.data.prepare import prepare, prepare_log
from fmjax.data.windows import evaluation_batches
from fmjax.eval.baselines import (
  WINDOWS_DAYS,
  Ordered,
  Scores,
  baselines,
  follower_counter,
  rank_all,
)
from fmjax.eval.metrics import means, summary
from fmjax.eval.rank import rank
from fmjax.eval.timeline import Queries, timeline

_DAY_S = 86_400


@st.composite
def orderings(draw):
  v = draw(st.sampled_from([2, 5, 30]))  # few shapes: each compiles anew
  n = 3
  items = st.integers(1, v - 1)
  return (
    np.array([0] + [draw(st.integers(0, 4)) for _ in range(v - 1)]),
    np.array([draw(items) for _ in range(n)]),
    [sorted(draw(st.sets(items, max_size=20))) for _ in range(n)],
  )


@hypothesis.given(orderings())
@hypothesis.settings(deadline=None)
def test_baselines_rank_and_filter_exactly_as_models_are_ranked(ordering):
  score_v, target, seen = ordering
  n, v = len(target), len(score_v)
  seen_nw = np.full((n, 20), -1, np.int32)
  for query, items in enumerate(seen):
    seen_nw[query, : len(items)] = items
  scores_nv = np.tile(score_v.astype(np.float32), (n, 1))
  scores_nv[:, 0] = -np.inf

  found, top_nk = Ordered(score_v).rank(
    target,
    seen_query=np.repeat(np.arange(n), [len(items) for items in seen]),
    seen_item=np.array([i for items in seen for i in items], np.int64),
  )

  assert found.tolist() == rank(scores_nv, target, seen_nw=seen_nw).tolist()
  for query, items in enumerate(seen):
    left_out = [item for item in items if item != target[query]]
    scores_nv[query, left_out] = -np.inf
  best_nk, item_nk = jax.lax.top_k(scores_nv, min(10, v))
  expected_nk = np.zeros((n, 10), np.int64)
  expected_nk[:, : min(10, v)] = np.where(best_nk > -np.inf, item_nk, 0)
  assert top_nk.tolist() == expected_nk.tolist()


def make_queries(log, user, history_length):
  place = log.offset[user] + history_length
  return Queries(
    user=np.asarray(user),
    history_length=np.asarray(history_length),
    item=log.item[place],
    time_s=log.time_s[place],
  )


def test_each_query_is_ranked_by_the_scores_of_its_own_key():
  log = make_timeline([[(1, True), (2, True)], [(3, True), (2, True)]])
  queries = make_queries(log, np.array([0, 1]), np.array([1, 1]))
  half = np.array([0, 0.25, 0.5, 0.25])
  scores = {
    7: Scores(np.array([0, 3, 2, 1]), half),
    9: Scores(np.array([0, 1, 2, 3]), half[[0, 2, 1, 3]]),
  }
  key = np.array([9, 7])
  ranks, top_nk, nll = rank_all(queries, key, scores.__getitem__, log=None)
  assert ranks.tolist() == [2, 2]
  assert top_nk[:, :4].tolist() == [[3, 2, 1, 0], [1, 2, 3, 0]]
  assert nll == pytest.approx(-np.log([0.25, 0.5]))
  # User 0 has seen item 1 and user 1 has seen item 3.
  ranks, top_nk, _ = rank_all(queries, key, scores.__getitem__, log=log)
  assert ranks.tolist() == [2, 2]
  assert top_nk[:, :3].tolist() == [[3, 2, 0], [1, 2, 0]]


def test_cooccurrence_counts_what_followed_in_training_then_popularity():
  log = make_timeline(
    [
      [(1, True), (2, True)],
      [(1, True), (2, True)],
      [(1, True), (3, True)],
      [(1, True), (4, False)],  # context only: it is no target
      [(1, True), (4, True)],  # the last token is after the cut
      [(5, True)],
    ]
  )
  train_end = np.array([2, 2, 2, 2, 1, 1])
  popularity_v = np.array([0, 9, 2, 1, 5, 1])
  queries = make_queries(log, np.array([4, 5]), np.array([1, 0]))
  last, score = follower_counter(
    log, queries, train_end=train_end, popularity_v=popularity_v
  )
  assert last.tolist() == [1, 0]
  order = np.argsort(-score(1).score_v[1:], kind="stable") + 1
  assert order.tolist() == [2, 3, 1, 4, 5]
  # Item 1 was followed three times by two items: theirs is a share of 3 / 5.
  prior_v = np.array([0, 10, 3, 2, 6, 2]) / 23
  expected_v = (np.array([0, 0, 2, 1, 0, 0]) + 2 * prior_v) / 5
  assert score(1).probability_v == pytest.approx(expected_v)
  # Without a last item, and after one that nothing followed: popularity.
  for item in (0, 5):
    assert score(item).score_v.tolist() == popularity_v.tolist()
    assert score(item).probability_v == pytest.approx(prior_v)


# ---- of prepared data ----


@pytest.mark.parametrize("targets", ["first", "all"])
def test_baselines_answer_the_queries_of_a_model(prepared, targets):
  dataset = evaluation_batches(
    prepared, split="test", targets=targets, window=8, rows=4
  )
  asked = []
  for number in range(len(dataset)):
    batch = dataset[number]
    here = batch.weight_bt > 0
    columns = (batch.user_bt, batch.index_bt, batch.item_bt, batch.time_bt)
    asked += zip(
      *(column_bt[here].tolist() for column_bt in columns), strict=True
    )
  tables = baselines(prepared, split="test", targets=targets)
  assert list(tables) == [
    "popularity_all",
    "popularity_all_rolling",
    *(
      f"popularity_{days}d_{kind}"
      for days in WINDOWS_DAYS
      for kind in ("rolling", "frozen")
    ),
    "popularity_age_hour",
    "cooccurrence",
  ]
  for table in tables.values():
    columns = (table.user, table.history_length, table.item, table.time_s)
    answered = list(zip(*(column.tolist() for column in columns), strict=True))
    assert answered == sorted(asked)
    low, high = summary(table, draws=10)["nll_ci"]
    assert 0 < low < high


def rank_by(score, prepared, table, place):
  """By the definition: rivals that were not seen and score at least as much."""
  target, index = table.item[place], table.history_length[place]
  seen = prepared.history(table.user[place])["item"][:index].tolist()
  rivals = [
    item
    for item in range(1, prepared.spec.items)
    if item != target and item not in seen and score[item] >= score[target]
  ]
  return 1 + len(rivals)


def nll_by(count, item):
  """Add-one smoothing over the catalog, by the definition."""
  return -np.log((count[item] + 1) / (count[1:].sum() + len(count) - 1))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("days", WINDOWS_DAYS)
def test_recent_popularity_counts_whole_days_before_it_is_asked(
  prepared, days, split
):
  log, items = timeline(prepared), prepared.spec.items
  day = log.time_s // _DAY_S
  cut_us = {
    "validation": prepared.cuts.validation_us,
    "test": prepared.cuts.test_us,
  }[split]
  tables = baselines(prepared, split=split)
  for kind in ("rolling", "frozen"):
    table = tables[f"popularity_{days}d_{kind}"]
    for place, second in enumerate(table.time_s):
      end = (second if kind == "rolling" else cut_us // 1_000_000) // _DAY_S
      known = log.target & (day < end) & (day >= end - days)
      score = np.bincount(log.item[known], minlength=items)
      assert table.rank[place] == rank_by(score, prepared, table, place)
      expected = nll_by(score, table.item[place])
      assert table.nll[place] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_popularity_of_all_time_counts_the_targets_before_the_split(
  prepared, split
):
  log, index = timeline(prepared), prepared.index
  begin = {"validation": index.validation_start, "test": index.test_start}
  known = log.target & (log.place < begin[split][log.user])
  score = np.bincount(log.item[known], minlength=prepared.spec.items)
  table = baselines(prepared, split=split)["popularity_all"]
  for place, found in enumerate(table.rank):
    assert found == rank_by(score, prepared, table, place)
    expected = nll_by(score, table.item[place])
    assert table.nll[place] == pytest.approx(expected, rel=1e-5)


def test_cooccurrence_of_a_log_is_as_counted_by_hand(prepared):
  log, index = timeline(prepared), prepared.index
  items = prepared.spec.items
  follows_vv, popularity_v = np.zeros((items, items)), np.zeros(items)
  for place in np.flatnonzero(log.target):
    user, number = log.user[place], log.place[place]
    popularity_v[log.item[place]] += number < index.test_start[user]
    if 0 < number < index.train_end[user]:
      follows_vv[log.item[place - 1], log.item[place]] += 1
  prior_v = (popularity_v + 1) / (popularity_v[1:].sum() + items - 1)
  table = baselines(prepared, split="test")["cooccurrence"]
  for place, item in enumerate(table.item):
    history = prepared.history(table.user[place])["item"]
    length = table.history_length[place]
    row_v = follows_vv[history[length - 1]] if length else np.zeros(items)
    score_v = row_v * (popularity_v.max() + 1) + popularity_v
    assert table.rank[place] == rank_by(score_v, prepared, table, place)
    kinds = (row_v > 0).sum()
    expected = prior_v[item]
    if kinds:
      expected = (row_v[item] + kinds * expected) / (row_v.sum() + kinds)
    assert table.nll[place] == pytest.approx(-np.log(expected), rel=1e-5)


def test_without_real_times_only_what_needs_none_is_left(random_log, tmp_path):
  prepared = prepare_log(
    random_log(timed=False), tmp_path / "prepared", split=LeaveLastOut()
  )
  tables = baselines(prepared, split="test")
  assert list(tables) == ["popularity_all", "cooccurrence"]


def test_leave_last_out_has_no_cut_to_freeze_at(random_log, tmp_path):
  prepared = prepare_log(
    random_log(), tmp_path / "prepared", split=LeaveLastOut()
  )
  tables = baselines(prepared, split="validation")
  assert not [name for name in tables if name.endswith("_frozen")]
  assert "popularity_7d_rolling" in tables


def test_popularity_of_movietweetings_is_as_known(tmp_path):
  """The reference numbers of the shipped log; a change of a reader, the split,
  the filter or the ties would move them. Edit only with a reason."""
  prepared = prepare(MovieTweetings(), tmp_path / "prepared")
  tables = baselines(prepared, split="test")
  assert len(tables["popularity_all"].rank) == 4_741
  known = {
    "popularity_all": 0.039,
    "popularity_30d_frozen": 0.120,
    "popularity_7d_frozen": 0.154,
    "popularity_1d_rolling": 0.195,
    "popularity_3d_rolling": 0.201,
    "popularity_7d_rolling": 0.198,
    "popularity_30d_rolling": 0.167,
    "popularity_genre": 0.202,
    "popularity_age_hour": 0.045,
  }
  found = {name: means(tables[name])["ndcg@10"] for name in known}
  assert found == pytest.approx(known, abs=0.01)

"""Popularity of what is recommended, relative to that of histories."""

import dataclasses

import numpy as np
import pytest
from test_metrics import make_ranked

from fmjax.eval.popularity import LIFT, popularity_lift
from fmjax.eval.timeline import timeline


@pytest.fixture(scope="module")
def ranked(prepared):
  """Random answers to the queries of a split."""
  queries = timeline(prepared).queries(
    prepared.index, split="test", targets="all"
  )
  n = len(queries)
  top = np.random.default_rng(0).integers(1, prepared.spec.items, (n, 10))
  top[0, 4:] = 0  # fewer candidates than that
  return dataclasses.replace(
    make_ranked(np.ones(n), user=queries.user),
    history_length=queries.history_length,
    top10_nk=top.astype(np.int32),
  )


def by_hand(ranked, prepared):
  """(recommended, history) of each query with both."""
  share_v = (
    prepared.catalog.train_count_v / prepared.catalog.train_count_v.sum()
  )
  pairs = []
  for user, length, top in zip(
    ranked.user, ranked.history_length, ranked.top10_nk, strict=True
  ):
    before = prepared.history(user)["item"][:length]
    if share_v[before].any() and top.any():
      pairs.append((share_v[top[top > 0]].mean(), share_v[before].mean()))
  return np.array(pairs)


def test_the_lift_is_the_ratio_of_mean_popularities_less_one(ranked, prepared):
  pairs = by_hand(ranked, prepared)
  recommended, history = pairs.mean(0)
  found = popularity_lift(ranked, prepared, draws=200)
  assert found[LIFT] == pytest.approx(recommended / history - 1)
  low, high = found[f"{LIFT}_ci"]
  assert -1 <= low < found[LIFT] < high
  again = popularity_lift(ranked, prepared, draws=200)
  assert found == again


def test_showing_histories_lifts_nothing_and_the_most_popular_item_does(
  ranked, prepared
):
  count_v = prepared.catalog.train_count_v
  known = np.zeros_like(ranked.top10_nk)
  for n, (user, length) in enumerate(
    zip(ranked.user, ranked.history_length, strict=True)
  ):
    if length:
      known[n] = prepared.history(user)["item"][:1]
  first = dataclasses.replace(
    ranked, top10_nk=known, history_length=np.minimum(ranked.history_length, 1)
  )
  found = popularity_lift(first, prepared, draws=20)
  assert found[LIFT] == pytest.approx(0)
  assert found[f"{LIFT}_ci"] == pytest.approx([0, 0])
  top = np.full_like(ranked.top10_nk, count_v.argmax())
  best = dataclasses.replace(ranked, top10_nk=top)
  pairs = by_hand(best, prepared)
  assert popularity_lift(best, prepared, draws=20)[LIFT] == pytest.approx(
    count_v.max() / count_v.sum() / pairs[:, 1].mean() - 1
  )


def test_without_histories_or_recommendations_there_is_no_lift(
  ranked, prepared
):
  none = dataclasses.replace(ranked, top10_nk=np.zeros_like(ranked.top10_nk))
  assert popularity_lift(none, prepared) == {}
  new = dataclasses.replace(
    ranked, history_length=np.zeros_like(ranked.history_length)
  )
  assert popularity_lift(new, prepared) == {}

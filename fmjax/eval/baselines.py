"""What must be beaten: popularity, and what followed the last item.

A baseline orders the whole catalog by counts, and smooths the same counts to
probabilities for its nll. Filter and ties are the model's: seen items are left
out of the ranking unless the data repeats by nature, ties count against it; the
nll is over the whole catalog.

Popularity is smoothed by one: p(item) = (count + 1) / (total + items).
Co-occurrence is interpolated with it (Witten and Bell, 1991): with n followers
of the last item, T of them distinct, p(item) = (count + T·p_popularity(item)) /
(n + T). Nothing is tuned, and an item that nothing followed has popularity's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fmjax.config import Targets
from fmjax.data.schema import Kind
from fmjax.data.store import Prepared
from fmjax.eval import static
from fmjax.eval.genre import popularity_genre
from fmjax.eval.groups import first_field, groups_of
from fmjax.eval.oracle import oracle
from fmjax.eval.ranked import TOP, Ranked
from fmjax.eval.timeline import Queries, SplitName, Timeline, timeline

WINDOWS_DAYS = (1, 3, 7, 30)

_SECONDS_PER_DAY = 86_400
_MICROSECONDS_PER_DAY = 86_400_000_000
_QUERIES_AT_ONCE = 8_192  # bounds the seen items that are held


class Scores(NamedTuple):
  """Of all catalog rows; row 0 is no candidate, whatever its score.

  Attributes:
    score_v: what they are ordered by.
    probability_v: sums to 1, 0 for row 0.
  """

  score_v: np.ndarray
  probability_v: np.ndarray


# A query's scores depend on one number: its day, its last item, or nothing.
Scorer = Callable[[int], Scores]


def baselines(
  prepared: Prepared, *, split: SplitName, targets: Targets = "first"
) -> dict[str, Ranked]:
  """Every baseline on the queries that a model is asked.

  * `popularity_all`: target tokens before the evaluated split.
  * `popularity_<n>d_rolling`: of the last n days up to the start of the day of
    each prediction, `popularity_all_rolling` since ever: the information that
    the model has.
  * `popularity_<n>d_frozen`: of the last n days up to the start of the day of
    the split's cut.
  * `popularity_genre`: popularity_7d_rolling within the genres of the user's
    history, if the metadata has a bag (genre.py).
  * `popularity_age_hour`: of training tokens, by the items' age and the hour
    (static.py).
  * `oracle`: of a generated log, the best that any model can do (oracle.py).
  * `cooccurrence`: how often the target followed the last item in training
    tokens, then `popularity_all`.

  Without real times, only popularity_all and cooccurrence exist; without one
  global cut (leave-last-out), there is no frozen window.
  """
  log = timeline(prepared)
  items = prepared.spec.items
  queries = log.queries(prepared.index, split=split, targets=targets)
  begin = {
    "validation": prepared.index.validation_start,
    "test": prepared.index.test_start,
  }[split]
  before = log.counted & (log.place < begin[log.user])
  popularity_v = np.bincount(log.item[before], minlength=items)
  nothing = np.zeros(len(queries), np.int64)
  filters = not prepared.schema.repeats

  def answer(key: np.ndarray, scorer: Scorer) -> Ranked:
    return table(*rank_all(queries, key, scorer, log=log if filters else None))

  def table(rank: np.ndarray, top10_nk: np.ndarray, nll: np.ndarray) -> Ranked:
    return Ranked(
      user=queries.user,
      history_length=queries.history_length,
      item=queries.item,
      time_s=queries.time_s,
      rank=rank,
      nll=nll,
      train_count=prepared.catalog.train_count_v[queries.item].astype(np.int32),
      top10_nk=top10_nk,
      catalog_items=items - 1,
      split=split,
      targets=targets,
      seen_filtered=filters,
      data_checksum=prepared.checksum,
    )

  whole = by_count(popularity_v)
  result = {"popularity_all": answer(nothing, lambda _: whole)}
  if prepared.schema.timed:
    count = day_counter(prepared, items=items)
    day = queries.time_s // _SECONDS_PER_DAY
    result["popularity_all_rolling"] = answer(
      day, lambda d: by_count(count(None, d))
    )
    frozen = cut_day(prepared, split)
    for days in WINDOWS_DAYS:
      name = f"popularity_{days}d"

      def recent(day: int, days: int = days) -> Scores:
        return by_count(count(day - days, day))

      result[f"{name}_rolling"] = answer(day, recent)
      if frozen is not None:
        result[f"{name}_frozen"] = answer(nothing + frozen, recent)
    genre = first_field(prepared.spec, [Kind.BAG])
    if genre is not None:
      genres = groups_of(prepared.catalog, genre)
      result["popularity_genre"] = table(
        *popularity_genre(queries, log, genres, count=count, filters=filters)
      )
    age_hour = static.fit(prepared, log)

    def at_hour(hour: int) -> Scores:
      probability_v = age_hour.probabilities(hour)
      return Scores(probability_v, probability_v)

    result["popularity_age_hour"] = answer(
      static.hour_of(queries.time_s), at_hour
    )
  truth = prepared.truth()
  # Its ranks are among the whole catalog, seen items included.
  if truth is not None and not filters:
    result["oracle"] = table(*oracle(queries, truth, index=prepared.index))
  last, follows = follower_counter(
    log, queries, train_end=prepared.index.train_end, popularity_v=popularity_v
  )
  return {**result, "cooccurrence": answer(last, follows)}


def by_count(count_v: np.ndarray) -> Scores:
  """Order and add-one-smoothed probabilities of counted rows."""
  smoothed_v = count_v + 1.0
  smoothed_v[0] = 0
  return Scores(count_v, smoothed_v / smoothed_v.sum())


def rank_all(
  queries: Queries, key: np.ndarray, scorer: Scorer, *, log: Timeline | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ranks every query by `scorer(its key)`; queries of one key share a sort.

  Args:
    queries: n of them.
    key: int [n].
    scorer: from a key to the scores of all catalog rows.
    log: whose seen items are filtered; None filters none.

  Returns:
    rank, int32 [n]; top10_nk, int32; nll, float32 [n], over the whole catalog.
  """
  rank = np.zeros(len(queries), np.int32)
  nll = np.zeros(len(queries), np.float32)
  top_nk = np.zeros((len(queries), TOP), np.int32)
  by_key = np.argsort(key, kind="stable")
  values, starts = np.unique(key[by_key], return_index=True)
  for value, members in zip(
    values, np.split(by_key, starts[1:]) if len(key) else [], strict=True
  ):
    score_v, probability_v = scorer(int(value))
    nll[members] = -np.log(probability_v[queries.item[members]])
    ordered = Ordered(score_v)
    for begin in range(0, len(members), _QUERIES_AT_ONCE):
      some = members[begin : begin + _QUERIES_AT_ONCE]
      count, item = np.zeros(len(some), np.int64), np.zeros(0, np.int32)
      if log is not None:
        count, item = log.seen(queries.user[some], queries.history_length[some])
      rank[some], top_nk[some] = ordered.rank(
        queries.item[some],
        seen_query=np.repeat(np.arange(len(some)), count),
        seen_item=item,
      )
  return rank, top_nk, nll


class Ordered:
  """The catalog, best score first; equal scores in row order."""

  def __init__(self, score_v: np.ndarray):
    """Sorts rows 1, 2, …; row 0 is no item."""
    self._row = 1 + np.argsort(-score_v[1:], kind="stable")
    self._position = np.zeros(len(score_v), np.int64)
    self._position[self._row] = np.arange(len(self._row))
    # Of each row, how many rows score at least as much, itself included.
    self._at_least = np.searchsorted(
      -score_v[self._row], -score_v, side="right"
    )

  def rank(
    self, target: np.ndarray, *, seen_query: np.ndarray, seen_item: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, ties against us, and the first ten, seen items left out of both.

    Args:
      target: catalog row of each query's target.
      seen_query: number of the query, ascending.
      seen_item: an item that it leaves out, once; the target is kept anyway.
    """
    others = seen_item != target[seen_query]
    query, position = seen_query[others], self._position[seen_item[others]]
    rank = self._at_least[target]
    filtered_ahead = position < rank[query]
    rank = rank - np.bincount(query[filtered_ahead], minlength=len(target))

    # With a query's filtered positions p_0 < p_1 < …, p_i - i kept rows precede
    # p_i: the j-th kept row lies at j + the number of i with p_i - i ≤ j.
    order = np.lexsort((position, query))
    query, position = query[order], position[order]
    number = np.arange(len(query)) - np.searchsorted(query, query)
    kept_before = position - number
    near = kept_before < TOP
    skipped = np.bincount(
      query[near] * TOP + kept_before[near], minlength=len(target) * TOP
    )
    skipped_nk = np.cumsum(skipped.reshape(-1, TOP), axis=1)
    place_nk = np.arange(TOP) + skipped_nk
    exists_nk = place_nk < len(self._row)
    top_nk = self._row.take(np.where(exists_nk, place_nk, 0))
    return rank.astype(np.int32), np.where(exists_nk, top_nk, 0)


def follower_counter(
  log: Timeline,
  queries: Queries,
  *,
  train_end: np.ndarray,
  popularity_v: np.ndarray,
) -> tuple[np.ndarray, Scorer]:
  """Last item of each query's history (0 if none), and scores given that item.

  A score is the number of training targets that came right after the item;
  popularity decides where it is equal, and fills in the probabilities.
  """
  place = log.offset[queries.user] + queries.history_length
  none = queries.history_length == 0
  last = np.where(none, 0, log.item[place - 1])

  items = len(popularity_v)
  second = np.flatnonzero(
    log.counted & (log.place > 0) & (log.place < train_end[log.user])
  )
  pair = log.item[second - 1].astype(np.int64) * items + log.item[second]
  pair, count = np.unique(pair, return_counts=True)
  above_popularity = int(popularity_v.max(initial=0)) + 1
  prior_v = by_count(popularity_v).probability_v

  def score(item: int) -> Scores:
    start, end = np.searchsorted(pair, [item * items, (item + 1) * items])
    follower, times = pair[start:end] % items, count[start:end]
    if not len(follower):
      return Scores(popularity_v, prior_v)
    score_v = popularity_v.astype(np.int64)
    score_v[follower] += times * above_popularity
    probability_v = len(follower) * prior_v
    probability_v[follower] += times
    return Scores(score_v, probability_v / (len(follower) + times.sum()))

  return last, score


def day_counter(
  prepared: Prepared, *, items: int
) -> Callable[[int | None, int], np.ndarray]:
  """Target tokens of every catalog row that began on days [first, end)."""
  daily = prepared.catalog.daily

  def count(first: int | None, end: int) -> np.ndarray:
    start = 0 if first is None else np.searchsorted(daily.day, first)
    days = slice(start, np.searchsorted(daily.day, end))
    counted = np.bincount(
      daily.item[days], weights=daily.events[days], minlength=items
    )
    return counted.astype(np.int64)

  return count


def cut_day(prepared: Prepared, split: SplitName) -> int | None:
  """Day (since 1970 UTC) of the split's global cut; None if there is none."""
  if prepared.cuts is None:
    return None
  cuts = prepared.cuts
  cut_us = cuts.validation_us if split == "validation" else cuts.test_us
  return cut_us // _MICROSECONDS_PER_DAY

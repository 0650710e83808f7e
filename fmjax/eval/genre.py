"""What is popular now, of the kinds that a user has met.

p(v) = Σ_g share of g in the user's history · p(v | g), where g is a value of
the metadata's first bag (its genre) and p(v | g) the popularity of v among the
items of g: target tokens of the last seven days up to the start of the day of
the prediction, plus one. An item with k values counts for each of them by 1/k;
one without any has a value of its own.

Shares are interpolated with those of popularity itself (Witten and Bell, 1991),
as co-occurrence is in baselines.py: a user without a history gets popularity.
"""

from collections.abc import Callable, Iterator

import numpy as np

from fmjax.eval.groups import Groups
from fmjax.eval.ranked import TOP
from fmjax.eval.timeline import Queries, Timeline

_DAYS = 7
_SECONDS_PER_DAY = 86_400
# Scores that differ by their rounding alone are ties, and count against us.
_HAIR = 1e-9
_CELLS_AT_ONCE = 2**22  # queries × items that are scored together


def popularity_genre(
  queries: Queries,
  log: Timeline,
  genres: Groups,
  *,
  count: Callable[[int | None, int], np.ndarray],
  filters: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Answers every query.

  Args:
    queries: n of them.
    log: the histories that lie before them.
    genres: of the items.
    count: target tokens of all items on days [first, end).
    filters: seen items are left out of the ranking.

  Returns:
    rank, int32 [n]; top10_nk, int32; nll, float32 [n], over the whole catalog.
  """
  rank = np.zeros(len(queries), np.int32)
  nll = np.zeros(len(queries), np.float32)
  top_nk = np.zeros((len(queries), TOP), np.int32)
  day = queries.time_s // _SECONDS_PER_DAY
  for today in np.unique(day).tolist():
    popularity_v = count(today - _DAYS, today) + 1.0
    popularity_v[0] = 0
    mass_i = genres.mass(popularity_v)
    # A genre without items has no share that could be spread.
    per_mass_i = np.divide(
      1, mass_i, where=mass_i > 0, out=np.zeros_like(mass_i)
    )
    for some in _chunks(np.flatnonzero(day == today), len(popularity_v)):
      asked = queries[some]
      share_ni = _shares(asked, log, genres, mass_i / mass_i.sum())
      score_nv = popularity_v * genres.mean(share_ni * per_mass_i)
      target_n = score_nv[np.arange(len(some)), asked.item]
      nll[some] = -np.log(target_n)
      if filters:
        seen, item = log.seen(asked.user, asked.history_length)
        query = np.repeat(np.arange(len(some)), seen)
        others = item != asked.item[query]
        score_nv[query[others], item[others]] = 0
      # Row 0 and what is left out has 0, and no other item has.
      ahead_nv = score_nv >= (1 - _HAIR) * target_n[:, None]
      rank[some] = ahead_nv.sum(axis=1)
      top_nk[some] = _best(score_nv)
  return rank, top_nk, nll


def _chunks(members: np.ndarray, items: int) -> Iterator[np.ndarray]:
  size = max(1, _CELLS_AT_ONCE // items)
  for begin in range(0, len(members), size):
    yield members[begin : begin + size]


def _shares(
  queries: Queries, log: Timeline, genres: Groups, prior_i: np.ndarray
) -> np.ndarray:
  """Share of every genre in each query's history, [n, size]."""
  length_n = queries.history_length.astype(np.int64)
  query = np.repeat(np.arange(len(queries)), length_n)
  within = np.arange(len(query)) - np.repeat(
    np.cumsum(length_n) - length_n, length_n
  )
  item = log.item[log.offset[queries.user][query] + within]
  cell_nw = query[:, None] * genres.size + genres.code_vw[item]
  counted_ni = np.bincount(
    cell_nw.reshape(-1),
    weights=genres.part_vw[item].reshape(-1),
    minlength=len(queries) * genres.size,
  ).reshape(len(queries), genres.size)
  return interpolated(counted_ni, prior_i, total_n1=length_n[:, None])


def interpolated(
  counted_ni: np.ndarray, prior_i: np.ndarray, *, total_n1: np.ndarray
) -> np.ndarray:
  """Shares of what was counted, and the prior's (Witten and Bell, 1991).

  Args:
    counted_ni: how often each value was met.
    prior_i: shares in general.
    total_n1: sums of `counted_ni`; where one is 0 the prior stands alone.
  """
  kinds_n1 = np.maximum((counted_ni > 0).sum(axis=1, keepdims=True), 1)
  return (counted_ni + kinds_n1 * prior_i) / (total_n1 + kinds_n1)


def _best(score_nv: np.ndarray) -> np.ndarray:
  """The first ten rows of each query, equal scores in row order; 0 pads."""
  top_nk = np.zeros((len(score_nv), TOP), np.int32)
  most = min(TOP, score_nv.shape[1])
  least_n = np.partition(score_nv, -most, axis=1)[:, -most]
  for number, (score_v, least) in enumerate(
    zip(score_nv, least_n, strict=True)
  ):
    rows = np.flatnonzero((score_v >= least) & (score_v > 0))
    best = rows[np.argsort(-score_v[rows], kind="stable")][:TOP]
    top_nk[number, : len(best)] = best
  return top_nk

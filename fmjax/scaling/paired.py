"""What is said of a slice of queries: arms, baselines, differences, gaps.

Everything is paired over users: seeds are averaged first, then users are
resampled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.eval.compare import check_same_queries, compare
from fmjax.eval.metrics import (
  by_user,
  coverage,
  intervals,
  query_values,
  seed_mean,
)
from fmjax.eval.ranked import Ranked

METRICS = ("nll", "hr@10", "ndcg@10")
COMPARED = "ndcg@10"  # with baselines
COLD = 20  # training tokens below which a target is cold
SLICES = ("all", "unseen", "cold", "warm")
# A gap is between the best that needs no users and the best that there is.
STATIC, ORACLE = "popularity_age_hour", "oracle"


def part(ranked: Ranked, name: str) -> Ranked:
  """The queries of a slice, by training tokens of their target."""
  count = ranked.train_count
  chosen = {
    "all": np.full(len(count), True),
    "unseen": count == 0,
    "cold": count < COLD,
    "warm": count >= COLD,
  }[name]
  return ranked.where(chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
  """The baselines on a slice: their answers, and what these are worth."""

  ranked: dict[str, Ranked]
  metrics: dict[str, dict[str, Any]]

  @classmethod
  def of(cls, baselines: Mapping[str, Ranked], slice_name: str) -> "Known":
    ranked = {name: part(r, slice_name) for name, r in baselines.items()}
    metrics = {
      name: seed_means([r]) for name, r in ranked.items() if len(r.rank)
    }
    return cls(ranked=ranked, metrics=metrics)


def describe(
  runs: Sequence[Ranked],
  base: Sequence[Ranked] | None,
  name: str,
  *,
  known: Known,
) -> dict[str, Any]:
  """All that is said of a slice; `base` is None for the reference itself."""
  mine = [part(ranked, name) for ranked in runs]
  queries = len(mine[0].rank)
  content: dict[str, Any] = {"queries": queries}
  if not queries:
    return content
  content["users"] = len(np.unique(mine[0].user))
  content |= seed_means(mine)
  content["coverage@10"] = float(np.mean([coverage(run) for run in mine]))
  if base is not None:
    theirs = [part(ranked, name) for ranked in base]
    content["to_reference"] = {
      metric: difference(mine, theirs, metric) for metric in METRICS
    }
  if known.ranked:
    content["baselines"] = known.metrics
    content["compare"] = to_baselines(mine, known.ranked)
  if {STATIC, ORACLE} <= set(known.ranked):
    content |= gap_closed(
      mine, static=known.ranked[STATIC], oracle=known.ranked[ORACLE]
    )
  return content


def seed_means(
  runs: Sequence[Ranked], metrics: Sequence[str] = METRICS
) -> dict[str, Any]:
  """Each metric, mean over seeds, with its 95 % interval over users."""
  user = runs[0].user
  weight = by_user(user, np.ones(len(user)))
  totals = {
    metric: by_user(user, seed_mean(runs, metric)) for metric in metrics
  }
  ends = intervals(totals, weight)
  return {
    **{name: float(t.sum() / weight.sum()) for name, t in totals.items()},
    **{f"{name}_ci": end for name, end in ends.items()},
  }


def difference(
  mine: Sequence[Ranked],
  theirs: Sequence[Ranked],
  metric: str,
  *,
  weight_n: np.ndarray | None = None,
) -> dict[str, Any]:
  """What `compare` finds, as a result says it."""
  found = compare(mine, theirs, metric=metric, weight_n=weight_n)
  return {
    "difference": found.difference,
    "interval": list(found.interval),
    "separates": found.separates,
  }


def to_baselines(
  mine: Sequence[Ranked], baselines: Mapping[str, Ranked]
) -> dict[str, dict[str, Any]]:
  """NDCG@10 minus each baseline's, paired: as `compare`, all in one pass."""
  for other in (*mine, *baselines.values()):
    check_same_queries(mine[0], other)
  user = mine[0].user
  weight = by_user(user, np.ones(len(user)))
  value_n = seed_mean(mine, COMPARED)
  differences = {
    name: by_user(user, value_n - query_values(ranked, COMPARED))
    for name, ranked in baselines.items()
  }
  ends = intervals(differences, weight)
  return {
    name: {
      "difference": float(of_user.sum() / weight.sum()),
      "interval": ends[name],
      "separates": ends[name][0] > 0 or ends[name][1] < 0,
    }
    for name, of_user in differences.items()
  }


def gap_closed(
  mine: Sequence[Ranked], *, static: Ranked, oracle: Ranked
) -> dict[str, Any]:
  """Share of the NLL between `static` and `oracle`, with its interval.

  1 is the oracle's, 0 the static baseline's; nothing where they are the same.
  """
  for other in (*mine, oracle):
    check_same_queries(static, other)
  of_static = query_values(static, "nll")
  closed = by_user(static.user, of_static - seed_mean(mine, "nll"))
  gap = by_user(static.user, of_static - query_values(oracle, "nll"))
  if gap.sum() <= 0:
    return {}
  return {
    "gap_closed": float(closed.sum() / gap.sum()),
    # Both sides of the ratio are of the same resampled users.
    "gap_closed_ci": intervals({"gap": closed}, gap)["gap"],
  }

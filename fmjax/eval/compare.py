"""Is one method better than another on the same users?"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmjax.config import ConfigError
from fmjax.eval.metrics import DRAWS, by_user, intervals, seed_mean, seeds_of
from fmjax.eval.ranked import Ranked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Paired difference first - second of one metric.

  Attributes:
    metric: its name; smaller is better for nll alone.
    first: mean of the first method over queries, by weight, and seeds.
    second: likewise.
    difference: first - second.
    interval: 95 % of the difference, over users.
    users: pairs that were resampled.
    queries: of each run, of weight 0 ones, too.
  """

  metric: str
  first: float
  second: float
  difference: float
  interval: tuple[float, float]
  users: int
  queries: int

  @property
  def separates(self) -> bool:
    """The interval excludes 0."""
    low, high = self.interval
    return low > 0 or high < 0


def compare(
  first: Ranked | Sequence[Ranked],
  second: Ranked | Sequence[Ranked],
  *,
  metric: str = "ndcg@10",
  weight_n: np.ndarray | None = None,
  draws: int = DRAWS,
  seed: int = 0,
) -> Comparison:
  """Paired bootstrap over users of the difference first - second.

  Args:
    first: one method's ranks; several seeds as a sequence, averaged before
      anything is resampled.
    second: the other's, of exactly the same queries.
    metric: any of `metrics.MEANS`.
    weight_n: of each query, which counts for so many; None: for one.
    draws: resamples of the users.
    seed: of the resampling.
  """
  firsts, seconds = seeds_of(first), seeds_of(second)
  if not firsts or not seconds:
    raise ConfigError("a comparison needs at least one run on each side")
  reference = firsts[0]
  for other in (*firsts, *seconds):
    check_same_queries(reference, other)
  if not len(reference.rank):
    raise ConfigError(
      f"the runs hold no {reference.split} query: there is nothing to compare"
    )
  if weight_n is None:
    weight_n = np.ones(len(reference.user))
  if not weight_n.any():
    raise ConfigError(
      f"all {len(weight_n):,} {reference.split} queries have the weight 0:"
      " there is nothing to compare"
    )
  weight = by_user(reference.user, weight_n)
  # Of weight 0 a resample might hold nobody else.
  counted = weight > 0
  value = {
    name: by_user(reference.user, weight_n * seed_mean(runs, metric))[counted]
    for name, runs in (("first", firsts), ("second", seconds))
  }
  weight = weight[counted]
  mean = {name: float(v.sum() / weight.sum()) for name, v in value.items()}
  difference = value["first"] - value["second"]
  low, high = intervals(
    {"difference": difference}, weight, draws=draws, seed=seed
  )["difference"]
  return Comparison(
    metric=metric,
    first=mean["first"],
    second=mean["second"],
    difference=float(difference.sum() / weight.sum()),
    interval=(low, high),
    users=len(weight),
    queries=len(reference.rank),
  )


def check_same_queries(one: Ranked, other: Ranked) -> None:
  """Raises: ConfigError if two methods were not asked the same."""
  remedy = "evaluate both runs on the same data, split and targets"
  for name, value in one.protocol.items():
    if other.protocol[name] != value:
      raise ConfigError(
        f"the runs were not asked the same: {name} is {value!r} in one and"
        f" {other.protocol[name]!r} in the other; {remedy}"
      )
  if len(one.rank) != len(other.rank):
    raise ConfigError(
      f"the runs answer different queries: {len(one.rank):,} in one,"
      f" {len(other.rank):,} in the other; {remedy}"
    )
  for name in ("user", "history_length", "item"):
    differ = np.flatnonzero(getattr(one, name) != getattr(other, name))
    if differ.size:
      place = differ[0]
      raise ConfigError(
        f"the runs answer different queries: {name} of query {place} is"
        f" {getattr(one, name)[place]} in one and"
        f" {getattr(other, name)[place]} in the other; {remedy}"
      )

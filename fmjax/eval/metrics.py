"""Metrics of ranked queries, with intervals over users."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fmjax.config import ConfigError, suggest
from fmjax.eval.ranked import TOP, Ranked

CUTOFFS = (5, 10, 100)
MEANS = (
  "nll",
  *(f"hr@{k}" for k in CUTOFFS),
  *(f"ndcg@{k}" for k in CUTOFFS),
  "mrr",
)  # metrics that are a mean over queries
COVERAGE = f"coverage@{TOP}"

DRAWS = 1_000  # bootstrap resamples
PERCENTILES = (2.5, 97.5)  # a 95 % interval
_NORMAL_95 = 1.96  # standard errors


class MetricError(ValueError):
  """Answers that cannot be measured; one sentence says why."""


def query_values(ranked: Ranked, metric: str) -> np.ndarray:
  """The metric of each query alone, float64 [n]; its mean is the metric.

  hr@k is 1 if the target is among the first k, ndcg@k discounts that by
  log2(1 + rank) (one relevant item, so the ideal gain is 1), mrr is 1 / rank
  with no cutoff.
  """
  name, _, cutoff = metric.partition("@")
  rank = ranked.rank.astype(np.float64)
  match name:
    case "nll" if not cutoff:
      bad = np.flatnonzero(~np.isfinite(ranked.nll))
      if len(bad):
        raise MetricError(
          f"nll is {ranked.nll[bad[0]]} for {len(bad):,} of"
          f" {len(ranked.nll):,} {ranked.split} targets, first item"
          f" {ranked.item[bad[0]]}: the scores of the model are not finite;"
          " lower optim.learning_rate"
        )
      return ranked.nll.astype(np.float64)
    case "mrr" if not cutoff:
      return 1 / rank
    case "hr" if cutoff.isdecimal():
      return (rank <= int(cutoff)).astype(np.float64)
    case "ndcg" if cutoff.isdecimal():
      return np.where(rank <= int(cutoff), 1 / np.log2(1 + rank), 0.0)
  raise ConfigError(f"no metric {metric!r}" + suggest(metric, list(MEANS)))


def seeds_of(answers: Ranked | Sequence[Ranked]) -> list[Ranked]:
  """One method's answers, a seed each."""
  return [answers] if isinstance(answers, Ranked) else list(answers)


def seed_mean(runs: Sequence[Ranked], metric: str) -> np.ndarray:
  """`query_values`, mean over seeds: these go first, then users are drawn."""
  return np.mean([query_values(run, metric) for run in runs], axis=0)


def coverage(ranked: Ranked) -> float:
  """Share of the catalog that is in someone's top 10."""
  shown = np.unique(ranked.top10_nk)
  return float((shown > 0).sum() / ranked.catalog_items)


def coverage_interval(answers: Ranked | Sequence[Ranked]) -> list[float]:
  """95 % interval of `coverage`, mean over seeds, by the delete-one jackknife.

  A bootstrap resample has fewer distinct users and so always covers less than
  the sample it comes from: its percentiles may even miss the value. Leaving one
  user out loses exactly the items that nobody else is shown, so the jackknife's
  variance is a closed form; by Efron and Stein (1981) it errs on the wide side.
  """
  runs = seeds_of(answers)
  lost = np.mean([_lost_without(run) for run in runs], axis=0)
  error = np.sqrt((len(lost) - 1) * lost.var()) if len(lost) else 0.0
  value = np.mean([coverage(run) for run in runs])
  return [
    float(max(value - _NORMAL_95 * error, 0)),
    float(min(value + _NORMAL_95 * error, 1)),
  ]


def _lost_without(ranked: Ranked) -> np.ndarray:
  """How much less is covered without each user, float64 [u]."""
  _, dense = np.unique(ranked.user, return_inverse=True)
  users = dense.max(initial=-1) + 1
  owner, item = np.nonzero(ranked.top10_nk)
  rows = int(ranked.top10_nk.max(initial=0)) + 1
  shown = dense[owner].astype(np.int64) * rows + ranked.top10_nk[owner, item]
  user, item = np.divmod(np.unique(shown), rows)
  alone = np.bincount(item, minlength=rows)[item] == 1
  return np.bincount(user[alone], minlength=users) / ranked.catalog_items


def by_user(user: np.ndarray, value: np.ndarray) -> np.ndarray:
  """Sums of `value` for each distinct user, in ascending order of user."""
  _, dense = np.unique(user, return_inverse=True)
  return np.bincount(dense, weights=value)


def resamples(
  users: int, *, draws: int = DRAWS, seed: int = 0
) -> Iterator[np.ndarray]:
  """How often each user is drawn, float64 [u], for `draws` resamples.

  Users, not queries, are drawn with replacement: a user's queries depend on
  one another. The same (users, seed) gives the same draws, which is what makes
  comparisons paired.
  """
  generator = np.random.default_rng(seed)
  for _ in range(draws):
    drawn = generator.integers(users, size=users)
    yield np.bincount(drawn, minlength=users).astype(np.float64)


def intervals(
  totals: Mapping[str, np.ndarray],
  weight: np.ndarray,
  *,
  draws: int = DRAWS,
  seed: int = 0,
) -> dict[str, list[float]]:
  """95 % bootstrap interval of sum(total) / sum(weight) for each name.

  Args:
    totals: by name, the sum over each user's queries.
    weight: number of each user's queries, or the sum of their weights.
    draws: resamples of the users.
    seed: of the resampling.
  """
  samples: dict[str, list[float]] = {name: [] for name in totals}
  for count in resamples(len(weight), draws=draws, seed=seed):
    drawn_weight = count @ weight
    for name, total in totals.items():
      samples[name].append(float(count @ total / drawn_weight))
  return {
    name: [float(end) for end in np.percentile(sample, PERCENTILES)]
    for name, sample in samples.items()
  }


def means(answers: Ranked | Sequence[Ranked]) -> dict[str, float]:
  """Every metric, mean over seeds; nothing if there is no query."""
  runs = seeds_of(answers)
  queries = len(runs[0].rank)
  if not queries:
    return {}
  result = {
    metric: float(seed_mean(runs, metric).sum() / queries) for metric in MEANS
  }
  return {**result, COVERAGE: float(np.mean([coverage(run) for run in runs]))}


def summary(
  answers: Ranked | Sequence[Ranked], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, float | int | list[float]]:
  """Metrics, each with its 95 % interval over users as `<metric>_ci`.

  Args:
    answers: of one method; several seeds of it are averaged.
    draws: resamples of the users.
    seed: of the resampling.
  """
  runs = seeds_of(answers)
  user = runs[0].user
  result: dict[str, float | int | list[float]] = {**means(runs)}
  if result:
    weight = by_user(user, np.ones(len(user)))
    totals = {
      metric: by_user(user, seed_mean(runs, metric)) for metric in MEANS
    }
    ends = intervals(totals, weight, draws=draws, seed=seed)
    ends[COVERAGE] = coverage_interval(runs)
    result |= {f"{metric}_ci": end for metric, end in ends.items()}
  result["queries"] = len(user)
  result["users"] = len(np.unique(user))
  return result

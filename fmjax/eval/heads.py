"""How good a model's predictions of a field are, beside those that need none.

Two baselines tell what classes are worth: their distribution over all training
targets (smoothed by one), and that over the user's own targets before,
interpolated with the first (Witten and Bell, 1991), as in genre.py. A number's
baseline is its mean over the training targets.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fmjax.config import DataConfig, Targets
from fmjax.data.batch import Batch
from fmjax.data.decoded import histories, training_targets
from fmjax.data.schema import DataError, Kind
from fmjax.data.store import Prepared
from fmjax.data.windows import batch_iterator, evaluation_batches
from fmjax.eval.fields import Field, head_of
from fmjax.eval.genre import interpolated
from fmjax.eval.metrics import PERCENTILES, by_user, resamples
from fmjax.eval.timeline import SplitName, Timeline, timeline
from fmjax.mesh import shard_batch
from fmjax.model.recommender import Recommender

_TOKENS_AT_ONCE = 2**20  # of the histories that are counted together

# Of each query, by metric: its mean is the metric, or the metric's square.
Values = dict[str, np.ndarray]


def evaluate_head(
  models: Sequence[Recommender],
  prepared: Prepared,
  data: DataConfig,
  name: str,
  *,
  split: SplitName,
  targets: Targets = "first",
) -> dict[str, Any]:
  """Metrics of a head and of its baselines, with intervals over users.

  "nll" (nats; of a bag, the mean over its values) and "accuracy" (the likeliest
  class is among the values), or "rmse" (standard deviations over the training
  log). Queries whose value is not known are left out. "compare" has model -
  baseline, paired.

  Args:
    models: the same with several seeds, averaged (of "rmse", the squares); the
      mesh they live on must be in scope.
    prepared: the data.
    data: window and rows of the batches.
    name: of the head.
    split: "validation" or "test".
    targets: "first" target of each user in the split, or "all".

  Raises:
    ConfigError: the model has no head of that name.
  """
  field = head_of(models[0], name)
  if field.kind is Kind.NUMERIC:
    ask, square = _of_numbers(field, prepared), True
  else:
    ask, square = _of_classes(field, prepared), False
  batches = evaluation_batches(
    prepared, split=split, targets=targets, window=data.window, rows=data.rows
  )
  answers = []
  for batch in batch_iterator(batches):
    asked = np.flatnonzero(np.asarray(batch.weight_bt).reshape(-1) > 0)
    on_mesh = shard_batch(batch, jax.sharding.get_mesh())
    said = [np.asarray(_say(m, on_mesh, name=name))[asked] for m in models]
    user = np.asarray(batch.user_bt).reshape(-1)[asked]
    token = np.asarray(batch.index_bt).reshape(-1)[asked]
    answers.append((user, *ask(said, user, token)))
  user = np.concatenate([user for user, _, _ in answers])
  known = np.concatenate([known for _, known, _ in answers])
  if not known.any():
    raise DataError(
      f"no {split} target has a known {name}: there is nothing to measure; ask"
      " for another head"
    )
  values = {
    method: {
      metric: np.concatenate([of[method][metric] for _, _, of in answers])[
        known
      ]
      for metric in metrics
    }
    for method, metrics in answers[0][2].items()
  }
  return {
    "head": name,
    "kind": str(field.kind),
    "queries": int(known.sum()),
    "unknown": int((~known).sum()),
    "users": len(np.unique(user[known])),
    **_summary(user[known], values, square=square),
  }


@functools.partial(jax.jit, static_argnames="name")
def _say(model: Recommender, batch: Batch, *, name: str) -> jax.Array:
  return model.fields(model.encode(batch))[name]


# (what each seed said, user, token) of some queries → which are known, their
# values.
_Ask = Callable[
  [Sequence[np.ndarray], np.ndarray, np.ndarray],
  tuple[np.ndarray, dict[str, Values]],
]


def _of_numbers(field: Field, prepared: Prepared) -> _Ask:
  log, catalog = histories(prepared), prepared.catalog
  total, count = 0.0, 0
  for user, token in _training_targets(prepared):
    number_n = field.numbers(log, catalog, user, token)
    total += float(np.nansum(number_n, dtype=np.float64))
    count += int((~np.isnan(number_n)).sum())
  mean = total / max(count, 1)

  def ask(said: Sequence[np.ndarray], user: np.ndarray, token: np.ndarray):
    number_n = field.numbers(log, catalog, user, token).astype(np.float64)
    squares = [(number_n - said_n) ** 2 for said_n in said]
    return ~np.isnan(number_n), {
      "model": {"rmse": np.mean(squares, axis=0)},
      "marginal": {"rmse": (number_n - mean) ** 2},
    }

  return ask


def _of_classes(field: Field, prepared: Prepared) -> _Ask:
  log, catalog = histories(prepared), prepared.catalog
  size = field.size(prepared)
  count_i = np.ones(size)
  for user, token in _training_targets(prepared):
    class_nw, part_nw = field.classes(log, catalog, user, token)
    count_i += np.bincount(class_nw.ravel(), part_nw.ravel(), minlength=size)
  marginal_i = count_i / count_i.sum()
  whole = timeline(prepared)

  def ask(said: Sequence[np.ndarray], user: np.ndarray, token: np.ndarray):
    class_nw, part_nw = field.classes(log, catalog, user, token)
    own_ni = np.empty((len(user), size))
    for some in _chunks(token):
      own_ni[some] = _shares(
        field, prepared, whole, user[some], token[some], marginal_i
      )
    log_p = {
      "model": [said_ni.astype(np.float64) for said_ni in said],
      "marginal": [np.broadcast_to(np.log(marginal_i), own_ni.shape)],
      "history": [np.log(own_ni)],
    }
    return part_nw.sum(axis=1) > 0, {
      method: _class_values(of_seed, class_nw, part_nw)
      for method, of_seed in log_p.items()
    }

  return ask


def _class_values(
  log_p: Sequence[np.ndarray], class_nw: np.ndarray, part_nw: np.ndarray
) -> Values:
  """Means over seeds, of what each says of the classes, [n, i]."""
  nll, hit = [], []
  for log_p_ni in log_p:
    log_p_nw = np.take_along_axis(log_p_ni, class_nw, axis=1)
    best_n1 = log_p_ni.argmax(axis=1)[:, None]
    nll.append(-(part_nw * log_p_nw).sum(axis=1))
    hit.append(((class_nw == best_n1) & (part_nw > 0)).any(axis=1))
  return {"nll": np.mean(nll, axis=0), "accuracy": np.mean(hit, axis=0)}


def _shares(
  field: Field,
  prepared: Prepared,
  whole: Timeline,
  user: np.ndarray,
  token: np.ndarray,
  marginal_i: np.ndarray,
) -> np.ndarray:
  """Of each class in the targets before each query, interpolated, [n, i]."""
  query = np.repeat(np.arange(len(user)), token)
  place = np.arange(len(query)) - np.repeat(np.cumsum(token) - token, token)
  target = whole.target[whole.offset[user][query] + place]
  query, place = query[target], place[target]
  class_nw, part_nw = field.classes(
    histories(prepared), prepared.catalog, user[query], place
  )
  size = len(marginal_i)
  cell_nw = query[:, None] * size + class_nw
  counted_ni = np.bincount(
    cell_nw.ravel(), part_nw.ravel(), minlength=len(user) * size
  ).reshape(len(user), size)
  total_n1 = counted_ni.sum(axis=1, keepdims=True)
  return interpolated(counted_ni, marginal_i, total_n1=total_n1)


def _training_targets(
  prepared: Prepared,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  user, token = training_targets(prepared)
  for begin in range(0, len(user), _TOKENS_AT_ONCE):
    some = slice(begin, begin + _TOKENS_AT_ONCE)
    yield user[some], token[some]


def _chunks(token: np.ndarray) -> Iterator[np.ndarray]:
  """Queries whose histories are counted together."""
  group = np.cumsum(token, dtype=np.int64) // _TOKENS_AT_ONCE
  for number in np.unique(group):
    yield np.flatnonzero(group == number)


def _summary(
  user: np.ndarray, values: Mapping[str, Values], *, square: bool
) -> dict[str, Any]:
  """Means of every method and differences to the model's, with intervals.

  Args:
    user: of each query.
    values: by method and metric.
    square: the values are squares of the metric, whose root is taken last.
  """
  weight = by_user(user, np.ones(len(user)))
  totals = {
    (method, metric): by_user(user, value)
    for method, metrics in values.items()
    for metric, value in metrics.items()
  }

  def means(count: np.ndarray) -> dict[tuple[str, str], float]:
    of = {
      key: count @ total / (count @ weight) for key, total in totals.items()
    }
    return {key: float(np.sqrt(v) if square else v) for key, v in of.items()}

  whole = means(np.ones(len(weight)))
  draws = [means(count) for count in resamples(len(weight))]

  def interval(sample: list[float]) -> list[float]:
    return [float(end) for end in np.percentile(sample, PERCENTILES)]

  def of(method: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in values[method]:
      key = method, metric
      found[metric] = whole[key]
      found[f"{metric}_ci"] = interval([draw[key] for draw in draws])
    return found

  def against(method: str, metric: str) -> dict[str, Any]:
    ours, theirs = ("model", metric), (method, metric)
    low, high = interval([draw[ours] - draw[theirs] for draw in draws])
    return {
      "difference": whole[ours] - whole[theirs],
      "interval": [low, high],
      "separates": low > 0 or high < 0,
    }

  others = [method for method in values if method != "model"]
  return {
    "model": of("model"),
    "baselines": {method: of(method) for method in others},
    "compare": {
      method: {metric: against(method, metric) for metric in values[method]}
      for method in others
    },
  }

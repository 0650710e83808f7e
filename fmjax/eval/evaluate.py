"""A model's answers to every query of a split."""

from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from fmjax.config import DataConfig, Targets
from fmjax.data.batch import Batch
from fmjax.data.store import Prepared
from fmjax.data.windows import batch_iterator, evaluation_batches
from fmjax.eval.metrics import MetricError, means
from fmjax.eval.rank import candidates, rank, target_score
from fmjax.eval.ranked import TOP, Ranked
from fmjax.eval.timeline import SplitName, timeline
from fmjax.mesh import shard_batch

_SECONDS_PER_DAY = 86_400
_SEEN_MULTIPLE = 8  # columns of seen items; one more user compiles nothing new

Progress = Callable[[int, int], None]  # (queries answered, queries in all)


class Model(Protocol):
  """What is evaluated; a pytree."""

  def encode(self, batch: Batch) -> jax.Array: ...

  def score(
    self,
    states_nd: jax.Array,
    candidates_c: jax.Array | None,
    at_day_n: jax.Array,
  ) -> jax.Array: ...


def evaluate(
  model: Model,
  prepared: Prepared,
  data: DataConfig,
  *,
  split: SplitName,
  targets: Targets = "first",
  chunk: int = 256,
  progress: Progress | None = None,
) -> Ranked:
  """Ranks the target of every query among the whole catalog.

  Args:
    model: a `Recommender`; the mesh it lives on must be in scope.
    prepared: the data.
    data: window and rows of the batches.
    split: "validation" or "test".
    targets: "first" target of each user in the split, or "all".
    chunk: queries scored at once; chunk × catalog logits are held.
    progress: is called as chunks are done.
  """
  asked = Evaluation(prepared, data, split=split, targets=targets, chunk=chunk)
  return asked(model, progress=progress)


class Evaluation:
  """The queries of a split, to be put to one model after another."""

  def __init__(
    self,
    prepared: Prepared,
    data: DataConfig,
    *,
    split: SplitName,
    targets: Targets = "first",
    chunk: int = 256,
  ):
    self._prepared, self._chunk = prepared, chunk
    self._split, self._targets = split, targets
    self._batches = evaluation_batches(
      prepared,
      split=split,
      targets=targets,
      window=data.window,
      rows=data.rows,
    )
    self._timeline = timeline(prepared)
    self._filters = not prepared.schema.repeats
    queries = self._timeline.queries(
      prepared.index, split=split, targets=targets
    )
    self._queries = len(queries)
    count, _ = self._timeline.seen(queries.user, queries.history_length)
    most = int(count.max(initial=0)) if self._filters else 0
    self._width = -(-most // _SEEN_MULTIPLE) * _SEEN_MULTIPLE

  def __call__(
    self, model: Model, *, progress: Progress | None = None
  ) -> Ranked:
    answers: list[dict[str, np.ndarray | jax.Array]] = []
    done = 0
    for queries in self._chunks(model):
      answers.append(self._answer(model, queries))
      done += len(queries["user"])
      if progress is not None:
        progress(done, self._queries)
    return self._ranked(answers)

  def _chunks(self, model: Model) -> Iterator[dict[str, np.ndarray]]:
    """The queries of all batches with their states, a full chunk at a time."""
    pool: dict[str, np.ndarray] = {}
    for batch in batch_iterator(self._batches):
      found = _queries(model, batch)
      pool = {
        name: np.concatenate([pool[name], column]) if pool else column
        for name, column in found.items()
      }
      while len(pool["user"]) >= self._chunk:
        yield {name: column[: self._chunk] for name, column in pool.items()}
        pool = {name: column[self._chunk :] for name, column in pool.items()}
    if pool and len(pool["user"]):
      yield pool

  def _answer(
    self, model: Model, queries: dict[str, np.ndarray]
  ) -> dict[str, np.ndarray | jax.Array]:
    """Ranks at most a chunk of queries; the rest of the chunk is padding."""
    count = len(queries["user"])
    padded = {
      name: np.pad(
        column,
        [(0, self._chunk - count)] + [(0, 0)] * (column.ndim - 1),
      )
      for name, column in queries.items()
    }
    seen_nw = None
    if self._width:
      seen_nw = self._seen(queries["user"], queries["history_length"])
    answer = _rank(
      model,
      padded["state"],
      padded["item"],
      padded["time_s"] // _SECONDS_PER_DAY,
      seen_nw,
    )
    # Still on the device: the host goes on to the next chunk meanwhile.
    answer = {name: column[:count] for name, column in answer.items()}
    columns = {name: queries[name] for name in queries if name != "state"}
    return {**columns, **answer}

  def _seen(self, user: np.ndarray, history_length: np.ndarray) -> np.ndarray:
    """int32 [chunk, w], -1 where there is none."""
    count, item = self._timeline.seen(user, history_length)
    seen_nw = np.full((self._chunk, self._width), -1, np.int32)
    seen_nw[: len(user)][np.arange(self._width) < count[:, None]] = item
    return seen_nw

  def _ranked(self, answers: list[dict[str, np.ndarray | jax.Array]]) -> Ranked:
    whole = {
      name: np.concatenate([np.asarray(part[name]) for part in answers])
      for name in answers[0]
    }
    order = np.lexsort((whole["history_length"], whole["user"]))
    whole = {name: column[order] for name, column in whole.items()}
    train_count = self._prepared.catalog.train_count_v[whole["item"]]
    return Ranked(
      **whole,
      train_count=train_count.astype(np.int32),
      catalog_items=self._prepared.spec.items - 1,
      split=self._split,
      targets=self._targets,
      seen_filtered=self._filters,
      data_checksum=self._prepared.checksum,
    )


class ValidationEvaluator:
  """What the training loop calls every `period` steps."""

  name = "validation"

  def __init__(
    self,
    prepared: Prepared,
    data: DataConfig,
    *,
    period: int,
    targets: Targets = "first",
    chunk: int = 256,
  ):
    self.period = period
    self._ask = Evaluation(
      prepared, data, split="validation", targets=targets, chunk=chunk
    )

  def __call__(self, model: Model, step: int) -> dict[str, float]:
    """Metrics without intervals, as "validation/ndcg@10" and so on."""
    try:
      measured = means(self._ask(model))
    except MetricError as error:
      raise MetricError(f"at step {step}, {error}") from None
    return {f"{self.name}/{metric}": v for metric, v in measured.items()}


def _queries(model: Model, batch: Batch) -> dict[str, np.ndarray]:
  """The queries of a batch, with the state that answers each."""
  asked = np.flatnonzero(np.asarray(batch.weight_bt).reshape(-1) > 0)
  states_nd = _encode(model, shard_batch(batch, jax.sharding.get_mesh()))

  def take(array_bt: jax.Array | np.ndarray) -> np.ndarray:
    return np.asarray(array_bt).reshape(-1)[asked]

  return {
    "user": take(batch.user_bt),
    "history_length": take(batch.index_bt),
    "item": take(batch.item_bt),
    "time_s": take(batch.time_bt),
    "state": np.asarray(states_nd)[asked],
  }


@jax.jit
def _encode(model: Model, batch: Batch) -> jax.Array:
  return model.encode(batch)


@jax.jit
def _rank(
  model: Model,
  states_nd: jax.Array,
  target_n: jax.Array,
  at_day_n: jax.Array,
  seen_nw: jax.Array | None,
) -> dict[str, jax.Array]:
  scores_nv = model.score(states_nd, None, at_day_n)
  # Each device scored its own items; the ranking needs all of them.
  scores_nv = jax.sharding.reshard(scores_nv, PartitionSpec(None, None))
  kept_nv = ~jnp.isnan(scores_nv)
  if seen_nw is not None:
    kept_nv &= candidates(target_n, items=scores_nv.shape[1], seen_nw=seen_nw)
  top = min(TOP, scores_nv.shape[1])
  best_nk, item_nk = jax.lax.top_k(jnp.where(kept_nv, scores_nv, -jnp.inf), top)
  item_nk = jnp.where(best_nk > -jnp.inf, item_nk, 0)
  # The whole catalog, seen items included: it is the training objective.
  normalizer_n = jax.nn.logsumexp(scores_nv, axis=1)
  return {
    "rank": rank(scores_nv, target_n, seen_nw=seen_nw),
    "nll": normalizer_n - target_score(scores_nv, target_n),
    "top10_nk": jnp.pad(item_nk, ((0, 0), (0, TOP - top))),
  }

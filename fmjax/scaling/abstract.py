"""An experiment's loss and gradient as shapes: no data, no memory.

What counts are tested against, at full size, and what XLA's count is taken of.
A mesh must be in scope.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.config import Experiment
from fmjax.data.batch import Batch
from fmjax.data.catalog import Catalog, Daily
from fmjax.data.schema import DataSpec, Encoded, Kind, When
from fmjax.model.auxiliary import outcomes
from fmjax.model.recommender import Recommender
from fmjax.train.step import loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractStep:
  """Functions of (parameters, batch), and abstract arguments for them.

  Attributes:
    loss: sum of the losses of a batch.
    gradient: of `loss` by the parameters.
    params: shapes of the parameters, by top-level part of the model.
    batch: shapes of a batch.
    looks: of candidates (`model.daily`), on the one day of the catalog.
  """

  loss: Callable[[Any, Batch], jax.Array]
  gradient: Callable[[Any, Batch], Any]
  params: Any
  batch: Batch
  looks: int

  def part_sizes(self) -> dict[str, int]:
    """Parameters by attribute of the model."""
    return {
      str(part): sum(leaf.size for leaf in jax.tree.leaves(tree))
      for part, tree in self.params.items()
    }


def abstract_step(experiment: Experiment, spec: DataSpec) -> AbstractStep:
  """The training step's loss, with dropout as configured, for any catalog."""
  data = experiment.data

  def build() -> Recommender:
    return Recommender(
      experiment.model,
      spec,
      empty_catalog(spec),
      window=data.window,
      rngs=nnx.Rngs(params=0),
    )

  model = nnx.eval_shape(build)
  definition, params, content = nnx.split(model, nnx.Param, ...)

  def batch_loss(params: Any, batch: Batch) -> jax.Array:
    zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), content
    )
    total, _ = loss(
      nnx.merge(definition, params, zeros),
      batch,
      objective=experiment.objective,
      key=jax.random.key(0),
    )
    return total

  return AbstractStep(
    loss=batch_loss,
    gradient=jax.grad(batch_loss),
    params=params,
    batch=_batch(
      spec,
      rows=data.rows,
      window=data.window,
      outcomes=outcomes(experiment.model.auxiliary, spec),
    ),
    looks=model.items.feature_lf.shape[0] if model.items.has_looks else 0,
  )


def _empty(field: Encoded, count: int) -> np.ndarray:
  match field.feature.kind:
    case Kind.BAG:
      return np.zeros((count, field.values), np.int32)
    case Kind.CATEGORICAL | Kind.TIMESTAMP:
      return np.zeros(count, np.int32)
    case Kind.NUMERIC:
      return np.zeros(count, np.float32)
    case Kind.VECTOR:
      return np.zeros((count, field.size), np.float32)


def empty_catalog(spec: DataSpec) -> Catalog:
  """A catalog of the right shapes: a day on which nothing happened."""
  rows = spec.items
  return Catalog(
    item_ids=np.full(rows, "", object),
    titles=np.full(rows, "", object),
    launch_us_v=np.zeros(rows, np.int64),
    launch_declared_v=np.zeros(rows, bool),
    first_seen_us_v=np.zeros(rows, np.int64),
    train_count_v=np.zeros(rows, np.int32),
    metadata={e.feature.name: _empty(e, rows) for e in spec.metadata},
    daily=Daily(
      day=np.zeros(1, np.int32),
      item=np.zeros(1, np.int32),
      events=np.zeros(1, np.int32),
    ),
  )


def _batch(
  spec: DataSpec, *, rows: int, window: int, outcomes: tuple[str, ...]
) -> Batch:
  def shape(field: Encoded) -> Any:
    _, *rest = _empty(field, 1).shape
    return jax.ShapeDtypeStruct((rows, window, *rest), _empty(field, 1).dtype)

  # Typed loosely: a Batch of shapes stands where one of arrays would.
  whole: Any = jax.ShapeDtypeStruct((rows, window), jnp.int32)
  weight: Any = jax.ShapeDtypeStruct((rows, window), jnp.float32)
  previous: dict[str, Any] = {"item": whole, "time": whole}
  outcome: dict[str, Any] = {}
  for field in spec.known_at(When.POST_ACTION):
    name = field.feature.name
    values = {name: shape(field)}
    if field.feature.kind == Kind.BAG:
      values[f"{name}_count"] = jax.ShapeDtypeStruct(
        (rows, window, field.values), jnp.float32
      )
    previous |= values
    if name in outcomes:
      outcome |= values
  return Batch(
    item_bt=whole,
    weight_bt=weight,
    segment_bt=whole,
    position_bt=whole,
    time_bt=whole,
    user_bt=whole,
    index_bt=whole,
    request={
      field.feature.name: shape(field) for field in spec.known_at(When.REQUEST)
    },
    previous=previous,
    outcome=outcome,
  )

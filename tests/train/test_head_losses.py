"""What states predict besides the next item adds its part to the loss."""

import jax
import jax.numpy as jnp
import pytest
from item_world import moved

from fmjax import mesh
from fmjax.config import (
  Auxiliary,
  FullSoftmax,
  HierarchicalItems,
  IdOnly,
  ItemsConfig,
  MultiToken,
  override,
)
from fmjax.data import windows
from fmjax.model.auxiliary import outcomes
from fmjax.train.loop import make_model
from fmjax.train.loss import full_softmax
from fmjax.train.step import loss

OBJECTIVE = FullSoftmax(chunk=64)
TARGETS = ("action", "completion", "language")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def everything(small):
  return override(
    small,
    {
      "model.dropout": 0.0,
      "model.items": ItemsConfig(mixer=IdOnly()),
      "model.horizons": MultiToken(horizons=2, weight=0.5),
      "model.auxiliary": Auxiliary(targets=TARGETS, weight=0.3),
      "model.hierarchy": HierarchicalItems(attribute="genre", weight=0.2),
    },
  )


def on_mesh(experiment, prepared, compute, **shape):
  with mesh.use(mesh.make_mesh(**shape)):
    data = experiment.data
    batch = windows.training_batches(
      prepared,
      window=data.window,
      stride=data.stride,
      rows=data.rows,
      seed=0,
      outcomes=outcomes(experiment.model.auxiliary, prepared.spec),
    )[0]
    batch = mesh.shard_batch(batch, jax.sharding.get_mesh())
    model = moved(make_model(experiment, prepared))
    return jax.jit(compute)(model, batch)


def total(model, batch):
  return loss(model, batch, objective=OBJECTIVE, key=KEY)[0]


def with_parts(model, batch):
  """The loss, and what it is made of."""
  states_nd = model.encode(batch)
  weight_n = batch.weight_bt.reshape(-1)
  asked_nd, asked = model.targets(states_nd, batch)
  items = full_softmax(
    asked_nd,
    model.item_head(),
    item_bt=asked.item_bt,
    weight_bt=asked.weight_bt,
    at_day_bt=asked.at_day_bt,
    chunk=64,
  )
  fields = model.auxiliary.nll(states_nd, batch, model.items)
  attribute_n = model.hierarchy.nll(
    states_nd, model.items, batch.item_bt.reshape(-1)
  )
  return total(model, batch), {
    "items": items,
    **{name: jnp.sum(nll_n * weight_n) for name, nll_n in fields.items()},
    "genre": jnp.sum(attribute_n * weight_n),
  }


@pytest.fixture(scope="module")
def alone(everything, prepared):
  return on_mesh(everything, prepared, with_parts)


def test_the_loss_adds_up(alone):
  whole, parts = jax.tree.map(float, alone)
  fields = sum(parts[name] for name in TARGETS)
  assert all(part > 0 for part in parts.values())
  assert whole == pytest.approx(
    parts["items"] + 0.3 * fields / 3 + 0.2 * parts["genre"], rel=1e-5
  )


def test_the_loss_is_the_same_on_a_mesh(alone, everything, prepared):
  spread = on_mesh(everything, prepared, total, data=4, model=2)
  assert float(spread) == pytest.approx(float(alone[0]), rel=1e-5)

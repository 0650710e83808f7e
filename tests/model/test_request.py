import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  ConfigError,
  IdOnly,
  ItemOnly,
  ItemsConfig,
  ModelConfig,
  NoTime,
  PostActionOnly,
  SometimesNeutral,
)
from fmjax.data.schema import When
from fmjax.model.recommender import Recommender
from fmjax.model.request import SometimesUntold, make_request, without


@pytest.fixture
def fields(spec):
  """All request-time features."""
  return spec.known_at(When.REQUEST)


@pytest.fixture
def device(fields):
  return tuple(e for e in fields if e.feature.name == "device")


@jax.jit
def encode(model, batch):
  return model.encode(batch).reshape(*batch.item_bt.shape, -1)


@pytest.mark.parametrize(
  "name", ["device", "interests", "age", "joined", "profile"]
)
def test_what_is_left_out_is_missing_and_the_rest_is_as_it_was(
  name, fields, batch
):
  (field,) = (e for e in fields if e.feature.name == name)
  where_bt = np.zeros(batch.item_bt.shape, bool)
  where_bt[0, 2:5] = True
  left = without(batch, (field,), where_bt)
  values = np.asarray(left.request[name])
  missing = np.isnan(values) if field.feature.kind == "numeric" else values == 0
  assert missing[where_bt].all()
  np.testing.assert_array_equal(
    values[~where_bt], batch.request[name][~where_bt]
  )
  assert values.dtype == batch.request[name].dtype
  for other in fields:
    if other is not field:
      other_name = other.feature.name
      assert left.request[other_name] is batch.request[other_name]


def test_training_leaves_features_out_of_a_share_of_the_requests(
  batch_of, device
):
  batch = batch_of(rows=128)
  device_bt = np.full(batch.item_bt.shape, 3, np.int32)
  batch = dataclasses.replace(
    batch, request={**batch.request, "device": device_bt}
  )
  ask = jax.jit(SometimesUntold(device, 0.3).ask)
  left_out_bt = np.asarray(ask(batch, jax.random.key(0)).request["device"]) == 0
  error = (0.3 * 0.7 / left_out_bt.size) ** 0.5
  assert abs(left_out_bt.mean() - 0.3) < 3 * error
  # A query that is not told follows a history that is.
  last, before = left_out_bt[:, -1], left_out_bt[:, :-1]
  assert (last & ~before.all(axis=1)).any()


def test_the_same_requests_are_drawn_on_every_mesh(batch_of, fields):
  batch = batch_of(rows=8)
  drawn = []
  for devices in ((1, 1), (4, 2)):
    device_mesh = mesh.make_mesh(data=devices[0], model=devices[1])
    with mesh.use(device_mesh):
      spread = mesh.shard_batch(batch, device_mesh)
      asked = jax.jit(SometimesUntold(fields, 0.5).ask)(
        spread, jax.random.key(2)
      )
      drawn.append(jax.tree.map(np.asarray, asked.request))
  for name, values in drawn[0].items():
    np.testing.assert_array_equal(values, drawn[1][name])


def test_a_query_is_not_told_and_its_history_is_as_logged(
  catalog, batch, spec, device
):
  model = Recommender(
    ModelConfig(
      width=16, layers=1, time=NoTime(), items=ItemsConfig(mixer=IdOnly())
    ),
    dataclasses.replace(spec, features=device, metadata=()),
    catalog,
    window=batch.item_bt.shape[1],
    rngs=nnx.Rngs(params=0),
  )
  asked_bt = np.zeros(batch.item_bt.shape, np.float32)
  asked_bt[:, 5] = 1.0
  device_bt = 2 + np.arange(asked_bt.size).reshape(asked_bt.shape) % 5
  batch = dataclasses.replace(
    batch,
    weight_bt=asked_bt,
    request={**batch.request, "device": device_bt.astype(np.int32)},
  )
  elsewhere = dataclasses.replace(
    batch,
    request={
      **batch.request,
      "device": np.where(asked_bt > 0, 4, device_bt).astype(np.int32),
    },
  )
  told, untold = (encode(m, batch) for m in (model, model.untold(device)))
  np.testing.assert_array_equal(untold[:, :5], told[:, :5])
  assert np.all(np.any(untold[:, 5] != told[:, 5], axis=-1))
  np.testing.assert_array_equal(encode(model.untold(device), elsewhere), untold)
  missing = without(batch, device, asked_bt > 0)
  np.testing.assert_array_equal(encode(model, missing), untold)


@pytest.mark.parametrize(
  "names,features,expected",
  [
    (("devise",), None, "no request-time feature of this log; did you mean 'd"),
    (("rating",), None, "'rating', which is known only after the action"),
    (("device",), PostActionOnly(), "which model.features=PostActionOnly()"),
    (("device",), ItemOnly(), "use AllFeatures()"),
  ],
)
def test_what_cannot_be_left_out_is_refused(names, features, expected, spec):
  config = ModelConfig(request=SometimesNeutral(names=names))
  if features is not None:
    config = dataclasses.replace(config, features=features)
  with pytest.raises(ConfigError) as error:
    make_request(config, spec)
  assert expected in str(error.value)

"""Each kind of feature becomes what its declaration says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax.config import (
  AllFeatures,
  CalendarTime,
  ItemOnly,
  LogGap,
  ModelConfig,
  NoGap,
  NoTime,
  PostActionOnly,
)
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind, When
from fmjax.model.features import (
  FIELD_WIDTH,
  Clock,
  EventEmbedder,
  FieldEmbedder,
  clock_width,
  field_width,
)


def field(kind, *, log=False, **sizes) -> Encoded:
  return Encoded(feature=Feature(name="x", kind=kind, log=log), **sizes)


def embed(encoded: Encoded, **values) -> np.ndarray:
  embedder = FieldEmbedder((encoded,), rngs=nnx.Rngs(params=0))
  arrays = {name: jnp.asarray(value) for name, value in values.items()}
  found_nm = np.asarray(jax.jit(lambda e, a: e(a))(embedder, arrays))
  assert found_nm.shape[1] == embedder.width == field_width(encoded)
  assert np.isfinite(found_nm).all()
  return found_nm


def table(encoded: Encoded) -> np.ndarray:
  embedder = FieldEmbedder((encoded,), rngs=nnx.Rngs(params=0))
  return np.asarray(embedder.tables["x"][...])


def test_a_categorical_is_its_row_and_zeros_where_training_knows_none():
  category = field(Kind.CATEGORICAL, size=5)
  found_nm = embed(category, x=np.array([0, 1, 2, 4], np.int32))
  assert found_nm.shape == (4, FIELD_WIDTH)
  assert not found_nm[:2].any()  # missing; not in the training vocabulary
  np.testing.assert_array_equal(found_nm[2:], table(category)[[2, 4]])


def test_a_bag_is_the_mean_of_the_values_that_training_knows():
  bag = field(Kind.BAG, size=5, values=3)
  codes_nw = np.array([[0, 0, 0], [3, 0, 0], [3, 4, 0], [3, 1, 4]], np.int32)
  rows = table(bag)
  both = (rows[3] + rows[4]) / 2
  want = np.stack([0 * both, rows[3], both, both])
  np.testing.assert_allclose(embed(bag, x=codes_nw), want, atol=1e-6)
  counts_nw = np.array([[0, 0, 0], [5, 0, 0], [3, 1, 0], [3, 9, 1]])
  weighted = (3 * rows[3] + rows[4]) / 4
  want = np.stack([0 * both, rows[3], weighted, weighted])
  found_nm = embed(bag, x=codes_nw, x_count=counts_nw.astype(np.float32))
  np.testing.assert_allclose(found_nm, want, atol=1e-6)


def test_a_number_is_itself_and_known_or_zeros():
  found_nm = embed(field(Kind.NUMERIC), x=np.array([-7.5, 0.0, np.nan], "f4"))
  assert found_nm.tolist() == [[-7.5, 1], [0, 1], [0, 0]]


def test_a_log_scaled_number_is_in_a_bucket_too():
  values = np.array([-99, -3, -2.9, -1e-6, 0, 2.9, 3, 99, np.nan], "f4")
  found_nm = embed(field(Kind.NUMERIC, log=True), x=values)
  assert found_nm.shape == (len(values), 1 + 16 + 1)
  np.testing.assert_array_equal(found_nm[:-1, 0], values[:-1])
  assert (found_nm[:-1, -1] == 1).all()
  assert not found_nm[-1].any()
  bucket_nm = found_nm[:-1, 1:-1]
  assert (bucket_nm.sum(1) == 1).all()
  assert bucket_nm.argmax(1).tolist() == [0, 0, 0, 7, 8, 15, 15, 15]


def test_a_timestamp_is_its_date_and_known_also_before_1970():
  seconds = np.array([0, -(10**9), 10**9, 10**9 + 3 * 365 * 86_400], np.int32)
  found_nm = embed(field(Kind.TIMESTAMP), x=seconds)
  assert not found_nm[0].any()
  assert (found_nm[1:, -1] == 1).all()
  # The same day of another year is another date.
  assert np.abs(found_nm[2] - found_nm[3]).max() > 0.5


def test_a_vector_is_itself_and_known_and_zeros_where_it_is_missing():
  vectors_nm = np.array([[0, 0, 0], [0, 0, 0.5], [-1, 2, 0]], "f4")
  found_nm = embed(field(Kind.VECTOR, size=3), x=vectors_nm)
  np.testing.assert_array_equal(found_nm[:, :3], vectors_nm)
  assert found_nm[:, 3].tolist() == [0, 1, 1]


# ---- which of them -----------------------------------------------------------


def features_read(config, spec: DataSpec) -> dict[str, set[str]]:
  events = EventEmbedder(config, spec, window=8, rngs=nnx.Rngs(params=0))
  return {
    "request": {f.feature.name for f in events.request.fields},
    "previous": {f.feature.name for f in events.previous.fields},
  }


def test_each_choice_of_features_reads_what_it_says(spec):
  declared = {
    when: {f.feature.name for f in spec.known_at(when)} for when in When
  }
  request, post_action = declared[When.REQUEST], declared[When.POST_ACTION]
  for choice, want in {
    AllFeatures(): (request, post_action),
    PostActionOnly(): (set(), post_action),
    ItemOnly(): (set(), set()),
  }.items():
    read = features_read(ModelConfig(width=16, features=choice), spec)
    assert (read["request"], read["previous"]) == want


@pytest.mark.parametrize("features", [AllFeatures(), ItemOnly()], ids=str)
@pytest.mark.parametrize("gap", [NoGap(), LogGap(buckets=4)], ids=str)
@pytest.mark.parametrize("time", [NoTime(), CalendarTime()], ids=str)
def test_time_has_switches_of_its_own(features, time, gap, spec, batch):
  config = ModelConfig(width=16, features=features, time=time, gap=gap)
  clock = Clock(config, spec)
  assert sum(part.shape[1] for part in clock(batch)) == clock_width(config)
  events = EventEmbedder(config, spec, window=8, rngs=nnx.Rngs(params=0))
  item_nd = jnp.zeros((batch.item_bt.size, 16))
  x_nd = np.asarray(events(batch, item_nd))
  assert x_nd.shape == item_nd.shape
  assert np.isfinite(x_nd).all()
  assert events.has_request == (
    features == AllFeatures() or gap != NoGap() or time != NoTime()
  )

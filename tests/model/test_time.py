"""What the model knows of time, and what it does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import (
  CalendarTime,
  ConfigError,
  Experiment,
  FullAttention,
  FusedAttention,
  ItemOnly,
  LogBucketBias,
  LogGap,
  ModelConfig,
  NoTime,
  override,
  validate,
)
from fmjax.data import windows
from fmjax.model.recommender import Recommender
from fmjax.model.time import (
  DATE_WIDTH,
  bucket_edges,
  calendar_terms,
  date_terms,
  gap_terms,
  log_bucket,
  relative_buckets,
)

WINDOW = 8
DAY, YEAR = 86_400, 365 * 86_400


@jax.jit
def encode(model, batch):
  return model.encode(batch).reshape(*batch.item_bt.shape, -1)


# Time is tested on items alone: other features only take longer to compile.
PLAIN = ModelConfig(width=16, features=ItemOnly(), time=NoTime())
BIASED = override(PLAIN, {"relative_time": LogBucketBias()})


def filled(model):
  """Biases that differ by layer, head and bucket."""
  biases = model.blocks.attention.time_bias.bias_hi
  drawn = np.random.default_rng(3).normal(size=biases.shape)
  biases[...] = jnp.asarray(drawn, jnp.float32)
  return model


def shifted(batch, seconds):
  """Every event of every history, so much later."""
  before_bt = batch.previous["time"]
  moved_bt = np.where(batch.index_bt > 0, before_bt + seconds, before_bt)
  return dataclasses.replace(
    batch,
    time_bt=batch.time_bt + np.int32(seconds),
    previous={**batch.previous, "time": moved_bt.astype(np.int32)},
  )


# ---- absolute time ---------------------------------------------------------


def test_calendar_terms_know_the_hour_and_the_weekday():
  monday_noon = 1_382_356_800  # 2013-10-21 12:00 UTC
  terms = np.asarray(calendar_terms(jnp.array([monday_noon]), slow=2))[0]
  assert terms[:24].argmax() == 12
  assert terms[24:31].argmax() == 0
  assert terms[:24].sum() == terms[24:31].sum() == 1
  assert len(terms) == 31 + 4


def test_dates_of_different_years_differ_as_seasons_do():
  years = np.arange(-60, 68)  # what int32 seconds hold
  dates = jnp.asarray(years * 365.25 * DAY, jnp.int32)
  terms_nd = np.asarray(date_terms(dates))
  assert terms_nd.shape == (len(years), DATE_WIDTH)
  distance = np.linalg.norm(terms_nd[:, None] - terms_nd[None], axis=-1)
  assert distance[~np.eye(len(years), dtype=bool)].min() > 0.5
  spring, autumn = date_terms(jnp.array([90 * DAY, 270 * DAY]))
  assert np.linalg.norm(spring - autumn) > 0.5


# ---- buckets of time spans -------------------------------------------------


def test_buckets_go_from_a_second_to_ten_years():
  edges = bucket_edges(32)
  assert len(edges) == 31
  assert edges[0] == 1
  assert edges[-1] == 10 * YEAR
  ratio = edges[11:] / edges[10:-1]
  np.testing.assert_allclose(ratio, ratio[0], rtol=0.01)
  assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize("buckets", [2, 3, 32, 256])
def test_the_bucket_of_a_span_is_the_last_that_has_begun(buckets):
  edges = bucket_edges(buckets)
  bucket_of = jax.jit(lambda seconds: log_bucket(seconds, buckets=buckets))

  @settings(deadline=None)  # the first example compiles
  @given(st.integers(-(2**31), 2**31 - 1))
  def check(seconds):
    found = bucket_of(np.array([seconds], np.int32))
    assert found.dtype == jnp.uint8
    assert found[0] == (edges <= seconds).sum()

  check()
  at_edges = log_bucket(jnp.asarray(edges), buckets=buckets)
  just_before = log_bucket(jnp.asarray(edges - 1), buckets=buckets)
  assert (at_edges > just_before).all()
  assert at_edges.max() == buckets - 1
  assert just_before.min() == 0


def test_a_tie_is_in_bucket_zero_and_a_later_query_in_no_smaller_one(batch_of):
  batch = batch_of(rows=20, seed=5)
  time_bt = batch.time_bt.copy()
  time_bt[:, 3] = time_bt[:, 2]
  before_bt = np.zeros_like(time_bt)
  before_bt[:, 1:] = time_bt[:, :-1]
  batch = dataclasses.replace(
    batch, time_bt=time_bt, previous={**batch.previous, "time": before_bt}
  )
  bucket_bts = np.asarray(relative_buckets(batch, buckets=32)).astype(int)
  assert (bucket_bts[:, 3, 3] == 0).all()
  causal_ts = np.tril(np.ones((WINDOW, WINDOW), bool))
  for earlier, later in zip(range(WINDOW - 1), range(1, WINDOW), strict=True):
    seen_s = causal_ts[earlier]
    grows = bucket_bts[:, later] >= bucket_bts[:, earlier]
    assert grows[:, seen_s].all()


def test_the_start_of_a_history_is_as_old_as_its_first_request(batch):
  bucket_bts = relative_buckets(batch, buckets=32)
  since_first_bt = batch.time_bt - batch.time_bt[:, :1]
  np.testing.assert_array_equal(
    bucket_bts[:, :, 0], log_bucket(jnp.asarray(since_first_bt), buckets=32)
  )


def test_a_window_within_a_history_knows_when_the_token_before_it_was(batch):
  within = dataclasses.replace(
    batch,
    index_bt=batch.index_bt + 7,
    previous={**batch.previous, "time": batch.time_bt - 100},
  )
  bucket_bts = relative_buckets(within, buckets=32)
  hundred = log_bucket(jnp.array([100]), buckets=32)[0]
  diagonal_bt = np.asarray(bucket_bts)[:, range(WINDOW), range(WINDOW)]
  assert (diagonal_bt == hundred).all()


def test_the_gap_before_a_first_token_is_a_bucket_of_its_own():
  time_n = jnp.array([1_000, 1_000, 1_000, 1_000], jnp.int32)
  before_n = jnp.array([1_000, 999, 0, 0], jnp.int32)
  is_start_n = jnp.array([False, False, False, True])
  terms_nd = np.asarray(
    gap_terms(time_n, before_n, is_start_n=is_start_n, buckets=32)
  )
  assert terms_nd.shape == (4, 33)
  assert (terms_nd.sum(1) == 1).all()
  thousand = int(log_bucket(jnp.array([1_000]), buckets=32)[0])
  assert terms_nd.argmax(1).tolist() == [0, 1, thousand, 32]


def test_time_never_goes_backwards_within_a_history(log_batches):
  for batch in log_batches:
    held_bt = (batch.segment_bt > 0) & (batch.index_bt > 0)
    gap_bt = batch.time_bt - batch.previous["time"]
    assert held_bt.any()
    assert (gap_bt[held_bt] >= 0).all()
    bucket_bts = np.asarray(relative_buckets(batch, buckets=32)).astype(int)
    same_bts = batch.segment_bt[:, :, None] == batch.segment_bt[:, None, :]
    causal_ts = np.tril(np.ones(same_bts.shape[1:], bool))
    # Older keys are in no smaller buckets.
    both_bts = (same_bts & causal_ts)[:, :, 1:] & same_bts[:, :, :-1]
    falls_bts = bucket_bts[:, :, :-1] >= bucket_bts[:, :, 1:]
    assert falls_bts[both_bts].all()


@pytest.fixture
def log_batches(prepared_of):
  """Of a log with ties, short histories (packed) and long ones (windows)."""
  rng = np.random.default_rng(0)
  events = [
    {
      "user_id": f"u{user}",
      "item_id": f"i{rng.integers(9)}",
      "timestamp": 1_600_000_000 + int(seconds),
    }
    for user, length in enumerate([3, 40, 2, 5, 25, 9])
    for seconds in np.sort(rng.integers(0, 60, length)) * 1_000
  ]
  dataset = windows.training_batches(
    prepared_of(events), window=8, stride=4, rows=4, seed=0
  )
  return [dataset[t] for t in range(6)]


# ---- the bias in the model -------------------------------------------------


def test_fresh_biases_are_zero_and_equal_no_bias_to_the_bit(
  block, build, batch
):
  plain, biased = (override(c, {"block": block}) for c in (PLAIN, BIASED))
  model = build(biased)
  assert not np.any(model.blocks.attention.time_bias.bias_hi[...])
  np.testing.assert_array_equal(
    encode(model, batch), encode(build(plain), batch)
  )


def test_every_layer_and_head_has_biases_that_reach_the_states(
  block, build, batch
):
  biased = override(BIASED, {"block": block})
  base = encode(build(biased), batch)
  bucket = int(relative_buckets(batch, buckets=32)[0, -1, 2])
  for layer in range(biased.layers):
    for head in range(biased.heads):
      model = build(biased)
      biases = model.blocks.attention.time_bias.bias_hi
      biases[...] = biases[...].at[layer, head, bucket].set(2.0)
      assert np.any(encode(model, batch) != base)


def test_biases_learn_from_the_pairs_that_are_seen(build, batch):
  model = build(BIASED)
  definition, params, content = nnx.split(model, nnx.Param, ...)

  def total(params):
    states_nd = nnx.merge(definition, params, content).encode(batch)
    return jnp.sum(jnp.sin(states_nd))

  grad = jax.jit(jax.grad(total))(params)
  grad_lhi = grad.blocks.attention.time_bias.bias_hi[...]
  bucket_bts = np.asarray(relative_buckets(batch, buckets=32))
  causal_ts = np.tril(np.ones((WINDOW, WINDOW), bool))
  seen = np.unique(bucket_bts[:, causal_ts])
  unseen = np.setdiff1d(np.arange(32), seen)
  assert np.any(grad_lhi[:, :, seen], axis=-1).all()
  assert not np.any(grad_lhi[:, :, unseen])


def test_shifting_all_times_of_a_user_changes_nothing_relative(build, batch):
  config = override(BIASED, {"gap": LogGap()})
  model = filled(build(config))
  base = encode(model, batch)
  for seconds in (1, 3 * DAY + 7, -YEAR):
    np.testing.assert_array_equal(encode(model, shifted(batch, seconds)), base)


def test_shifting_all_times_of_a_user_changes_the_calendar(build, batch):
  model = filled(build(override(BIASED, {"time": CalendarTime()})))
  later = encode(model, shifted(batch, 3 * DAY + 7_200))
  assert np.any(later != encode(model, batch))


@pytest.mark.parametrize("choice", ["relative_time", "gap"])
def test_each_switch_reads_the_spans_alone(choice, build, batch):
  arms = {"relative_time": LogBucketBias(), "gap": LogGap()}
  model = build(override(PLAIN, {choice: arms[choice]}))
  if choice == "relative_time":
    filled(model)
  slower = dataclasses.replace(
    batch,
    time_bt=batch.time_bt + 1_000_000 * np.arange(WINDOW, dtype=np.int32),
  )
  assert np.any(encode(model, slower) != encode(model, batch))
  plain = build(PLAIN)
  np.testing.assert_array_equal(encode(plain, slower), encode(plain, batch))


# ---- what is refused -------------------------------------------------------


@pytest.mark.parametrize(
  "change,remedy",
  [
    ({"time": CalendarTime()}, "NoTime()"),
    ({"gap": LogGap()}, "NoGap()"),
    ({"relative_time": LogBucketBias()}, "NoRelativeTime()"),
  ],
)
def test_a_log_without_times_is_refused_with_the_remedy(
  change, remedy, spec, catalog
):
  untimed = dataclasses.replace(spec, timed=False)

  def build(config):
    rngs = nnx.Rngs(params=0)
    Recommender(config, untimed, catalog, window=WINDOW, rngs=rngs)

  build(PLAIN)
  ((name, choice),) = change.items()
  with pytest.raises(ConfigError) as error:
    build(override(PLAIN, change))
  for words in (f"model.{name}={choice}", "order", f"use {remedy}"):
    assert words in str(error.value)


@pytest.mark.parametrize("buckets", [1, 257])
@pytest.mark.parametrize("path", ["gap", "relative_time"])
def test_buckets_that_no_byte_holds_are_refused(path, buckets):
  kind = {"gap": LogGap, "relative_time": LogBucketBias}[path]
  config = override(Experiment(), {f"model.{path}": kind(buckets=buckets)})
  with pytest.raises(ConfigError, match=f"model.{path}.buckets={buckets} "):
    validate(config)
  for allowed in (2, 256):
    validate(override(config, {f"model.{path}": kind(buckets=allowed)}))


def test_fused_attention_with_a_bias_is_refused_with_the_remedy():
  config = override(Experiment(), {"model.relative_time": LogBucketBias()})
  validate(config)
  assert config.model.attention == FullAttention()
  fused = override(config, {"model.attention": FusedAttention()})
  with pytest.raises(ConfigError, match=r"use FullAttention\(\)"):
    validate(fused)

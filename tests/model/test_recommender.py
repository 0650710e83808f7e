import dataclasses
import operator
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmjax.config import (
  Attention,
  BidirectionalAttention,
  GatedBlock,
  HstuBlock,
  IdOnly,
  ItemOnly,
  ItemsConfig,
  LogBucketBias,
  MetadataOnly,
  Mixer,
  ModelConfig,
  NoRemat,
  NoTime,
  PlainResidual,
  RematBlocks,
  RematElementwise,
  SasrecBlock,
  SumMixer,
)
from fmjax.data.batch import Batch

ROWS, WINDOW = 2, 8
SAME_FIXTURES = [HealthCheck.function_scoped_fixture]


@jax.jit
def encode(model, batch):
  return model.encode(batch).reshape(*batch.item_bt.shape, -1)


@jax.jit
def score_all(model, batch):
  day_n = np.zeros(batch.item_bt.size, np.int32)
  return model.score(model.encode(batch), None, day_n)


@jax.jit
def score_some(model, batch, candidates_c):
  day_n = np.zeros(batch.item_bt.size, np.int32)
  return model.score(model.encode(batch), candidates_c, day_n)


@jax.jit
def encode_dropped(model, batch, key):
  return model.encode(batch, dropout_key=key)


def edit(batch: Batch, change) -> Batch:
  """`change(name, array)` over every array of a batch."""
  request = {k: change(f"request.{k}", v) for k, v in batch.request.items()}
  previous = {k: change(f"previous.{k}", v) for k, v in batch.previous.items()}
  own = {
    field.name: change(field.name, getattr(batch, field.name))
    for field in dataclasses.fields(batch)
    if field.name not in ("request", "previous", "outcome")
  }
  return Batch(**own, request=request, previous=previous)


def test_invariants_are_asked_of_every_choice(reading_models):
  asked = {
    path: {type(operator.attrgetter(path)(model)) for model in reading_models}
    for path in ("block", "attention", "positions", "items.mixer")
  }
  hints = typing.get_type_hints(ModelConfig)
  assert asked == {
    "block": set(typing.get_args(hints["block"])),
    # Of the one that reads in both directions test_reading.py tells.
    "attention": {*typing.get_args(Attention)} - {BidirectionalAttention},
    "positions": set(typing.get_args(hints["positions"])),
    # Alone, ids and metadata are asked by test_items.py.
    "items.mixer": {*typing.get_args(Mixer)} - {IdOnly, MetadataOnly},
  }


def test_states_are_bit_equal_after_any_change_of_later_events(model, batch):
  @settings(max_examples=20, deadline=None, suppress_health_check=SAME_FIXTURES)
  @given(st.integers(1, WINDOW - 1), st.integers(0, 2**31))
  def check(cut, seed):
    rng = np.random.default_rng(seed)
    fixed = ("segment_bt", "position_bt", "index_bt", "user_bt", "weight_bt")

    def later(name, array):
      # What is known of a token's outcome appears as `previous` one later, so
      # at `cut` everything may change but what came before it.
      if name in fixed:
        return array
      changed = array.copy()
      shuffled = array.reshape(-1, *array.shape[2:])
      picks = rng.integers(0, len(shuffled), (ROWS, WINDOW - cut))
      changed[:, cut:] = shuffled[picks]
      return changed

    before = encode(model, batch)
    after = encode(model, edit(batch, later))
    np.testing.assert_array_equal(before[:, :cut], after[:, :cut])

  check()


def test_a_token_never_sees_its_own_outcome(model, batch):
  outcome = dataclasses.replace(
    batch, item_bt=batch.item_bt[::-1], weight_bt=batch.weight_bt * 0
  )
  np.testing.assert_array_equal(encode(model, batch), encode(model, outcome))


def test_the_gradient_into_the_future_is_exactly_zero(model, batch):
  def state_sum(inputs, position):
    floats = edit(batch, lambda name, array: inputs.get(name, array))
    states_btd = model.encode(floats).reshape(ROWS, WINDOW, -1)
    return states_btd[:, position].sum()

  inputs = {}
  edit(
    batch,
    lambda name, array: (
      inputs.update({name: jnp.asarray(array)})
      if array.dtype == np.float32
      else None
    ),
  )
  inputs = {n: jnp.nan_to_num(a) for n, a in inputs.items()}
  gradient = jax.jit(jax.grad(state_sum))
  reached = 0.0
  for position in (0, 3, WINDOW - 1):
    grads = gradient(inputs, position)
    for grad in grads.values():
      assert not np.any(grad[:, position + 1 :])
      reached += float(jnp.abs(grad[:, : position + 1]).sum())
  assert reached > 0


def test_every_feature_reaches_the_states(model, batch):
  base = encode(model, batch)
  for kind in ("request", "previous"):
    for name in getattr(batch, kind):
      other = edit(
        batch, lambda n, a, n_=f"{kind}.{name}": a[::-1] if n == n_ else a
      )
      assert np.any(base != encode(model, other)), f"{kind}.{name}"
  later = dataclasses.replace(batch, time_bt=batch.time_bt + 3_600 * 7)
  assert np.any(base != encode(model, later))


def test_packed_and_unpacked_windows_give_the_same_losses(model, batch_of):
  lengths = [3, 5, 2, 4, 1, 1]
  rows = batch_of(rows=len(lengths), seed=3)
  inside_bt = np.arange(WINDOW) < np.array(lengths)[:, None]

  def unpack(name, array):
    mask = inside_bt.reshape(*inside_bt.shape, *[1] * (array.ndim - 2))
    return np.where(mask, array, 0).astype(array.dtype)

  places = [(0, 0), (0, 3), (1, 0), (1, 2), (1, 6), (1, 7)]  # (row, offset)

  def pack(name, array):
    packed = np.zeros((2, WINDOW, *array.shape[2:]), array.dtype)
    segment = {0: 0, 1: 0}
    for window, (row, offset) in enumerate(places):
      end = offset + lengths[window]
      packed[row, offset:end] = array[window, : lengths[window]]
      if name == "segment_bt":
        segment[row] += 1
        packed[row, offset:end] = segment[row]
    return packed

  alone, together = edit(rows, unpack), edit(rows, pack)

  def nll(batch):
    # As many rows at a time as elsewhere: one program less to compile.
    pairs = [
      edit(batch, lambda _, array, row=row: array[row : row + ROWS])
      for row in range(0, len(batch.item_bt), ROWS)
    ]
    logits_nv = np.concatenate([score_all(model, pair) for pair in pairs])
    logits_nv = logits_nv.astype(np.float64)
    log_nv = scipy.special.log_softmax(logits_nv, axis=-1)
    picked_n = log_nv[np.arange(len(log_nv)), batch.item_bt.reshape(-1)]
    return -picked_n.reshape(batch.item_bt.shape)

  alone_bt, together_bt = nll(alone), nll(together)
  for window, (row, offset) in enumerate(places):
    length = lengths[window]
    np.testing.assert_allclose(
      together_bt[row, offset : offset + length],
      alone_bt[window, :length],
      rtol=1e-5,
    )


def test_scanned_layers_equal_unrolled_ones(model, batch):
  @jax.jit
  def unrolled(model, batch):
    definition, params = nnx.split(model.blocks)
    item_nd = model.items.embed(
      batch.previous["item"].reshape(-1), batch.previous["time"].reshape(-1)
    )
    x_nd = model.events(batch, item_nd * model.input_scale)
    sight = model.blocks.attention.prepare(batch)
    for layer in range(2):
      own = jax.tree.map(lambda p, i=layer: p[i], params)
      block = nnx.merge(definition, own)
      x_nd = block(
        x_nd,
        position_bt=batch.position_bt,
        sight=sight,
        dropout_key=None,
      )
    return model.final_norm(x_nd).reshape(*batch.item_bt.shape, -1)

  np.testing.assert_allclose(
    encode(model, batch), unrolled(model, batch), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  "block",
  [
    GatedBlock(),
    HstuBlock(),
    pytest.param(GatedBlock(residual=PlainResidual()), marks=pytest.mark.slow),
    pytest.param(SasrecBlock(), marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_rematerialized_blocks_equal_stored_ones(block, build, batch):
  def gradient(remat):
    config = ModelConfig(
      width=16,
      layers=1,
      block=block,
      features=ItemOnly(),
      time=NoTime(),
      relative_time=LogBucketBias(),
      remat=remat,
    )
    definition, params, content = nnx.split(build(config), nnx.Param, ...)

    def total(params):
      model = nnx.merge(definition, params, content)
      states_nd = model.encode(batch, dropout_key=jax.random.key(0))
      return jnp.sum(jnp.sin(states_nd))

    traced = jax.jit(jax.grad(total)).trace(params)
    recomputed = str(traced.jaxpr).count("remat")
    return traced.lower().compile()(params), recomputed

  stored, none = gradient(NoRemat())
  for remat in (RematElementwise(), RematBlocks()):
    made_again, some = gradient(remat)
    assert none == 0 < some
    for got, want in zip(
      jax.tree.leaves(made_again), jax.tree.leaves(stored), strict=True
    ):
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_dropout_draws_by_key_and_only_with_one(block, build, batch):
  model = build(ModelConfig(width=16, block=block, features=ItemOnly()))
  key = jax.random.key(7)
  same = [encode_dropped(model, batch, key) for _ in range(2)]
  np.testing.assert_array_equal(*same)
  other = encode_dropped(model, batch, jax.random.key(8))
  assert np.any(same[0] != other)
  plain = encode(model, batch).reshape(same[0].shape)
  assert np.any(same[0] != plain)


def test_the_id_of_an_item_without_training_events_is_masked(
  spec, catalog, batch, model
):
  noisy = nnx.clone(model)
  unseen_v = ~(np.pad(catalog.train_count_v, (0, 128 - spec.items)) > 0)
  noise = jnp.where(jnp.asarray(unseen_v)[:, None], 100.0, 0.0)
  noisy.items.id_vd[...] = noisy.items.id_vd[...] + noise
  np.testing.assert_array_equal(encode(model, batch), encode(noisy, batch))
  np.testing.assert_array_equal(
    score_all(model, batch), score_all(noisy, batch)
  )


def test_an_unseen_item_is_scored_by_its_metadata(catalog, batch, model):
  unseen = [7, 14]  # both without training events
  assert not catalog.train_count_v[unseen].any()
  logits_nc = np.asarray(score_all(model, batch))[:, unseen]
  assert np.all(np.isfinite(logits_nc))
  assert np.any(logits_nc[:, 0] != logits_nc[:, 1])


def test_scores_of_candidates_equal_those_of_the_whole_catalog(model, batch):
  # As many candidates as rows, so that equal sums are made in equal order.
  candidates_c = np.random.default_rng(0).integers(0, model.items.rows, 128)
  np.testing.assert_array_equal(
    score_some(model, batch, candidates_c),
    np.asarray(score_all(model, batch))[:, candidates_c],
  )


def test_rows_that_are_no_items_score_minus_infinity(model, spec, batch):
  logits_nv = np.asarray(score_all(model, batch))
  assert np.all(logits_nv[:, 0] == -np.inf)
  assert np.all(logits_nv[:, spec.items :] == -np.inf)
  assert np.all(np.isfinite(logits_nv[:, 1 : spec.items]))


@pytest.mark.parametrize("mixer", [SumMixer(), IdOnly()])
def test_id_only_has_no_metadata_parameters(build, mixer):
  config = ModelConfig(
    width=16,
    items=ItemsConfig(mixer=mixer),
    features=ItemOnly(),
    time=NoTime(),
  )
  params = nnx.state(build(config), nnx.Param)
  names = {
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  has_metadata = any("metadata" in name for name in names)
  assert has_metadata == (mixer == SumMixer())
  assert not any("request" in name or "previous" in name for name in names)


def test_bfloat16_states_are_close_to_float32_ones(build, batch):
  def states(dtype):
    model = build(ModelConfig(width=16, dtype=dtype))
    for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
      assert leaf.dtype == jnp.float32
    return encode(model, batch)

  wide, narrow = states("float32"), states("bfloat16")
  assert narrow.dtype == jnp.float32
  error = np.linalg.norm(wide - narrow) / np.linalg.norm(wide)
  assert 0 < error < 0.02

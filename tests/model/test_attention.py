"""Every form of attention equals attention written out whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.model import attention as attention_lib
from fmjax.model.attention import (
  Full,
  Fused,
  TimeBias,
  fused_kernel,
  query_blocks,
)


def dense(q_bthe, k_bshe, v_bshe, *, segment_bt, bias_bhts=0.0):
  """The plain twin: every pair of positions, then a mask."""
  t, e = q_bthe.shape[1], q_bthe.shape[3]
  logits_bhts = jnp.einsum("bthe,bshe->bhts", q_bthe, k_bshe) / np.sqrt(e)
  logits_bhts = logits_bhts + bias_bhts
  same_bts = segment_bt[:, :, None] == segment_bt[:, None, :]
  seen_bts = same_bts & np.tril(np.ones((t, t), bool))[None]
  logits_bhts = jnp.where(seen_bts[:, None], logits_bhts, -jnp.inf)
  return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(logits_bhts), v_bshe)


def inputs(window, *, rows=3, heads=2, seed=0):
  rng = np.random.default_rng(seed)
  q_bthe, k_bshe, v_bshe = (
    jnp.asarray(rng.normal(size=(rows, window, heads, 4)), jnp.float32)
    for _ in range(3)
  )
  segment_bt = np.sort(rng.integers(0, 5, (rows, window)), axis=1)
  return (q_bthe, k_bshe, v_bshe), jnp.asarray(segment_bt, jnp.int32)


FORMS = [Full(dropout=0.5), Fused()]
each_form = pytest.mark.parametrize("attention", FORMS, ids=["full", "fused"])


@each_form
@pytest.mark.parametrize("window", [1, 8, 64, 65, 130, 200])
def test_every_form_equals_the_whole_written_out(attention, window):
  arrays, segment_bt = inputs(window)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=arrays[0].shape))

  def total(attend):
    return lambda arrays: jnp.sum(attend(*arrays) * weights)

  def blocks(*arrays):
    return attention(*arrays, segment_bt=segment_bt, dropout_key=None)

  def whole(*arrays):
    return dense(*arrays, segment_bt=segment_bt)

  np.testing.assert_allclose(
    jax.jit(blocks)(*arrays), jax.jit(whole)(*arrays), atol=1e-5
  )
  got = jax.jit(jax.grad(total(blocks)))(arrays)
  want = jax.jit(jax.grad(total(whole)))(arrays)
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@each_form
@pytest.mark.parametrize("window", [64, 200])
def test_no_form_sees_a_later_position_to_the_bit(attention, window):
  arrays, segment_bt = inputs(window)

  @jax.jit
  def run(arrays):
    return attention(
      *arrays, segment_bt=segment_bt, dropout_key=jax.random.key(0)
    )

  before = run(arrays)
  for cut in (1, 50, window - 1):
    later = tuple(x.at[:, cut:].add(1.0) for x in arrays)
    assert (run(later)[:, :cut] == before[:, :cut]).all()
    assert not (run(later)[:, cut:] == before[:, cut:]).all()


@pytest.mark.parametrize("window", [1, 63, 64, 65, 200, 1_024, 5_000])
def test_blocks_partition_the_window_evenly(window):
  blocks = query_blocks(window)
  assert [blocks[0][0], blocks[-1][1]] == [0, window]
  assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
  sizes = [end - start for start, end in blocks]
  assert max(sizes) - min(sizes) <= 1
  assert len(blocks) <= 16
  assert max(sizes) <= 64 or len(blocks) == 16


def test_dropped_weights_are_unbiased_and_drawn_by_key():
  arrays, segment_bt = inputs(130)
  attention = Full(dropout=0.3)
  want = attention(*arrays, segment_bt=segment_bt, dropout_key=None)

  @jax.jit
  @jax.vmap
  def draw(key):
    return attention(*arrays, segment_bt=segment_bt, dropout_key=key)

  drawn = draw(jax.random.split(jax.random.key(0), 400))
  assert not (drawn[0] == drawn[1]).all()
  error = np.asarray(drawn.mean(0) - want)
  scale = np.asarray(drawn.std(0)) / 20 + 1e-6
  assert np.abs(error / scale).mean() < 1.2  # of a normal: .8


# ---- a bias of time ----------------------------------------------------------


def biased(heads=2, buckets=7, seed=2):
  bias = TimeBias(heads, buckets)
  drawn_hi = np.random.default_rng(seed).normal(size=(heads, buckets))
  bias.bias_hi[...] = jnp.asarray(drawn_hi, jnp.float32)
  return Full(dropout=0.5, time_bias=bias)


def any_buckets(rows, window, buckets=7):
  drawn = np.random.default_rng(3).integers(0, buckets, (rows, window, window))
  return jnp.asarray(drawn, jnp.uint8)


@pytest.mark.parametrize("window", [1, 8, 65, 130])
def test_biases_are_added_by_bucket_and_head_with_their_gradient(window):
  arrays, segment_bt = inputs(window)
  bucket_bts = any_buckets(3, window)
  definition, table = nnx.split(biased())
  weights = jnp.asarray(np.random.default_rng(1).normal(size=arrays[0].shape))

  def blocks(arrays, table):
    out_bthe = nnx.merge(definition, table)(
      *arrays, segment_bt=segment_bt, bucket_bts=bucket_bts, dropout_key=None
    )
    return jnp.sum(out_bthe * weights)

  def whole(arrays, table):
    bias_hi = table.time_bias.bias_hi[...]
    bias_bhts = jnp.moveaxis(bias_hi.T[bucket_bts], -1, 1)
    out_bthe = dense(*arrays, segment_bt=segment_bt, bias_bhts=bias_bhts)
    return jnp.sum(out_bthe * weights)

  got, want = (
    jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(arrays, table)
    for of in (blocks, whole)
  )
  for one, other in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("window", [64, 130])
def test_biases_of_later_keys_change_nothing_to_the_bit(window):
  arrays, segment_bt = inputs(window)
  attention, bucket_bts = biased(), any_buckets(3, window)

  @jax.jit
  def run(arrays, bucket_bts):
    return attention(
      *arrays,
      segment_bt=segment_bt,
      bucket_bts=bucket_bts,
      dropout_key=jax.random.key(0),
    )

  before = run(arrays, bucket_bts)
  for cut in (1, 50, window - 1):
    later = tuple(x.at[:, cut:].add(1.0) for x in arrays)
    moved_bts = bucket_bts.at[:, :, cut:].set(0).at[:, cut:].set(6)
    after = run(later, moved_bts)
    assert (after[:, :cut] == before[:, :cut]).all()
    assert not (after[:, cut:] == before[:, cut:]).all()


@pytest.mark.parametrize("devices", [(4, 2), (8, 1), (1, 8)], ids=str)
def test_biased_rows_may_lie_on_several_devices(devices):
  arrays, segment_bt = inputs(70, rows=8)
  attention, bucket_bts = biased(), any_buckets(8, 70)

  def run(arrays, segment_bt, bucket_bts):
    return attention(
      *arrays, segment_bt=segment_bt, bucket_bts=bucket_bts, dropout_key=None
    )

  want = jax.jit(run)(arrays, segment_bt, bucket_bts)
  data, model = devices
  device_mesh = mesh.make_mesh(data=data, model=model)
  with mesh.use(device_mesh):
    definition, table = nnx.split(attention)
    rows = jax.sharding.NamedSharding(device_mesh, mesh.spec("rows"))
    everywhere = jax.sharding.NamedSharding(device_mesh, jax.P())
    attention = nnx.merge(definition, jax.device_put(table, everywhere))
    got = jax.jit(run)(*jax.device_put((arrays, segment_bt, bucket_bts), rows))
    assert data == 1 or got.sharding.spec[0] == "data"
    np.testing.assert_allclose(got, want, atol=1e-5)


# ---- the library's kernel --------------------------------------------------


@pytest.mark.parametrize("devices", [(4, 2), (2, 4)], ids=str)
def test_fused_rows_may_lie_on_several_devices(devices):
  arrays, segment_bt = inputs(10, rows=4)
  want = dense(*arrays, segment_bt=segment_bt)
  data, model = devices
  device_mesh = mesh.make_mesh(data=data, model=model)
  with mesh.use(device_mesh):
    sharding = jax.sharding.NamedSharding(device_mesh, mesh.spec("rows"))
    arrays, segment_bt = jax.device_put((arrays, segment_bt), sharding)
    got = jax.jit(Fused())(*arrays, segment_bt=segment_bt, dropout_key=None)
    assert got.sharding.spec[0] == "data"
    np.testing.assert_allclose(got, want, atol=1e-5)


def kernel_of(*, window=64, width=64, dtype=jnp.bfloat16):
  return fused_kernel(jax.ShapeDtypeStruct((2, window, 1, width), dtype))


def test_cudnn_is_asked_for_what_it_can_do_and_xla_for_the_rest(monkeypatch):
  assert kernel_of() == "xla"  # a CPU

  class Device:
    compute_capability = "9.0"

  monkeypatch.setattr(jax, "devices", lambda: [Device()])
  assert kernel_of() == "cudnn"
  assert kernel_of(window=63) == "xla"
  assert kernel_of(width=4) == kernel_of(width=136) == "xla"
  assert kernel_of(dtype=jnp.float32) == "xla"
  for other in ("7.5", "gfx942"):
    monkeypatch.setattr(Device, "compute_capability", other)
    assert kernel_of() == "xla"
  monkeypatch.setattr(Device, "compute_capability", "12.0")
  assert kernel_of() == "cudnn"


@pytest.mark.parametrize("devices", [(1, 1), (4, 2)], ids=str)
def test_on_a_gpu_the_gradient_is_lowered_to_cudnns_kernels(
  monkeypatch, devices
):
  monkeypatch.setattr(attention_lib, "fused_kernel", lambda q_bthe: "cudnn")
  # It asks JAX's CUDA plugin, which need not be installed to lower a program.
  monkeypatch.setattr(
    "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version",
    lambda: 91_000,
  )
  data, model = devices
  device_mesh = mesh.make_mesh(data=data, model=model)
  with mesh.use(device_mesh):
    sharding = jax.sharding.NamedSharding(device_mesh, mesh.spec("rows"))
    q_bthe = jax.ShapeDtypeStruct(
      (4, 64, 2, 8), jnp.bfloat16, sharding=sharding
    )
    segment_bt = jax.ShapeDtypeStruct((4, 64), jnp.int32, sharding=sharding)

    def total(arrays, segment_bt):
      out_bthe = Fused()(*arrays, segment_bt=segment_bt, dropout_key=None)
      return jnp.sum(out_bthe.astype(jnp.float32))

    traced = jax.jit(jax.grad(total)).trace([q_bthe] * 3, segment_bt)
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert "@__cudnn$fmhaScaleBiasSoftmax(" in lowered
  assert "@__cudnn$fmhaScaleBiasSoftmaxBackward(" in lowered

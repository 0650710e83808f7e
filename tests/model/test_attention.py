"""Every form of attention equals attention written out whole."""

import dataclasses
import itertools
import typing

import attention_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.model import attention as attention_lib
from fmjax.model.attention import Fused, Sight, fused_kernel, query_blocks
from fmjax.model.cache import Cached

each_causal = pytest.mark.parametrize("name", world.FORMS)


def test_every_attention_that_decodes_is_in_the_world():
  found = {type(world.form(name)) for name in world.FORMS}
  assert found == set(typing.get_args(Cached))


@pytest.mark.parametrize(
  "name, window",
  [
    *((name, 70) for name in (*world.FORMS, "bidirectional")),
    # Shorter than a chunk or a block of queries.
    *((name, 8) for name in ("full", "window", "low rank", "pointwise")),
  ],
)
def test_every_form_equals_the_whole_written_out(name, window):
  definition, params = nnx.split(world.form(name))
  arrays, batch = world.arrays(window), world.packed(window)
  weights = np.random.default_rng(1).normal(size=arrays[0].shape)
  # What padding makes of padding is read by nobody.
  weights = jnp.asarray(weights * (batch.segment_bt > 0)[:, :, None, None])

  def total(attend):
    def of(arrays, params):
      out_bthe = attend(nnx.merge(definition, params), arrays, batch)
      return jnp.sum(out_bthe * weights), out_bthe * (weights != 0)

    return jax.jit(jax.value_and_grad(of, argnums=(0, 1), has_aux=True))

  got, want = (total(of)(arrays, params) for of in (world.run, world.dense))
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for one, other in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@each_causal
def test_no_form_sees_a_later_position_to_the_bit(name):
  window = 70
  attention = world.form(name)
  arrays, batch = world.arrays(window), world.packed(window)

  @jax.jit
  def run(arrays, batch):
    return world.run(attention, arrays, batch, key=jax.random.key(0))

  before = run(arrays, batch)
  for cut in (1, 33, 50, window - 1):
    later = tuple(x.at[:, cut:].add(1.0) for x in arrays)
    time_bt = batch.time_bt.copy()
    time_bt[:, cut:] += 1_000_000
    previous_bt = batch.previous["time"].copy()
    previous_bt[:, cut:] += 500_000
    changed = dataclasses.replace(
      batch, time_bt=time_bt, previous={"time": previous_bt}
    )
    after = run(later, changed)
    assert (after[:, :cut] == before[:, :cut]).all()
    assert not (after[:, cut:] == before[:, cut:]).all()


@each_causal
def test_the_gradient_into_the_future_is_exactly_zero(name):
  window = 70
  attention = world.form(name)
  arrays, batch = world.arrays(window), world.packed(window)

  @jax.jit
  @jax.grad
  def gradient(arrays, position):
    return jnp.sum(jnp.sin(world.run(attention, arrays, batch)[:, position]))

  for position in (2, 33, 60):
    for grad in gradient(arrays, position):
      assert not np.any(grad[:, position + 1 :])
      assert np.any(grad[:, : position + 1])


@pytest.mark.parametrize("window", [1, 63, 64, 65, 200, 1_024, 5_000])
def test_blocks_partition_the_window_evenly(window):
  blocks = query_blocks(window)
  assert [blocks[0][0], blocks[-1][1]] == [0, window]
  assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
  sizes = [end - start for start, end in blocks]
  assert max(sizes) - min(sizes) <= 1
  assert len(blocks) <= 16
  assert max(sizes) <= 64 or len(blocks) == 16


@pytest.mark.parametrize("name", ["full", "window", "low rank"])
def test_dropped_weights_are_unbiased_and_drawn_by_key(name):
  attention = world.form(name)
  arrays, batch = world.arrays(16, rows=1), world.packed(16, rows=1)
  want = jax.jit(world.run)(attention, arrays, batch)

  @jax.jit
  @jax.vmap
  def draw(key):
    return world.run(attention, arrays, batch, key=key)

  drawn = draw(jax.random.split(jax.random.key(0), 400))
  assert not (drawn[0] == drawn[1]).all()
  error = np.asarray(drawn.mean(0) - want)
  scale = np.asarray(drawn.std(0)) / 20 + 1e-6
  assert np.abs(error / scale).mean() < 1.2  # of a normal: .8


@pytest.mark.parametrize(
  "name, devices",
  [
    *itertools.product(["full"], [(4, 2), (8, 1), (1, 8)]),
    *itertools.product(["window", "low rank", "pointwise"], [(4, 2)]),
  ],
  ids=str,
)
def test_rows_may_lie_on_several_devices(name, devices):
  attention = world.form(name)
  arrays, batch = world.arrays(70, rows=8), world.packed(70, rows=8)

  def run(attention, arrays, batch):
    def total(attention):
      out_bthe = world.run(attention, arrays, batch)
      return jnp.sum(jnp.sin(out_bthe)), out_bthe

    grads, out_bthe = jax.grad(total, has_aux=True)(attention)
    return out_bthe, grads

  want = jax.jit(run)(attention, arrays, batch)
  data, model = devices
  device_mesh = mesh.make_mesh(data=data, model=model)
  with mesh.use(device_mesh):
    definition, params = nnx.split(attention)
    rows = jax.sharding.NamedSharding(device_mesh, mesh.spec("rows"))
    everywhere = jax.sharding.NamedSharding(device_mesh, jax.P())
    attention = nnx.merge(definition, jax.device_put(params, everywhere))
    got = jax.jit(run)(attention, *jax.device_put((arrays, batch), rows))
    assert data == 1 or got[0].sharding.spec[0] == "data"
  for one, other in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


# ---- the library's kernel --------------------------------------------------


@pytest.mark.parametrize("devices", [(4, 2), (2, 4)], ids=str)
def test_fused_rows_may_lie_on_several_devices(devices):
  arrays, batch = world.arrays(10, rows=4), world.packed(10, rows=4)
  want = world.dense(Fused(), arrays, batch)
  data, model = devices
  device_mesh = mesh.make_mesh(data=data, model=model)
  with mesh.use(device_mesh):
    sharding = jax.sharding.NamedSharding(device_mesh, mesh.spec("rows"))
    arrays, batch = jax.device_put((arrays, batch), sharding)
    got = jax.jit(world.run)(Fused(), arrays, batch)
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
      out_bthe = Fused()(
        *arrays, sight=Sight(segment_bt=segment_bt), dropout_key=None
      )
      return jnp.sum(out_bthe.astype(jnp.float32))

    traced = jax.jit(jax.grad(total)).trace([q_bthe] * 3, segment_bt)
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert "@__cudnn$fmhaScaleBiasSoftmax(" in lowered
  assert "@__cudnn$fmhaScaleBiasSoftmaxBackward(" in lowered

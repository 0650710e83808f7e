import jax
import jax.numpy as jnp
import pytest

from fmjax.scaling.traced import jaxpr_flops

_X = jax.ShapeDtypeStruct((4, 5), jnp.float32)
_W = jax.ShapeDtypeStruct((5, 5), jnp.float32)
_ONE = 2 * 4 * 5 * 5  # FLOPs of _X @ _W


def test_a_product_costs_two_flops_for_each_multiplication():
  assert jaxpr_flops(lambda x, w: x @ w, _X, _W) == _ONE


def test_batched_products_with_swapped_axes_are_counted_by_shape():
  q = jax.ShapeDtypeStruct((2, 7, 3, 11), jnp.float32)
  k = jax.ShapeDtypeStruct((2, 9, 3, 11), jnp.float32)

  def logits(q, k):
    return jnp.einsum("bthe,bshe->bhts", q, k)

  assert jaxpr_flops(logits, q, k) == 2 * 2 * 3 * 7 * 9 * 11


def test_a_scan_is_multiplied_by_its_length_also_when_nested():
  def nested(x, w):
    def inner(x, _):
      return x @ w, None

    def outer(x, _):
      return jax.lax.scan(inner, x, None, length=3)[0], None

    return jax.lax.scan(outer, x, None, length=4)[0]

  assert jaxpr_flops(nested, _X, _W) == 12 * _ONE


def test_the_gradient_of_a_product_costs_two_more_products():
  def loss(x, w):
    return (x @ w).sum()

  assert jaxpr_flops(jax.grad(loss, argnums=(0, 1)), _X, _W) == 3 * _ONE
  assert jaxpr_flops(jax.grad(loss, argnums=1), _X, _W) == 2 * _ONE


def test_recomputation_under_remat_is_counted():
  def loss(x, w, wrap):
    def layer(x, _):
      return jnp.tanh(x @ w), None

    return jax.lax.scan(wrap(layer), x, None, length=3)[0].sum()

  def both(wrap):
    return jaxpr_flops(
      jax.grad(lambda x, w: loss(x, w, wrap), argnums=(0, 1)), _X, _W
    )

  assert both(lambda layer: layer) == 3 * 3 * _ONE
  assert both(jax.checkpoint) == 3 * 4 * _ONE


def test_jit_cond_and_custom_gradients_are_entered():
  @jax.custom_vjp
  def product(x, w):
    return x @ w

  product.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda saved, g: (g @ saved[1].T, saved[0].T @ g),
  )

  def fn(x, w):
    x = jax.jit(product)(x, w)
    return jax.lax.cond(x.sum() > 0, lambda x: (x @ w) @ w, lambda x: x @ w, x)

  assert jaxpr_flops(fn, _X, _W) == 3 * _ONE
  assert (
    jaxpr_flops(jax.grad(lambda x, w: product(x, w).sum(), (0, 1)), _X, _W)
    == 3 * _ONE
  )


def test_a_fori_loop_of_static_length_is_counted_and_a_while_loop_refused():
  def fori(x, w):
    return jax.lax.fori_loop(0, 6, lambda _, x: x @ w, x)

  def until(x, w):
    return jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ w, x)

  assert jaxpr_flops(fori, _X, _W) == 6 * _ONE
  with pytest.raises(ValueError, match="depend on the values"):
    jaxpr_flops(until, _X, _W)


def test_a_sharded_body_counts_for_every_device():
  mesh = jax.sharding.AbstractMesh(
    (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  none = jax.sharding.PartitionSpec()

  def fn(x, w):
    return jax.shard_map(
      lambda x, w: x @ w, mesh=mesh, in_specs=(spec, none), out_specs=spec
    )(x, w)

  assert jaxpr_flops(fn, _X, _W) == _ONE

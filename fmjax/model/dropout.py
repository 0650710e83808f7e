"""Dropout whose key is an argument: a module is the same before and after."""

import math

import jax
import jax.numpy as jnp

_GOLDEN = 0x9E3779B9  # 2³² / golden ratio: spreads neighboring entries


def dropout(x: jax.Array, rate: float, *, key: jax.Array | None) -> jax.Array:
  """Zeroes a share `rate` of the entries and rescales the others.

  Args:
    x: any shape.
    rate: in [0, 1).
    key: None: returns x.
  """
  if key is None or rate == 0.0:
    return x
  kept = ~draw(random_bits(key, x), rate)
  # In float32: as a bfloat16 the share that is kept is off by a fifth of a
  # percent, and so would be every activation.
  scaled = x.astype(jnp.float32) / jnp.float32(1 - rate)
  return jnp.where(kept, scaled.astype(x.dtype), jnp.zeros_like(x))


def draw(bits: jax.Array, share: float) -> jax.Array:
  """True for a share of all 32-bit numbers."""
  return bits < jnp.uint32(min(round(share * 2**32), 2**32 - 1))


def random_bits(key: jax.Array, like: jax.Array) -> jax.Array:
  """32 bits for each entry of `like`: a hash of the key and the entry's index.

  JAX's own generators write their bits to memory, which took a third of a
  training step on CPU. A hash fuses with what reads it, and the backward pass
  computes it again. It is as random as dropout needs, no more.
  """
  first, second = jax.random.bits(key, (2,), jnp.uint32)
  sharding = jax.typeof(like).sharding
  index = jnp.zeros((), jnp.uint32)
  for axis in range(like.ndim):
    stride = math.prod(like.shape[axis + 1 :]) % 2**32
    along = jax.lax.broadcasted_iota(
      jnp.uint32, like.shape, axis, out_sharding=sharding
    )
    index = index + along * jnp.uint32(stride)
  return _hash(index, first, second)


def _hash(index: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
  return _mix(_mix(index * jnp.uint32(_GOLDEN) + first) ^ second)


def _mix(x: jax.Array) -> jax.Array:
  """A permutation of 32 bits in which each bit flips half of the others.

  The constants are those of Wellons' "lowbias32" (hash-prospector, 2018).
  """
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
  """`count` keys, or as many Nones."""
  if key is None:
    return [None] * count
  return list(jax.random.split(key, count))

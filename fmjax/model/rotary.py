"""Positions as rotations of queries and keys (Su et al., 2021, RoFormer)."""

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.config import LearnedPositions, ModelConfig, RotaryPositions
from fmjax.data.batch import Array


class Rotary:
  """Turns pair i of a head's numbers by position · base^(-2i / e).

  Pairs are of the first and the second half. A product of query and key then
  depends on how far apart they are, wherever they stand.
  """

  def __init__(self, base: float):
    self.base = base

  def __call__(self, x_bthe: jax.Array, *, position_bt: Array) -> jax.Array:
    half = x_bthe.shape[-1] // 2
    speed_e = self.base ** -(np.arange(half, dtype=np.float32) / half)
    angle_bte = jnp.asarray(position_bt)[..., None] * speed_e[None, None]
    cos_bthe, sin_bthe = (
      turn(angle_bte)[:, :, None] for turn in (jnp.cos, jnp.sin)
    )
    wide_bthe = x_bthe.astype(jnp.float32)
    first_bthe, second_bthe = wide_bthe[..., :half], wide_bthe[..., half:]
    turned_bthe = jnp.concatenate(
      [
        first_bthe * cos_bthe - second_bthe * sin_bthe,
        second_bthe * cos_bthe + first_bthe * sin_bthe,
      ],
      axis=-1,
    )
    return turned_bthe.astype(x_bthe.dtype)


def make_rotary(config: ModelConfig) -> Rotary | None:
  match config.positions:
    case LearnedPositions():
      return None
    case RotaryPositions(base=base):
      return Rotary(base)

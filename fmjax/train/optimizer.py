"""AdamW, its schedule, and how its rate transfers from width to width."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmjax.config import (
  CosineDecay,
  ModelConfig,
  OptimConfig,
  StableDecay,
  override,
)
from fmjax.model.recommender import Recommender

_DECAYED_RANK = 2  # matrices and tables; norms and biases are not


def make_schedule(config: OptimConfig, *, total_steps: int) -> optax.Schedule:
  """Learning rate of each step, the first of which is number 0."""
  peak = config.learning_rate
  match config.schedule:
    case CosineDecay(warmup=share, final_fraction=final_fraction):
      warmup = max(1, round(share * total_steps))
      return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup,
        # Optax counts the warm-up in, and wants at least a step after it.
        decay_steps=max(total_steps, warmup + 1),
        end_value=final_fraction * peak,
      )
    case StableDecay(warmup_steps=warmup) as schedule:
      stable = schedule.stable_until(total_steps)

      def rate(count: Any) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        rising = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        # The step after the last one would have a rate of 0.
        gone = (step - stable + 1) / (total_steps - stable + 1)
        return peak * rising * (1 - jnp.sqrt(jnp.clip(gone, 0.0, 1.0)))

      return rate


def make_optimizer(
  config: OptimConfig, *, total_steps: int, factors: Any = None
) -> optax.GradientTransformation:
  """Clipping by global norm, then AdamW.

  Args:
    config: its numbers.
    total_steps: of the run.
    factors: of each parameter's rate, see `rate_factors`; None: all are 1. They
      leave the decay of weights alone, so that it takes as long at every width.
  """
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.scale_by_adam(b1=config.b1, b2=config.b2),
    *([] if factors is None else [_scale_by(factors)]),
    optax.add_decayed_weights(config.weight_decay, mask=_is_decayed),
    optax.scale_by_learning_rate(
      make_schedule(config, total_steps=total_steps)
    ),
  )


def rate_factors(
  config: ModelConfig, build: Callable[[ModelConfig], Recommender]
) -> Any:
  """Factor of each parameter's learning rate; None where all are 1.

  A matrix is hidden if two of its sides grow with the width: it learns at 1 / m
  (see `MaximalUpdate`). Which do is seen on a model of twice the width, so no
  list of names has to know them.

  Args:
    config: of the model.
    build: makes one; nothing is computed. A mesh must be in scope.
  """
  if config.width_ratio == 1:
    return None
  twice = override(config, {"width": 2 * config.width})

  def shapes(config: ModelConfig) -> Any:
    return nnx.state(nnx.eval_shape(lambda: build(config)), nnx.Param)

  def factor(leaf: Any, wider: Any) -> float:
    pairs = zip(leaf.shape, wider.shape, strict=True)
    growing = sum(side != other for side, other in pairs)
    return 1 / config.width_ratio if growing > 1 else 1.0

  return jax.tree.map(factor, shapes(config), shapes(twice))


def _scale_by(factors: Any) -> optax.GradientTransformation:
  return optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda update, factor: factor * update, updates, factors
    )
  )


def _is_decayed(params: Any) -> Any:
  # Blocks are stacked: their leading axis is the layer, not a matrix axis. The
  # bias of attention by time is a table.
  def decayed(path, leaf):
    names = [str(getattr(key, "key", "")) for key in path]
    if any(name.startswith("bias") for name in names):
      return False
    return leaf.ndim - ("blocks" in names) >= _DECAYED_RANK

  return jax.tree_util.tree_map_with_path(decayed, params)

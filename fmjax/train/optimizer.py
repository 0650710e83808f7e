"""AdamW with warm-up and cosine decay."""

from typing import Any

import jax
import optax

from fmjax.config import OptimConfig

_DECAYED_RANK = 2  # matrices and tables; norms and biases are not


def make_schedule(config: OptimConfig, *, total_steps: int) -> optax.Schedule:
  """Learning rate of each step: linear warm-up, then cosine to the end."""
  warmup = max(1, round(config.warmup * total_steps))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=warmup,
    # Optax counts the warm-up in, and wants at least a step after it.
    decay_steps=max(total_steps, warmup + 1),
    end_value=config.final_fraction * config.learning_rate,
  )


def make_optimizer(
  config: OptimConfig, *, total_steps: int
) -> optax.GradientTransformation:
  """Clipping by global norm, then AdamW."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      make_schedule(config, total_steps=total_steps),
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=_is_decayed,
    ),
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

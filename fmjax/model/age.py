"""Age of items: in buckets for a gate, in terms for a network."""

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.data.batch import Array
from fmjax.data.dynamic import NOT_SEEN
from fmjax.model.time import SECONDS_PER_DAY

# Days at which buckets 1, 2, … begin; bucket 0 is "not seen yet".
BUCKET_EDGES_DAYS = (0, *(2**power for power in range(11)))
BUCKETS = 1 + len(BUCKET_EDGES_DAYS)

_DECAYS_DAYS = (1, 7, 30)
TERMS = 2 + len(_DECAYS_DAYS)


def bucket(age_days: Array) -> jax.Array:
  """Log-scaled bucket of ages of any shape, int8 in [0, `BUCKETS`)."""
  edges = jnp.asarray(BUCKET_EDGES_DAYS, jnp.int32)
  begun = jnp.expand_dims(age_days, -1) >= edges.reshape(
    *[1] * jnp.ndim(age_days), -1
  )
  return jnp.sum(begun, axis=-1, dtype=jnp.int8)


def terms(age_days: np.ndarray) -> np.ndarray:
  """Fixed terms of an age, float32 [`TERMS`, …].

  Its logarithm (1 after 1024 days), exponentials that fade within a day, a week
  and a month, and "not seen yet", where the others are 0.
  """
  seen = age_days != NOT_SEEN
  days = np.where(seen, age_days, 0).astype(np.float32)
  known = [
    np.log1p(days) / np.log1p(BUCKET_EDGES_DAYS[-1]),
    *(np.exp(-days / decay) for decay in _DECAYS_DAYS),
  ]
  return np.stack([*(term * seen for term in known), ~seen]).astype(np.float32)


def at_event(
  time_n: jax.Array, *, launch_s_n: jax.Array, declared_n: jax.Array
) -> jax.Array:
  """Whole days from an item's launch to an event, int32.

  0 before a declared launch; `NOT_SEEN` where the launch is not declared and
  the item was first seen in this very second or later.

  Args:
    time_n: int32 seconds since 1970 UTC.
    launch_s_n: likewise.
    declared_n: the launch is declared, not the first event.
  """
  # Days and seconds of the day apart: the difference of two times may exceed
  # an int32.
  whole_days_n = time_n // SECONDS_PER_DAY - launch_s_n // SECONDS_PER_DAY
  second_n, launched_n = time_n % SECONDS_PER_DAY, launch_s_n % SECONDS_PER_DAY
  age_n = jnp.maximum(whole_days_n - (second_n < launched_n), 0)
  return jnp.where(declared_n | (launch_s_n < time_n), age_n, NOT_SEEN)

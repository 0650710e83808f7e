"""Absolute time: what the clock and the calendar say of a request."""

import jax
import jax.numpy as jnp

from fmjax.data.batch import Array

SECONDS_PER_DAY = 86_400
_HOURS = 24
_WEEKDAYS = 7
# 1970-01-01 was a Thursday; weekday 0 is Monday.
_EPOCH_WEEKDAY = 3
_DAYS_PER_YEAR = 365.25


def day(time_n: Array) -> Array:
  """Days since 1970 UTC, of seconds; any shape."""
  return time_n // SECONDS_PER_DAY


def slow_terms(time_n: jax.Array, *, terms: int) -> jax.Array:
  """Fourier terms of the date with periods 1, 1/2, … 1/terms years.

  Args:
    time_n: int32 seconds since 1970 UTC.
    terms: number of periods.

  Returns:
    float32 [n, 2 · terms]: sines, then cosines.
  """
  years_n = time_n.astype(jnp.float32) / (SECONDS_PER_DAY * _DAYS_PER_YEAR)
  harmonics_m = jnp.arange(1, terms + 1, dtype=jnp.float32)
  angle_nm = 2 * jnp.pi * years_n[:, None] * harmonics_m[None, :]
  return jnp.concatenate([jnp.sin(angle_nm), jnp.cos(angle_nm)], axis=-1)


def calendar_terms(time_n: jax.Array, *, slow: int) -> jax.Array:
  """Hour of day and day of week (one-hot), and slow terms of the date (UTC).

  Returns:
    float32 [n, 31 + 2 · slow]; a linear map of it is the time embedding.
  """
  hour = time_n % SECONDS_PER_DAY // (SECONDS_PER_DAY // _HOURS)
  weekday = (day(time_n) + _EPOCH_WEEKDAY) % _WEEKDAYS
  return jnp.concatenate(
    [
      jax.nn.one_hot(hour, _HOURS, dtype=jnp.float32),
      jax.nn.one_hot(weekday, _WEEKDAYS, dtype=jnp.float32),
      slow_terms(time_n, terms=slow),
    ],
    axis=-1,
  )


def calendar_width(slow: int) -> int:
  return _HOURS + _WEEKDAYS + 2 * slow

"""Time as the model sees it: absolute, and relative to what came before.

Absolute: what the clock and the calendar say of a request. Relative: how long
before a request a token was, in log-scaled buckets.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.config import ConfigError
from fmjax.data.batch import Array, Batch
from fmjax.data.schema import DataSpec

SECONDS_PER_DAY = 86_400
_HOURS = 24
_WEEKDAYS = 7
# 1970-01-01 was a Thursday; weekday 0 is Monday.
_EPOCH_WEEKDAY = 3
_DAYS_PER_YEAR = 365.25
_LONGEST_S = 10 * 365 * SECONDS_PER_DAY  # longer ago is all the same
# Periods of a date's terms, in years: from the season to the century.
_DATE_PERIODS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


def day(time_n: Array) -> Array:
  """Days since 1970 UTC, of seconds; any shape."""
  return time_n // SECONDS_PER_DAY


def require_times(spec: DataSpec, choice: str, *, remedy: str) -> None:
  """Refuses what reads the clock where timestamps only give the order."""
  if not spec.timed:
    raise ConfigError(
      f"{choice} reads times, and this log has an order alone; use {remedy}"
    )


def slow_terms(time_n: jax.Array, *, terms: int) -> jax.Array:
  """Fourier terms of the date with periods 1, 1/2, … 1/terms years.

  Args:
    time_n: int32 seconds since 1970 UTC.
    terms: number of periods.

  Returns:
    float32 [n, 2 · terms]: sines, then cosines.
  """
  return _waves(time_n, jnp.arange(1, terms + 1, dtype=jnp.float32))


def date_terms(time_n: jax.Array) -> jax.Array:
  """Fourier terms of a date that may lie decades away: season and year.

  Returns:
    float32 [n, DATE_WIDTH].
  """
  return _waves(time_n, 1 / jnp.asarray(_DATE_PERIODS, jnp.float32))


DATE_WIDTH = 2 * len(_DATE_PERIODS)


def _waves(time_n: jax.Array, per_year_m: jax.Array) -> jax.Array:
  years_n = time_n.astype(jnp.float32) / (SECONDS_PER_DAY * _DAYS_PER_YEAR)
  angle_nm = 2 * jnp.pi * years_n[:, None] * per_year_m[None, :]
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


def bucket_edges(buckets: int) -> np.ndarray:
  """Whole seconds at which buckets 1, 2, … begin: from 1 s to ten years."""
  return np.ceil(np.geomspace(1, _LONGEST_S, buckets - 1)).astype(np.int32)


def log_bucket(seconds: jax.Array, *, buckets: int) -> jax.Array:
  """Log-scaled bucket of a time span of any shape, uint8 in [0, buckets).

  Bucket 0 is no time at all. Spans are compared, not their logarithms: those
  differ in the last bit from one compiled program to the next.
  """
  return sum(
    ((seconds >= edge).astype(jnp.uint8) for edge in bucket_edges(buckets)),
    start=jnp.zeros((), jnp.uint8),
  )


def key_times(batch: Batch) -> jax.Array:
  """time_bs, int32 seconds, of the token that each position holds as a key.

  That is the token before, or the start of a history, which is as old as the
  history's first request.
  """
  query_bt = jnp.asarray(batch.time_bt)
  return jnp.where(batch.index_bt == 0, query_bt, batch.previous["time"])


def relative_buckets(batch: Batch, *, buckets: int) -> jax.Array:
  """Bucket of each (query's request time - time of the key's token).

  Returns:
    bucket_bts, uint8; of no meaning where a query does not see the key.
  """
  query_bt, key_bs = jnp.asarray(batch.time_bt), key_times(batch)
  return log_bucket(query_bt[:, :, None] - key_bs[:, None, :], buckets=buckets)


def gap_terms(
  time_n: jax.Array,
  previous_n: jax.Array,
  *,
  is_start_n: jax.Array,
  buckets: int,
) -> jax.Array:
  """One-hot of the time since the token before.

  Args:
    time_n: request times, seconds.
    previous_n: times of the tokens before.
    is_start_n: there is none: the last term.
    buckets: of time.

  Returns:
    float32 [n, buckets + 1].
  """
  bucket_n = log_bucket(time_n - previous_n, buckets=buckets)
  bucket_n = jnp.where(is_start_n, buckets, bucket_n.astype(jnp.int32))
  return jax.nn.one_hot(bucket_n, buckets + 1, dtype=jnp.float32)

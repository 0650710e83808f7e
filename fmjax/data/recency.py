"""How much more the latest training tokens count: by weight, or by order.

A log drifts: what people did last tells most about what they will do next. Both
ways are pure functions of (seed, step), as the plain stream is.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from fmjax.data.batch import Batch
from fmjax.data.decoded import histories, token_times, training_targets
from fmjax.data.packing import Packed, join, pack, training_windows
from fmjax.data.row_stream import RowStream
from fmjax.data.store import Prepared

_SECONDS_PER_DAY = 86_400
# No weight is rounded to 0, which would take a target out of the count.
_LEAST_LOG2 = -100.0
# Windows packed together: rows of a smaller block are closer in time, and a
# little emptier (96 % full where shuffled ones are 99 %, MovieTweetings, T=64).
_BLOCK = 128
_PASS = 2**32 - 1  # beside (seed, epoch) in the seeds of random draws


def weighing(
  prepared: Prepared, *, half_life_days: float
) -> Callable[[Batch], Batch]:
  """Multiplies the weight of targets by 2^(-age of the token / half-life).

  The mean factor over all training targets is 1. One pass over the log.
  """
  log = histories(prepared)
  user, token = training_targets(prepared)
  time_s = token_times(log, user, token).astype(np.int64)
  last_s = time_s.max(initial=0)
  half_life_s = half_life_days * _SECONDS_PER_DAY

  def factor(time_s: np.ndarray) -> np.ndarray:
    exponent = (time_s.astype(np.int64) - last_s) / half_life_s
    return np.exp2(np.clip(exponent, _LEAST_LOG2, 0))

  scale = len(time_s) / factor(time_s).sum()

  def weigh(batch: Batch) -> Batch:
    weight_bt = batch.weight_bt * factor(np.asarray(batch.time_bt)) * scale
    return dataclasses.replace(batch, weight_bt=weight_bt.astype(np.float32))

  return weigh


def in_time_order(
  prepared: Prepared,
  lengths: np.ndarray,
  *,
  window: int,
  stride: int,
  seed: int,
) -> Packed:
  """One epoch's windows in rows, by the time of a row's last token."""
  phases = np.random.default_rng([seed, _PASS]).integers(
    stride, size=len(lengths)
  )
  windows = training_windows(
    lengths, window=window, stride=stride, phases=phases
  )
  last_w = token_times(histories(prepared), windows.user, windows.end - 1)
  order = np.argsort(last_w, kind="stable")
  packed = pack(windows[order], capacity=window, rng=None, block=_BLOCK)
  # Windows are told apart by user and end; `last_w` is in that order.
  by_name = np.lexsort((packed.windows.end, packed.windows.user))
  latest = np.empty_like(last_w)
  latest[by_name] = last_w
  latest_r = np.maximum.reduceat(
    latest, np.searchsorted(packed.row, np.arange(packed.rows))
  )
  number_r = np.empty(packed.rows, np.int64)
  number_r[np.argsort(latest_r, kind="stable")] = np.arange(packed.rows)
  row = number_r[packed.row]
  order = np.lexsort((packed.offset, row))
  return Packed(
    windows=packed.windows[order],
    row=row[order],
    offset=packed.offset[order],
    segment=packed.segment[order],
    rows=packed.rows,
  )


class OrderedAtLast:
  """A run's rows: a shuffled stream, whose last steps go in order of time.

  The last ordered row is the last row of the run; if the phase is longer than
  an epoch, the epoch before it is in order, too. A Grain source.
  """

  def __init__(
    self, shuffled: RowStream, ordered: Packed, *, share: float, steps: int
  ):
    self._shuffled, self._ordered = shuffled, ordered
    self._first, self._steps = steps - round(share * steps), steps

  def __len__(self) -> int:
    return len(self._shuffled)

  def __repr__(self) -> str:
    return (
      f"OrderedAtLast({self._shuffled}, from step {self._first} of"
      f" {self._steps})"
    )

  def __getitem__(self, index: int) -> Packed:
    if index < self._first:
      return self._shuffled[index]
    rows = self._shuffled.share(index - self._steps)
    parts, at = [], rows.start
    while at < rows.stop:
      begin = at % self._ordered.rows
      part = self._ordered.part(
        begin, min(begin + rows.stop - at, self._ordered.rows)
      )
      parts.append(dataclasses.replace(part, row=part.row + at - rows.start))
      at += part.rows
    return join(parts)

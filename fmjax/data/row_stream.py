"""The endless stream of packed rows that training reads.

Row r is a pure function of (seed, r): each epoch's plan is drawn from (seed,
epoch), and the epochs' rows follow one another.
"""

import bisect
import dataclasses
import sys
import threading

import numpy as np

from fmjax.config import ConfigError
from fmjax.data.packing import Packed, join, pack, training_windows
from fmjax.data.schema import DataError

_PLANS_KEPT = 3  # a step may straddle epochs, and prefetch runs ahead


class RowStream:
  """What each step trains on: `stream[t]` is the packed rows of step t.

  The rows of epoch 0, 1, 2, … follow one another without end; step t takes the
  next `rows` of them, and process p of them its contiguous share. A Grain
  source: random access, thread-safe, deterministic.
  """

  def __init__(
    self,
    lengths: np.ndarray,
    *,
    window: int,
    stride: int,
    rows: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    if not 0 < stride <= window:
      raise ConfigError(
        f"data.stride={stride} is not in 1..{window} (data.window): tokens"
        " between two windows would never be trained on"
      )
    if rows <= 0 or rows % process_count:
      raise ConfigError(
        f"data.rows={rows} does not divide over {process_count} processes"
      )
    if not 0 <= process_index < process_count:
      raise ConfigError(
        f"{process_index=} is not one of the {process_count} processes"
      )
    if seed < 0:
      raise ConfigError(f"run.seed={seed} is negative")
    if not lengths.any():
      raise DataError(
        "no user has a token before the training cut; use a longer log, or"
        " smaller data.split.validation and data.split.test"
      )
    self._lengths = lengths
    self._window, self._stride, self._seed = window, stride, seed
    self._rows = rows
    self._share = rows // process_count
    self._skip = process_index * self._share
    self._first_rows = [0]  # of the epochs planned so far, and of the next
    self._plans: dict[int, Packed] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return sys.maxsize

  def __repr__(self) -> str:  # Grain shows it where it names its source
    return (
      f"RowStream(window={self._window}, stride={self._stride},"
      f" rows={self._rows}, seed={self._seed})"
    )

  def share(self, index: int) -> range:
    """This process's rows of a step, among those of all steps."""
    first = index * self._rows + self._skip
    return range(first, first + self._share)

  def __getitem__(self, index: int) -> Packed:
    first, stop = self.share(index).start, self.share(index).stop
    parts, filled = [], 0
    while filled < stop - first:
      epoch = self._epoch_of(first + filled)
      begins, ends = self._first_rows[epoch : epoch + 2]
      part = self.epoch(epoch).part(
        first + filled - begins, min(stop, ends) - begins
      )
      parts.append(dataclasses.replace(part, row=part.row + filled))
      filled += part.rows
    return join(parts)

  def epoch(self, number: int) -> Packed:
    """The whole plan of an epoch; the latest ones are kept."""
    with self._lock:
      if number not in self._plans:
        if len(self._plans) >= _PLANS_KEPT:
          del self._plans[next(iter(self._plans))]
        self._plans[number] = self._plan(number)
      return self._plans[number]

  def _epoch_of(self, row: int) -> int:
    # An epoch's number of rows is known once it is planned: resuming plans
    # all epochs before, about a microsecond a window.
    while row >= self._first_rows[-1]:
      number = len(self._first_rows) - 1
      rows = self.epoch(number).rows
      with self._lock:
        if len(self._first_rows) == number + 1:
          self._first_rows.append(self._first_rows[-1] + rows)
    return bisect.bisect_right(self._first_rows, row) - 1

  def _plan(self, number: int) -> Packed:
    rng = np.random.default_rng([self._seed, number])
    # A draw for every user, so that no user's phase depends on the others.
    phases = rng.integers(self._stride, size=len(self._lengths))
    windows = training_windows(
      self._lengths, window=self._window, stride=self._stride, phases=phases
    )
    shuffled = windows[rng.permutation(len(windows))]
    return pack(shuffled, capacity=self._window, rng=rng)

"""Cutting histories into windows, and packing windows into rows.

Both need nothing but lengths, so a plan costs no data and every process makes
the same one. (Grain's own packing iterators keep a buffer of elements, so what
they put into row t depends on where the iterator started.)
"""

import collections
import dataclasses

import numpy as np

# Windows are packed a block at a time, so that a plan costs O(windows) and a
# row mixes windows that the shuffle brought together, not the epoch's longest.
_BLOCK = 1_024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
  """Parts of histories, one entry of each int64 array a window.

  Attributes:
    user: whose history.
    start: first token.
    end: one past the last token.
    first_target: tokens [first_target, end) are asked for; those before are
      context only.
  """

  user: np.ndarray
  start: np.ndarray
  end: np.ndarray
  first_target: np.ndarray

  def __len__(self) -> int:
    return len(self.user)

  def __getitem__(self, index: np.ndarray | slice) -> "Windows":
    return Windows(
      user=self.user[index],
      start=self.start[index],
      end=self.end[index],
      first_target=self.first_target[index],
    )

  @property
  def length(self) -> np.ndarray:
    return self.end - self.start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
  """Windows in rows, ordered by row and by place within the row.

  Attributes:
    windows: what is packed.
    row: of each window.
    offset: of each window, its first position in its row.
    segment: of each window, 1, 2, … within its row.
    rows: how many; the last ones may be empty.
  """

  windows: Windows
  row: np.ndarray
  offset: np.ndarray
  segment: np.ndarray
  rows: int

  def part(self, first: int, stop: int) -> "Packed":
    """Rows [first, stop), numbered from 0."""
    here = slice(*np.searchsorted(self.row, [first, stop]))
    return Packed(
      windows=self.windows[here],
      row=self.row[here] - first,
      offset=self.offset[here],
      segment=self.segment[here],
      rows=stop - first,
    )


def training_windows(
  lengths: np.ndarray, *, window: int, stride: int, phases: np.ndarray
) -> Windows:
  """Every token of [0, length) of each user as a target exactly once.

  A history of at most `window` tokens is one window. A longer one is cut at
  ends `stride` apart: the first window ends at `window - phase`, so that over
  epochs every token is seen at every place, and the last ends at the length.

  Args:
    lengths: tokens of each user; 0 gives no window.
    window: most tokens of a window, T.
    stride: most targets of a window but the first, S ≤ T.
    phases: of each user, in [0, stride).
  """
  user = np.flatnonzero(lengths)
  end = lengths[user].astype(np.int64)
  first_end = np.where(end <= window, end, window - phases[user])
  return _cut(
    user,
    first_target=np.zeros_like(end),
    first_end=first_end,
    end=end,
    window=window,
    stride=stride,
  )


def query_windows(
  user: np.ndarray, first: np.ndarray, end: np.ndarray, *, window: int
) -> Windows:
  """Windows that ask for tokens [first, end) of each user's history.

  A query sees its whole history or at least half a window of it: with full
  windows for every query, asking for all tokens would cost T windows each.
  """
  stride = max(1, window // 2)
  first, end = first.astype(np.int64), end.astype(np.int64)
  return _cut(
    user,
    first_target=first,
    first_end=np.minimum(end, np.maximum(window, first + stride)),
    end=end,
    window=window,
    stride=stride,
  )


def _cut(
  user: np.ndarray,
  *,
  first_target: np.ndarray,
  first_end: np.ndarray,
  end: np.ndarray,
  window: int,
  stride: int,
) -> Windows:
  """Windows that end at `first_end`, then every `stride`, then at `end`."""
  count = 1 + -(-(end - first_end) // stride)
  of = np.repeat(np.arange(len(user)), count)
  turn = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
  ends = np.minimum(end[of], first_end[of] + turn * stride)
  asked = np.where(
    turn == 0, first_target[of], first_end[of] + (turn - 1) * stride
  )
  return Windows(
    user=user[of].astype(np.int64),
    start=np.maximum(0, ends - window),
    end=ends,
    first_target=asked,
  )


def pack(
  windows: Windows,
  *,
  capacity: int,
  rng: np.random.Generator | None,
  block: int = _BLOCK,
) -> Packed:
  """Best-fit-decreasing packing, block by block in the order of `windows`.

  With `rng` the rows of a block are shuffled; otherwise those with the longest
  windows come first.
  """
  length = windows.length
  longest_first = np.lexsort((-length, np.arange(len(windows)) // block))
  row = np.empty(len(windows), np.int64)
  rows = 0
  for begin in range(0, len(windows), block):
    members = longest_first[begin : begin + block]
    row_of, count = _best_fit(length[members].tolist(), capacity)
    names = np.arange(count) if rng is None else rng.permutation(count)
    row[members] = rows + names[row_of]
    rows += count
  order = np.lexsort((-length, row))
  row, length = row[order], length[order]
  first = np.searchsorted(row, row)  # of each window's row, its first window
  before = np.cumsum(length) - length
  return Packed(
    windows=windows[order],
    row=row,
    offset=before - before[first],
    segment=np.arange(len(row)) - first + 1,
    rows=rows,
  )


def _best_fit(lengths: list[int], capacity: int) -> tuple[list[int], int]:
  """(row of each window, number of rows); `lengths` are descending.

  Each goes to the fullest row with room, or to a new row.
  """
  by_room = collections.defaultdict(list)
  rooms = 0  # bit r is set: some row has room for exactly r more positions
  row_of, count = [], 0
  for length in lengths:
    fitting = rooms >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = by_room[room].pop()
      if not by_room[room]:
        rooms ^= 1 << room
    else:
      room, row = capacity, count
      count += 1
    room -= length
    if room:
      by_room[room].append(row)
      rooms |= 1 << room
    row_of.append(row)
  return row_of, count


def join(parts: list[Packed]) -> Packed:
  """The rows of `parts` one after the other."""
  if len(parts) == 1:
    return parts[0]

  def joined(name: str) -> np.ndarray:
    return np.concatenate([getattr(part.windows, name) for part in parts])

  names = [field.name for field in dataclasses.fields(Windows)]
  return Packed(
    windows=Windows(**{name: joined(name) for name in names}),
    row=np.concatenate([part.row for part in parts]),
    offset=np.concatenate([part.offset for part in parts]),
    segment=np.concatenate([part.segment for part in parts]),
    rows=sum(part.rows for part in parts),
  )

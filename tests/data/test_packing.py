"""Windows from lengths, and windows in rows."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fmjax.data.packing import (
  Windows,
  join,
  pack,
  query_windows,
  training_windows,
)


def asked(windows: Windows) -> list[tuple[int, int]]:
  """(user, token) of every target."""
  return [
    (user, token)
    for user, first, end in zip(
      windows.user, windows.first_target, windows.end, strict=True
    )
    for token in range(first, end)
  ]


def whole_histories(lengths: list[int]) -> Windows:
  end = np.array(lengths)
  return Windows(
    user=np.arange(len(end)), start=0 * end, end=end, first_target=0 * end
  )


def test_a_long_history_is_cut_at_its_phase_then_every_stride():
  windows = training_windows(
    np.array([3, 0, 10]), window=4, stride=2, phases=np.array([1, 1, 1])
  )
  cut = list(
    zip(
      windows.user.tolist(),
      windows.start.tolist(),
      windows.first_target.tolist(),
      windows.end.tolist(),
      strict=True,
    )
  )
  assert cut == [
    (0, 0, 0, 3),
    (2, 0, 0, 3),
    (2, 1, 3, 5),
    (2, 3, 5, 7),
    (2, 5, 7, 9),
    (2, 6, 9, 10),
  ]


def test_each_window_goes_to_the_fullest_row_with_room():
  packed = pack(whole_histories([3, 7, 2, 6, 1]), capacity=10, rng=None)
  rows = [packed.windows.user[packed.row == r].tolist() for r in range(2)]
  # 7 | 6, then 3 fills 7 up, then 2 and 1 join 6.
  assert rows == [[1, 0], [3, 2, 4]]
  assert packed.offset.tolist() == [0, 7, 0, 6, 8]
  assert packed.segment.tolist() == [1, 2, 1, 2, 3]


@given(
  st.lists(st.integers(1, 9), min_size=1, max_size=40),
  st.lists(st.integers(0, 40), max_size=4),
)
def test_a_plan_cut_in_parts_and_joined_is_the_plan(lengths, cuts):
  packed = pack(whole_histories(lengths), capacity=9, rng=None)
  ends = sorted({0, packed.rows, *(min(c, packed.rows) for c in cuts)})
  parts = [packed.part(a, b) for a, b in itertools.pairwise(ends)]
  begins = ends[:-1]
  moved = [
    type(part)(**{**vars(part), "row": part.row + begin})
    for part, begin in zip(parts, begins, strict=True)
  ]
  joined = join(moved)
  assert joined.rows == packed.rows
  for name in ("row", "offset", "segment"):
    assert np.array_equal(getattr(joined, name), getattr(packed, name))
  assert np.array_equal(joined.windows.user, packed.windows.user)


@given(
  st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 24)
)
def test_packing_wastes_less_than_half_of_the_rows(lengths, capacity):
  packed = pack(whole_histories(lengths), capacity=capacity, rng=None)
  assert packed.rows <= max(1, 2 * sum(lengths) / capacity)


@given(
  st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=20
  ),
  st.integers(1, 12),
)
def test_query_windows_ask_once_with_half_a_window_of_history(parts, window):
  first = np.array([start for start, _ in parts])
  end = first + np.array([count for _, count in parts])
  user = np.arange(len(parts))
  windows = query_windows(user, first, end, window=window)
  assert sorted(asked(windows)) == [
    (u, t) for u in user for t in range(first[u], end[u])
  ]
  assert (windows.length <= window).all()
  context = windows.first_target - windows.start
  least = np.minimum(windows.first_target, window - max(1, window // 2))
  assert (context >= least).all()


@given(
  st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 12)
)
def test_a_single_query_sees_all_the_history_that_fits(first, window):
  first = np.array(first)
  windows = query_windows(
    np.arange(len(first)), first, first + 1, window=window
  )
  assert (windows.start == np.maximum(0, first + 1 - window)).all()
  assert (windows.end == first + 1).all()

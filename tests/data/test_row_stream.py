"""The stream of rows, from lengths alone."""

import concurrent.futures
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.config import ConfigError
from fmjax.data.packing import Packed, Windows
from fmjax.data.row_stream import RowStream
from fmjax.data.schema import DataError

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


@st.composite
def cuts(draw):
  window = draw(st.integers(1, 12))
  stride = draw(st.integers(1, window))
  lengths = np.array(draw(LENGTHS))
  seed = draw(st.integers(0, 1_000))
  return lengths, window, stride, seed


def stream(cut, *, rows=4, **options):
  lengths, window, stride, seed = cut
  return RowStream(
    lengths, window=window, stride=stride, rows=rows, seed=seed, **options
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


def every_token(lengths) -> list[tuple[int, int]]:
  return [(user, t) for user, n in enumerate(lengths) for t in range(n)]


def same(a: Packed, b: Packed) -> bool:
  return all(
    np.array_equal(x, y)
    for x, y in zip(
      [*vars(a.windows).values(), a.row, a.offset, a.segment, a.rows],
      [*vars(b.windows).values(), b.row, b.offset, b.segment, b.rows],
      strict=True,
    )
  )


@given(cuts())
def test_every_token_is_a_target_exactly_once_an_epoch(cut):
  for epoch in range(3):
    assert sorted(asked(stream(cut).epoch(epoch).windows)) == every_token(
      cut[0]
    )


@given(cuts(), st.integers(0, 5))
def test_steps_of_an_epoch_ask_for_each_of_its_tokens_once(cut, epoch):
  rows = stream(cut, rows=1)
  begin = sum(rows.epoch(e).rows for e in range(epoch))
  steps = [rows[begin + t] for t in range(rows.epoch(epoch).rows)]
  tokens = [token for step in steps for token in asked(step.windows)]
  assert sorted(tokens) == every_token(cut[0])


@given(cuts())
def test_a_later_window_keeps_at_least_the_overlap_as_context(cut):
  lengths, window, stride, _ = cut
  windows = stream(cut).epoch(0).windows
  later = windows[windows.first_target > 0]
  assert ((later.first_target - later.start) >= window - stride).all()
  # And no more than fits, so a long history's windows are all full.
  assert (later.length == window).all()
  assert (lengths[later.user] > window).all()
  first = windows[windows.first_target == 0]
  assert (first.start == 0).all()
  assert sorted(first.user) == np.flatnonzero(lengths).tolist()


@given(cuts())
def test_a_window_never_reaches_beyond_its_history(cut):
  windows = stream(cut).epoch(0).windows
  assert (windows.start >= 0).all()
  assert (windows.length > 0).all()
  assert (windows.length <= cut[1]).all()
  assert (windows.end <= cut[0][windows.user]).all()


def test_each_epoch_cuts_long_histories_at_a_fresh_phase():
  rows = stream((np.full(50, 100), 16, 8, 3))
  ends = []
  for epoch in range(20):
    windows = rows.epoch(epoch).windows
    first = windows[windows.first_target == 0]
    ends.append(first.end[np.argsort(first.user)])
  ends = np.stack(ends)
  assert set(np.unique(ends)) == set(range(9, 17))  # (T - S, T]
  assert all(len(set(user_ends)) > 3 for user_ends in ends.T)
  assert all(len(set(epoch_ends)) > 3 for epoch_ends in ends)


def test_the_phase_of_a_user_does_not_depend_on_the_others_lengths():
  def first_end(lengths):
    windows = stream((lengths, 16, 8, 5)).epoch(2).windows
    return windows.end[(windows.user == 1) & (windows.first_target == 0)]

  assert first_end(np.array([3, 90, 4])) == first_end(np.array([80, 90, 70]))


@given(cuts(), st.integers(0, 3))
def test_no_row_exceeds_its_positions_and_no_two_windows_overlap(cut, step):
  _, window, _, _ = cut
  packed = stream(cut)[step]
  assert packed.rows == 4
  taken = np.zeros((packed.rows, window), int)
  for row, offset, length in zip(
    packed.row, packed.offset, packed.windows.length, strict=True
  ):
    assert offset + length <= window
    taken[row, offset : offset + length] += 1
  assert taken.max() == 1
  # Filled from the left, numbered from 1.
  assert (np.diff(taken, axis=1) <= 0).all()
  for row in range(packed.rows):
    segments = packed.segment[packed.row == row]
    assert segments.tolist() == list(range(1, len(segments) + 1))
    assert len(segments)


def test_a_realistic_log_fills_its_rows():
  lengths = np.random.default_rng(0).geometric(0.05, size=3_000)
  packed = stream((lengths, 64, 32, 0)).epoch(0)
  assert packed.windows.length.sum() / (packed.rows * 64) > 0.98


@given(cuts(), st.permutations(range(12)))
@settings(max_examples=50)
def test_a_step_does_not_depend_on_the_order_of_access(cut, order):
  in_order, shuffled = stream(cut), stream(cut)
  expected = [in_order[t] for t in range(12)]
  for t in order:
    assert same(shuffled[t], expected[t])
  assert same(stream(cut)[11], expected[11])


def test_steps_read_by_many_threads_equal_those_read_by_one():
  cut = (np.random.default_rng(0).integers(0, 60, 200), 16, 5, 1)
  alone, shared = stream(cut), stream(cut)
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    steps = list(threads.map(shared.__getitem__, range(300)))
  assert all(same(steps[t], alone[t]) for t in range(300))


def test_another_seed_gives_another_order():
  lengths = np.random.default_rng(0).integers(1, 20, 100)
  assert not same(
    stream((lengths, 16, 8, 0))[0], stream((lengths, 16, 8, 1))[0]
  )


@given(cuts(), st.integers(0, 5), st.sampled_from([2, 4]))
def test_processes_partition_the_rows_of_each_step(cut, step, processes):
  whole = stream(cut)[step]
  for process in range(processes):
    part = stream(cut, process_index=process, process_count=processes)[step]
    share = 4 // processes
    assert same(part, whole.part(process * share, (process + 1) * share))


@given(cuts(), st.integers(0, 3))
def test_the_stream_of_rows_does_not_depend_on_the_rows_in_a_step(cut, step):
  wide, narrow = stream(cut, rows=6)[step], stream(cut, rows=3)
  for half in (0, 1):
    assert same(wide.part(3 * half, 3 * half + 3), narrow[2 * step + half])


def test_the_stream_is_endless():
  rows = stream((np.array([3, 5]), 8, 8, 0), rows=2)
  assert len(rows) == sys.maxsize
  assert rows[1_000].rows == 2


@pytest.mark.parametrize(
  "options, error, says",
  [
    ({"stride": 9}, ConfigError, "data.stride=9"),
    ({"stride": 0}, ConfigError, "data.stride=0"),
    ({"rows": 3, "process_count": 2}, ConfigError, "data.rows=3"),
    ({"rows": 0}, ConfigError, "data.rows=0"),
    ({"process_index": 1}, ConfigError, "process_index=1"),
    ({"seed": -1}, ConfigError, "run.seed=-1"),
    ({"lengths": np.zeros(4, int)}, DataError, "training cut"),
  ],
)
def test_a_stream_that_cannot_be_is_refused(options, error, says):
  usual = {
    "lengths": np.array([3, 20]),
    "window": 8,
    "stride": 4,
    "rows": 2,
    "seed": 0,
  }
  arguments = {**usual, **options}
  with pytest.raises(error, match=says):
    RowStream(arguments.pop("lengths"), **arguments)

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.eval.rank import rank


def brute_force(scores, target, seen):
  """By the definition, one competitor at a time."""
  position = 1
  for item, score in enumerate(scores):
    if item == target or item in seen:
      continue
    if not score < scores[target]:
      position += 1
  return position


# Few distinct scores, so that most examples have ties.
_SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.nan])


@st.composite
def queries(draw):
  # Few shapes: each compiles anew.
  n, v, w = draw(st.sampled_from([(1, 1, 2), (3, 8, 0), (3, 8, 5)]))
  scores_nv = [[draw(_SCORES) for _ in range(v)] for _ in range(n)]
  target_n = [draw(st.integers(0, v - 1)) for _ in range(n)]
  seen_nw = [[draw(st.integers(-1, v - 1)) for _ in range(w)] for _ in range(n)]
  return (
    np.array(scores_nv, np.float32),
    np.array(target_n, np.int32),
    np.array(seen_nw, np.int32).reshape(n, w),
  )


@hypothesis.given(queries())
@hypothesis.settings(deadline=None, max_examples=60)
def test_ranks_equal_brute_force_with_ties_padding_and_filtered_items(query):
  scores_nv, target_n, seen_nw = query
  ranks = rank(scores_nv, target_n, seen_nw=seen_nw)
  expected = [
    brute_force(scores, target, set(seen) - {-1})
    for scores, target, seen in zip(scores_nv, target_n, seen_nw, strict=True)
  ]
  assert ranks.tolist() == expected


def test_a_constant_scorer_ranks_every_target_last():
  ranks = rank(np.zeros((2, 5), np.float32), np.array([0, 4], np.int32))
  assert ranks.tolist() == [5, 5]


@pytest.mark.parametrize("place", ["target", "competitor"])
def test_nan_scores_count_against_us(place):
  scores_nv = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
  scores_nv[0, 3 if place == "target" else 0] = np.nan
  ranks = rank(scores_nv, np.array([3], np.int32))
  assert ranks.tolist() == [4 if place == "target" else 2]


def test_a_seen_target_is_not_filtered():
  scores_nv = np.array([[0.0, 3.0, 2.0, 1.0]], np.float32)
  seen_nw = np.array([[1, 2, 2, -1]], np.int32)
  assert rank(scores_nv, np.array([2]), seen_nw=seen_nw).tolist() == [1]
  assert rank(scores_nv, np.array([3]), seen_nw=seen_nw).tolist() == [1]


def test_rows_that_are_no_items_never_beat_a_finite_score():
  scores_nv = np.array([[-np.inf, 1.0, 2.0, -np.inf]], np.float32)
  assert rank(scores_nv, np.array([1], np.int32)).tolist() == [2]


def test_ranks_do_not_depend_on_how_queries_are_chunked():
  random = np.random.default_rng(0)
  scores_nv = random.integers(0, 6, (13, 40)).astype(np.float32)
  target_n = random.integers(0, 40, 13).astype(np.int32)
  seen_nw = random.integers(-1, 40, (13, 7)).astype(np.int32)
  whole = jax.jit(rank)(scores_nv, target_n, seen_nw=seen_nw)
  parts = [
    rank(
      jnp.asarray(scores_nv[start : start + 4]),
      target_n[start : start + 4],
      seen_nw=seen_nw[start : start + 4],
    )
    for start in range(0, 13, 4)
  ]
  assert whole.tolist() == np.concatenate(parts).tolist()

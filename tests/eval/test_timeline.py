import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fmjax.data.store import Index
from fmjax.eval.timeline import Timeline

_USERS = st.lists(
  st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=9),
  min_size=1,
  max_size=5,
)


def make_timeline(users):
  """From (item, is target) lists, one a user; a token a day."""
  item = [item for tokens in users for item, _ in tokens]
  target = [target for tokens in users for _, target in tokens]
  place = [place for tokens in users for place in range(len(tokens))]
  return Timeline(
    item=np.array(item, np.int32),
    time_s=np.array(place, np.int32) * 86_400,
    target=np.array(target, bool),
    counted=np.array(target, bool),
    offset=np.cumsum([0] + [len(tokens) for tokens in users]),
  )


def make_index(tokens, *, train, validation):
  """Each user's tokens cut at shares; no token crosses a cut."""
  tokens = np.asarray(tokens, np.int32)
  first, second = tokens * train // 10, tokens * (train + validation) // 10
  return Index(
    train_end=first,
    validation_start=first,
    validation_end=second,
    test_start=second,
    tokens=tokens,
  )


@hypothesis.given(_USERS)
@hypothesis.settings(deadline=None)
def test_seen_items_are_the_distinct_items_before_the_target(users):
  log = make_timeline(users)
  count, item = log.seen(log.user, log.place)
  parts = np.split(item, np.cumsum(count)[:-1])
  expected = [
    {item for item, _ in tokens[:place]}
    for tokens in users
    for place in range(len(tokens))
  ]
  if expected:
    assert [set(part.tolist()) for part in parts] == expected
    assert [len(part) for part in parts] == [len(each) for each in expected]


@hypothesis.given(_USERS, st.sampled_from(["validation", "test"]))
@hypothesis.settings(deadline=None)
def test_queries_are_the_target_tokens_of_the_split(users, split):
  log = make_timeline(users)
  lengths = [len(tokens) for tokens in users]
  index = make_index(lengths, train=4, validation=3)
  everyone, firsts = [], []
  for user, tokens in enumerate(users):
    begin, end = {
      "validation": (index.validation_start[user], index.validation_end[user]),
      "test": (index.test_start[user], index.tokens[user]),
    }[split]
    mine = [(user, t) for t in range(begin, end) if tokens[t][1]]
    everyone += mine
    firsts += mine[:1]
  for targets, expected in (("all", everyone), ("first", firsts)):
    queries = log.queries(index, split=split, targets=targets)
    found = zip(queries.user, queries.history_length, strict=True)
    assert list(found) == expected
    assert queries.item.tolist() == [users[u][t][0] for u, t in expected]


def test_a_user_without_tokens_is_asked_nothing():
  log = make_timeline([[], [(1, True)], []])
  queries = log.queries(
    make_index([0, 1, 0], train=0, validation=0), split="test", targets="all"
  )
  assert queries.user.tolist() == [1]
  assert queries.time_s.tolist() == [0]
  assert pytest.approx(log.seen(queries.user, queries.history_length)[0]) == [0]

"""All histories side by side: who is asked what, and what they had seen."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from fmjax.config import Targets
from fmjax.data.decoded import histories
from fmjax.data.store import Index, Prepared

SplitName = Literal["validation", "test"]

_USERS_AT_ONCE = 4_096  # decoded together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
  """What an evaluation asks, ordered by (user, history_length).

  Attributes:
    user: row of the user.
    history_length: index of the target in the user's history.
    item: catalog row of the target.
    time_s: its request time, seconds since 1970 UTC.
  """

  user: np.ndarray
  history_length: np.ndarray
  item: np.ndarray
  time_s: np.ndarray

  def __len__(self) -> int:
    return len(self.user)

  def __getitem__(self, chosen: np.ndarray) -> "Queries":
    return Queries(
      user=self.user[chosen],
      history_length=self.history_length[chosen],
      item=self.item[chosen],
      time_s=self.time_s[chosen],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
  """The tokens of all users, history after history.

  Attributes:
    item: int32, catalog row of each token.
    time_s: int32, its request time, seconds since 1970 UTC.
    target: bool, it may be asked for.
    counted: bool, what is fitted or counted before it may know of it: a target,
      not of an item that is held out of training.
    offset: int64 [users + 1]: tokens offset[u] to offset[u + 1] are user u's.
  """

  item: np.ndarray
  time_s: np.ndarray
  target: np.ndarray
  counted: np.ndarray
  offset: np.ndarray

  @functools.cached_property
  def user(self) -> np.ndarray:
    """int32, whose token."""
    users = len(self.offset) - 1
    return np.repeat(np.arange(users, dtype=np.int32), np.diff(self.offset))

  @functools.cached_property
  def place(self) -> np.ndarray:
    """int32, index of each token in its history."""
    return (np.arange(len(self.item)) - self.offset[self.user]).astype(np.int32)

  @functools.cached_property
  def _first_meetings(self) -> tuple[np.ndarray, np.ndarray]:
    """(items of the tokens in which a user meets an item for the first time,
    how many such tokens lie before each token and before the end)."""
    by_item = np.lexsort((self.place, self.item, self.user))
    again = (np.diff(self.user[by_item]) == 0) & (
      np.diff(self.item[by_item]) == 0
    )
    first = np.ones(len(self.item), bool)
    first[by_item[1:]] = ~again
    before = np.concatenate([[0], np.cumsum(first)])
    return self.item[first], before

  def queries(
    self, index: Index, *, split: SplitName, targets: Targets
  ) -> Queries:
    """The split's target tokens: of each user the first, or all."""
    begin, end = {
      "validation": (index.validation_start, index.validation_end),
      "test": (index.test_start, index.tokens),
    }[split]
    asked = np.flatnonzero(
      self.target
      & (self.place >= begin[self.user])
      & (self.place < end[self.user])
    )
    if targets == "first":
      _, first = np.unique(self.user[asked], return_index=True)
      asked = asked[first]
    return Queries(
      user=self.user[asked],
      history_length=self.place[asked],
      item=self.item[asked],
      time_s=self.time_s[asked],
    )

  def seen(
    self, user: np.ndarray, history_length: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items in each query's history before its target.

    Returns:
      How many there are, for each query, and all of them in a row.
    """
    item, before = self._first_meetings
    start = before[self.offset[user]]
    count = before[self.offset[user] + history_length] - start
    skip = start - (np.cumsum(count) - count)
    return count, item[np.arange(count.sum()) + np.repeat(skip, count)]


def timeline(prepared: Prepared) -> Timeline:
  """Reads every history once, a few thousand users at a time."""
  log = histories(prepared)
  tokens = prepared.index.tokens.astype(np.int64)
  parts: dict[str, list[np.ndarray]] = {"item": [], "start_s": [], "target": []}
  for begin in range(0, len(tokens), _USERS_AT_ONCE):
    user = np.arange(begin, min(begin + _USERS_AT_ONCE, len(tokens)))
    columns, first = log.read(user)
    count = tokens[user]
    skip = first - (np.cumsum(count) - count)
    row = np.arange(count.sum()) + np.repeat(skip, count)
    for name, part in parts.items():
      part.append(columns[name].take(row))
  whole = {name: np.concatenate(part) for name, part in parts.items()}
  item, target = whole["item"].astype(np.int32), whole["target"].astype(bool)
  return Timeline(
    item=item,
    time_s=whole["start_s"].astype(np.int32),
    target=target,
    counted=target & ~prepared.held_out_v[item],
    offset=np.concatenate([[0], np.cumsum(tokens)]),
  )

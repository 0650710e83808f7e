"""Histories as flat columns, decoded once or a batch at a time.

All tokens follow one another, so a whole batch is put in place by indexing.
"""

import weakref
from typing import Protocol

import numpy as np

from fmjax.data.schema import DataSpec, Kind
from fmjax.data.store import Prepared

# Decoded, the shipped logs take tens of megabytes; what is larger is read from
# disk, the histories of a batch at a time.
_MEMORY_LIMIT = 512 * 2**20
_MICROSECONDS = 1_000_000
_USERS_AT_ONCE = 4_096  # decoded together when a whole log is scanned

Columns = dict[str, np.ndarray]


class Histories(Protocol):
  """Tokens of many users as flat columns."""

  def read(self, user: np.ndarray) -> tuple[Columns, np.ndarray]:
    """Columns, and for each entry of `user` the row of its first token.

    Row 0 of every column is blank (zeros).
    """
    ...


class InMemory:
  """The whole log, decoded once."""

  def __init__(self, prepared: Prepared):
    self._columns, self._first = _decode(prepared, None)

  def read(self, user: np.ndarray) -> tuple[Columns, np.ndarray]:
    return self._columns, self._first[user]


class OnDisk:
  """The histories of the asked users, decoded each time."""

  def __init__(self, prepared: Prepared):
    self._prepared = prepared

  def read(self, user: np.ndarray) -> tuple[Columns, np.ndarray]:
    distinct, which = np.unique(user, return_inverse=True)
    columns, first = _decode(self._prepared, distinct)
    return columns, first[which]


_in_memory: weakref.WeakKeyDictionary[Prepared, InMemory] = (
  weakref.WeakKeyDictionary()
)


def histories(prepared: Prepared) -> Histories:
  """In memory if the decoded log fits; training and evaluation share them."""
  tokens = int(prepared.index.tokens.sum(dtype=np.int64))
  if tokens * token_bytes(prepared.spec) > _MEMORY_LIMIT:
    return OnDisk(prepared)
  if prepared not in _in_memory:
    _in_memory[prepared] = InMemory(prepared)
  return _in_memory[prepared]


def _decode(
  prepared: Prepared, users: np.ndarray | None
) -> tuple[Columns, np.ndarray]:
  """Columns with a blank first row, and the row of each user's first token."""
  columns, offset_u = prepared.histories(users)
  columns["start_s"] = columns.pop("start_us") // _MICROSECONDS
  del columns["end_us"]  # known only when the token is over

  def with_blank(values: np.ndarray) -> np.ndarray:
    dtype = np.int32 if values.dtype == np.int64 else values.dtype
    full = np.zeros((len(values) + 1, *values.shape[1:]), dtype)
    full[1:] = values
    return full

  for name in list(columns):  # one at a time: the old column is freed
    columns[name] = with_blank(columns.pop(name))
  return columns, offset_u[:-1] + 1


def token_bytes(spec: DataSpec) -> int:
  """Of a decoded token: item, time, target and its features."""
  total = 4 + 4 + 1
  for encoded in spec.features:
    match encoded.feature.kind:
      case Kind.BAG:
        total += 8 * encoded.values  # codes and counts
      case Kind.VECTOR:
        total += 4 * encoded.size
      case _:
        total += 4
  return total


def token_times(
  log: Histories, user: np.ndarray, token: np.ndarray
) -> np.ndarray:
  """Start of tokens, int32 [n], seconds since 1970; `user` rises."""
  return token_values(log, user, token, column="start_s").astype(np.int32)


def token_values(
  log: Histories, user: np.ndarray, token: np.ndarray, *, column: str
) -> np.ndarray:
  """A column of numbers at some tokens, [n]; `user` rises."""
  users, begins = np.unique(user, return_index=True)
  parts = []
  for begin in range(0, len(users), _USERS_AT_ONCE):
    some = slice(
      begins[begin],
      begins[begin + _USERS_AT_ONCE]
      if begin + _USERS_AT_ONCE < len(users)
      else len(user),
    )
    columns, base = log.read(user[some])
    parts.append(columns[column].take(base + token[some]))
  return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def training_targets(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
  """(user, token) of all that training learns to predict, in order."""
  end = prepared.index.train_end
  held_out_v = prepared.held_out_v if prepared.held_out_v.any() else None
  return target_tokens(
    histories(prepared), np.zeros_like(end), end, held_out_v=held_out_v
  )


def target_tokens(
  log: Histories,
  first: np.ndarray,
  end: np.ndarray,
  *,
  held_out_v: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """(user, token) of the targets in [first, end) of every history, in order.

  Args:
    log: the histories.
    first: of each user.
    end: of each user.
    held_out_v: items whose tokens are left out.
  """
  users = np.flatnonzero(end > first)
  found = []
  for begin in range(0, len(users), _USERS_AT_ONCE):
    some = users[begin : begin + _USERS_AT_ONCE]
    count = (end - first)[some]
    user = np.repeat(some, count)
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    token = first[user] + place
    columns, base = log.read(some)
    row = np.repeat(base, count) + token
    target = columns["target"].take(row)
    if held_out_v is not None:
      target &= ~held_out_v[columns["item"].take(row)]
    found.append((user[target], token[target]))
  if not found:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
  users, tokens = zip(*found, strict=True)
  return np.concatenate(users), np.concatenate(tokens)

"""Who asks, when and where: the requests, before any title is chosen.

None of this depends on what was chosen before. A user is an account with some
profiles (twelve, unless asked for others) that take turns, each for a session
or two; sessions fall on any day of the account's, mostly in the evening, on a
device that is mostly the usual one.
"""

import dataclasses

import numpy as np

from fmjax.config import Synthetic
from fmjax.data.readers.synthetic_titles import DEVICES, LOCALES

USERS_AT_ONCE = 4_096

_SECONDS_PER_DAY = 86_400
_SESSION = 5  # events, mean
_GAP_S = 900  # between the events of a session, median
_GAP_SPREAD = 0.8
_EVENING_H = 20
_EVENING_SPREAD_H = 4
_STAY = 0.3  # a profile also has the next session
_NEXT = 0.7  # if not, it is the next one's turn; else any other's
_HOME_DEVICE = 0.8  # share of the sessions on the account's usual device
_LOCALE_SHARES = (0.35, 0.2, 0.2, 0.15, 0.1)
_RATE_SPREAD = 0.4  # of the accounts' rates, lognormal
_LATE = 0.3  # share of the accounts that join while the log runs
_LATEST = 0.7  # share of the days by which all have joined


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accounts:
  """All users: first day int64 [users] and events int64 [users]."""

  join: np.ndarray
  events: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visits:
  """The requests of a block of users, by user and time; [n] each.

  Attributes:
    user: int64, counted from the first of the block.
    time_us: int64, since the start of the log; rises within a user.
    profile: int64, below `source.profiles`.
    device: int64, place in `DEVICES`.
    locale: int64, place in `LOCALES`.
  """

  user: np.ndarray
  time_us: np.ndarray
  profile: np.ndarray
  device: np.ndarray
  locale: np.ndarray


def accounts(source: Synthetic) -> Accounts:
  """Exactly `events` events, shared by the accounts' rates and days."""
  rng = np.random.default_rng([source.seed, 1])
  join = rng.random(source.users) * _LATEST * source.days
  join = np.where(rng.random(source.users) < _LATE, join, 0).astype(np.int64)
  rate = rng.lognormal(0.0, _RATE_SPREAD, source.users) * (source.days - join)
  share = np.cumsum(rate) / rate.sum()
  share[-1] = 1.0  # rounding must not lose the last event
  ends = np.floor(share * source.events).astype(np.int64)
  return Accounts(join=join, events=np.diff(ends, prepend=0))


def visits(
  source: Synthetic, of: Accounts, users: slice, rng: np.random.Generator
) -> Visits:
  """The requests of some users."""
  events, join = of.events[users], of.join[users]
  user = np.repeat(np.arange(len(events)), events)
  n = len(user)
  first = np.diff(user, prepend=-1) > 0
  begins = first | (rng.random(n) < 1 / _SESSION)
  session = np.cumsum(begins) - 1
  owner = user[begins]

  # The sessions of an account in order of time, so that profiles take turns.
  span = source.days - join[owner]
  day = join[owner] + np.floor(rng.random(len(owner)) * span)
  hour = rng.normal(_EVENING_H, _EVENING_SPREAD_H, len(owner)) % 24
  start = (day * _SECONDS_PER_DAY + hour * 3_600).astype(np.int64)
  start = start[np.lexsort((start, owner))]
  turn = np.where(
    rng.random(len(owner)) < _NEXT,
    1,
    rng.integers(1, max(source.profiles, 2), len(owner)),
  )
  turn = np.where(rng.random(len(owner)) < _STAY, 0, turn)
  begin = np.diff(owner, prepend=-1) > 0
  turn = np.where(begin, rng.integers(0, source.profiles, len(owner)), turn)
  profile = np.cumsum(turn) % source.profiles
  usual = rng.integers(0, len(DEVICES), len(events))
  device = np.where(
    rng.random(len(owner)) < _HOME_DEVICE,
    usual[owner],
    rng.integers(0, len(DEVICES), len(owner)),
  )
  locale = rng.choice(len(LOCALES), len(events), p=_LOCALE_SHARES)

  gap = rng.lognormal(np.log(_GAP_S), _GAP_SPREAD, n)
  passed = np.cumsum(np.where(begins, 0.0, gap))
  second = (start[session] + passed - passed[begins][session]).astype(np.int64)
  # What would fall after the end is turned back into the log.
  end = source.days * _SECONDS_PER_DAY - 1
  second = np.abs(end - np.abs(end - second))
  order = np.lexsort((second, user))
  # A microsecond of its own for each event of a user: no ties.
  place = np.arange(n) - np.repeat(np.cumsum(events) - events, events)
  return Visits(
    user=user,
    time_us=second[order] * 1_000_000 + place,
    profile=profile[session][order],
    device=device[session][order],
    locale=locale[user],
  )

"""What is watched at each visit, drawn from the oracle's probabilities.

A step holds at most one event of each user, so what an event depends on is
known when its turn comes, and the events of a step are drawn together.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from fmjax.config import Synthetic
from fmjax.data.readers.synthetic_oracle import (
  FORGETFUL_VOTE,
  RECENT,
  RECENT_VOTE,
  TOP,
  Requests,
  pick,
)
from fmjax.data.readers.synthetic_titles import (
  SURFACES,
  Attraction,
  Day,
  Titles,
  ageless,
)
from fmjax.data.readers.synthetic_visits import Visits

ACTIONS = ("trailer", "preview", "play")
_TRAILER, _PREVIEW, _PLAY = range(3)

# How the last event ended; `_NONE`: there is none.
_NONE, _AFTER_TRAILER, _AFTER_PREVIEW, _UNFINISHED, _FINISHED = range(5)
# Shares of the surfaces: after what is open to be continued, and else.
_OPEN_SHARES = (0.57, 0.06, 0.18, 0.19)
_SHARES = (0.6, 0.03, 0.18, 0.19)
# Log-odds that the last title is continued: by surface, by how it ended, more
# than an hour after, and where another profile began it.
_GO_ON_SURFACE = np.array((-4.0, 0.5, -5.0, -4.5))
_GO_ON_END = np.array((-np.inf, 1.0, 0.5, 1.0, -2.0))
_GO_ON_LATER = -0.7
_GO_ON_OTHER = -2.0
# Logits of the actions: always, of the last title, of a new title, in a search.
_ACTION = np.array((-1.0, -0.6, 0.0))
_ACTION_LAST = np.array((-1.5, -0.4, 0.0))
_ACTION_NEW = np.array((1.2, 0.0, 0.0))
_ACTION_SEARCH = np.array((0.0, 0.0, 1.0))
_NEW_DAYS = 7
_FINISHES = 0.6  # share of the plays
_FINISHES_LAST = 0.75  # of the last title
_TRAILER_MS = 120_000
_MS_PER_MINUTE = 60_000
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
  """What was watched at each visit; [n] each.

  Attributes:
    surface: place in `SURFACES`.
    title: its number.
    action: place in `ACTIONS`.
    completion: share of the title, or trailer, that was seen.
    duration_ms: int64.
  """

  surface: np.ndarray
  title: np.ndarray
  action: np.ndarray
  completion: np.ndarray
  duration_ms: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
  """What the oracle says of each choice; natural logarithms, [n] each.

  Attributes:
    log_p: of the title, given all that was observed before it was chosen.
    log_p_ageless: where titles keep their mean weight, whatever their age.
    log_p_recent: of an oracle that forgets all but the last `RECENT` events.
    log_p_action: of the action, given the title, too.
    rank: int32, of the title in the catalog, ties against it.
    top_nk: int32, numbers of the ten likeliest titles; -1 where fewer launched.
  """

  log_p: np.ndarray
  log_p_ageless: np.ndarray
  log_p_recent: np.ndarray
  log_p_action: np.ndarray
  rank: np.ndarray
  top_nk: np.ndarray


def choose(
  source: Synthetic,
  titles: Titles,
  visits: Visits,
  rng: np.random.Generator,
  *,
  with_truth: bool = True,
) -> tuple[Choices, Truth | None]:
  """Draws a block of users; the same choices with and without the truth."""
  n = len(visits.user)
  users = int(visits.user.max(initial=-1)) + 1
  hour_n = visits.time_us // _HOUR_US % 24
  place_n = np.arange(n) - np.searchsorted(visits.user, visits.user)
  random_an = rng.random((6, n)) * (1 - 2.0**-40)
  attraction = Attraction(titles)
  old_votes = np.zeros((users, source.profiles, titles.series))
  recent = np.zeros_like(old_votes)
  ended = np.full(users, _NONE)
  made = Choices(
    surface=np.zeros(n, np.int64),
    title=np.zeros(n, np.int64),
    action=np.zeros(n, np.int64),
    completion=np.zeros(n),
    duration_ms=np.zeros(n, np.int64),
  )
  truth = _no_truth(n if with_truth else 0)
  ageless_fsk = ageless(titles)
  for number, steps in _by_day(visits):
    day = Day(titles, ageless_fsk, number)
    for at in steps:
      user, place = visits.user[at], place_n[at]
      before = at - (place > 0)
      same = visits.profile[at] == visits.profile[before]
      later = visits.time_us[at] - visits.time_us[before] > _HOUR_US
      surface = _surface(ended[user], same, random_an[0, at])
      last_k, last_s = np.divmod(made.title[before], titles.series)
      requests = Requests(
        day=day,
        surface=surface,
        moment_ns=attraction.moment(hour_n[at], visits.device[at]),
        attraction_ns=attraction.newcomers(visits.locale[at]),
        go_on=_go_on(surface, ended[user], later=later, same_profile=same),
        last_s=last_s,
        last_k=last_k,
      )
      old = at[place > RECENT] - RECENT - 1
      then = visits.user[old], visits.profile[old]
      old_s = made.title[old] % titles.series
      old_votes[*then, old_s] += 1
      recent[*then, old_s] -= 1
      now = user, visits.profile[at]
      recent_ns = recent[now]
      pull_ns = requests.pull(old_votes[now] + RECENT_VOTE * recent_ns)
      s, k = requests.draw(pull_ns, random_an[1:4, at])
      recent[*now, s] += 1

      last = (place > 0) & (s == last_s) & (k == last_k)
      new = number - titles.launch_sk[s, k] < _NEW_DAYS
      odds_na = np.exp(_action_logits(surface, last=last, new=new))
      action = pick(odds_na, random_an[4, at])
      finishes = np.where(last, _FINISHES_LAST, _FINISHES)
      seen, is_finished = _completion(action, finishes, random_an[5, at])
      ended[user] = np.where(is_finished, _FINISHED, _AFTER_TRAILER + action)
      whole_ms = np.where(
        action == _TRAILER,
        _TRAILER_MS,
        titles.minutes_sk[s, k] * _MS_PER_MINUTE,
      )
      if with_truth:
        forgetful_ns = requests.pull(FORGETFUL_VOTE * recent_ns)
        truth.log_p[at] = requests.log_p(s, k, pull_ns)
        truth.log_p_ageless[at] = requests.log_p_ageless(s, k, pull_ns)
        truth.log_p_recent[at] = requests.log_p(s, k, forgetful_ns)
        chosen = odds_na[np.arange(len(at)), action]
        truth.log_p_action[at] = np.log(chosen / odds_na.sum(axis=1))
        truth.rank[at], truth.top_nk[at] = requests.rank(s, k, pull_ns)
      made.surface[at], made.action[at] = surface, action
      made.title[at], made.completion[at] = titles.number(s, k), seen
      made.duration_ms[at] = np.rint(whole_ms * seen)
  return made, truth if with_truth else None


def _by_day(visits: Visits) -> Iterator[tuple[int, list[np.ndarray]]]:
  """Each day and its steps: places of the users' first events, second, …"""
  day_n = visits.time_us // _DAY_US
  n = np.arange(len(day_n))
  first = (np.diff(visits.user, prepend=-1) != 0) | (
    np.diff(day_n, prepend=-1) != 0
  )
  turn_n = n - np.maximum.accumulate(np.where(first, n, 0))
  order = np.lexsort((n, turn_n, day_n))
  begins = np.diff(day_n[order], prepend=-1) != 0
  for today in np.split(order, np.flatnonzero(begins)[1:]):
    if not len(today):
      return
    turns = np.flatnonzero(np.diff(turn_n[today])) + 1
    yield int(day_n[today[0]]), np.split(today, turns)


def _surface(
  ended: np.ndarray, same_profile: np.ndarray, random: np.ndarray
) -> np.ndarray:
  is_open = (ended > _NONE) & (ended < _FINISHED) & same_profile
  shares_nf = np.where(is_open[:, None], _OPEN_SHARES, _SHARES)
  return pick(shares_nf, random)


def _go_on(
  surface: np.ndarray,
  ended: np.ndarray,
  *,
  later: np.ndarray,
  same_profile: np.ndarray,
) -> np.ndarray:
  """Probability that the last title is continued; 0 if there is none."""
  odds = _GO_ON_SURFACE[surface] + _GO_ON_END[ended]
  odds = odds + later * _GO_ON_LATER + ~same_profile * _GO_ON_OTHER
  return 1 / (1 + np.exp(-odds))


def _action_logits(
  surface: np.ndarray, *, last: np.ndarray, new: np.ndarray
) -> np.ndarray:
  search = surface == SURFACES.index("search")
  return (
    _ACTION
    + last[:, None] * _ACTION_LAST
    + new[:, None] * _ACTION_NEW
    + search[:, None] * _ACTION_SEARCH
  )


def _completion(
  action: np.ndarray, finishes: np.ndarray, random: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What share is seen, and whether a play ends at nine tenths or more."""
  is_finished = (action == _PLAY) & (random < finishes)
  rest = np.where(
    random < finishes,
    0.9 + 0.1 * random / finishes,
    0.1 + 0.8 * (random - finishes) / (1 - finishes),
  )
  kinds = (np.sqrt(random), 0.02 + 0.13 * random, rest)
  return np.choose(action, kinds), is_finished


def _no_truth(n: int) -> Truth:
  names = ("log_p", "log_p_ageless", "log_p_recent", "log_p_action")
  return Truth(
    **{name: np.zeros(n) for name in names},
    rank=np.zeros(n, np.int32),
    top_nk=np.zeros((n, TOP), np.int32),
  )

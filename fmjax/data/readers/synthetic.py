"""A generated streaming service of any size, whose best prediction is known.

Each request is drawn from a probability that is a function of what is observed
before it: the request itself, the user's past and the catalog. So the log's
irreducible loss is known; it is written beside each event, with the oracle's
ranking. Users 0, 1, … are made in blocks that depend on the seed and the block
alone: any size streams, and the same seed gives the same bytes.

* **Titles** (synthetic_titles.py) belong to series, which have genres, a
  language, a format (minutes) and an appeal. A third of them launch while the
  log runs. A title's weight W is of its launch and of a quality of its own:
  what is new draws viewers, and its quality shows with age.
* **Requests** (synthetic_visits.py): a time, a profile of the account, a device
  and a locale, independent of the past. The surface is "continue" more often
  after what was left open.
* **Choice** (synthetic_oracle.py): the last title is continued with a
  probability that is logistic in the surface, how it ended, the gap and whether
  the profile is the same; else an urn is drawn from,

    urn(v) ∝ moment_s · (α · attraction_s + votes_s) · W_v,

  s being the series of v, moment what the hour makes of its genres and the
  device of its minutes, attraction its appeal in the locale, and votes how
  often the profile chose it; each of the user's last 100 events counts a fifth:
  people return to what they loved, but not soon.
* **Action** (synthetic_choices.py): trailer, preview or play, by softmax; the
  share that is seen, and so the duration, follow.

`log_p_recent` is of an oracle who knows the user's last 100 events alone and
makes the best of their votes; `log_p_ageless` of one to whom every title has
its mean weight. They tell what the long history and the age are worth.
"""

import contextlib
import pathlib
from collections.abc import Sequence

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmjax.config import Synthetic
from fmjax.data.log import Log
from fmjax.data.readers import (
  plain,
  raw,
  synthetic_choices,
  synthetic_titles,
  synthetic_visits,
)
from fmjax.data.readers.synthetic_choices import ACTIONS
from fmjax.data.readers.synthetic_oracle import TOP
from fmjax.data.readers.synthetic_titles import (
  DEVICES,
  LANGUAGES,
  LOCALES,
  SURFACES,
  Titles,
)
from fmjax.data.readers.synthetic_visits import (
  USERS_AT_ONCE,
  Accounts,
)
from fmjax.data.schema import DataError, Feature, Kind, Schema, When

SCHEMA = Schema(
  source="synthetic",
  features=(
    *(
      Feature(name=name, kind=Kind.CATEGORICAL, when=When.REQUEST)
      for name in ("device", "locale", "profile", "surface")
    ),
    Feature(name="completion", kind=Kind.NUMERIC),
  ),
  metadata=(
    Feature(name="series", kind=Kind.CATEGORICAL),
    Feature(name="genre", kind=Kind.BAG),
    Feature(name="language", kind=Kind.CATEGORICAL),
    Feature(name="minutes", kind=Kind.NUMERIC, log=True),
  ),
  # A title is continued, and a series watched in any order.
  repeats=True,
)

_START_US = 1_704_067_200_000_000  # 2024-01-01
_DAY_US = 86_400_000_000
_MOST_DAYS = 4_000
_MOST_PROFILES = 127
_MOST_AT_ONCE = 10_000_000  # events of a block of users, about 3 GB


def files(source: Synthetic) -> tuple[pathlib.Path, ...]:
  """None: the log is made of nothing but its numbers."""
  del source
  return ()


def read(source: Synthetic, connection: ibis.BaseBackend) -> Log:
  for name in ("events", "users", "items", "days", "profiles"):
    if getattr(source, name) < 1:
      raise DataError(
        f"synthetic: {name} = {getattr(source, name)} must be positive"
      )
  if source.seed < 0:
    raise DataError(f"synthetic: seed = {source.seed} must not be negative")
  if source.days > _MOST_DAYS:
    raise DataError(
      f"synthetic: days = {source.days} must be at most {_MOST_DAYS}, so that"
      " the log ends before 2037"
    )
  if source.profiles > _MOST_PROFILES:
    raise DataError(
      f"synthetic: profiles = {source.profiles} must be at most"
      f" {_MOST_PROFILES}"
    )
  least = USERS_AT_ONCE * source.events // _MOST_AT_ONCE
  if source.events > _MOST_AT_ONCE and source.users < least:
    raise DataError(
      f"synthetic: {source.events} events of users = {source.users} do not fit"
      f" in memory, {USERS_AT_ONCE} users at a time; set users to {least} or"
      " more"
    )
  scratch = raw.scratch_of(connection)
  in_events, in_items, in_truth = (
    scratch / f"{name}.parquet" for name in ("events", "items", "truth")
  )
  write(source, in_events, truth=in_truth)
  pq.write_table(items(source), in_items)
  table, described, truth = (
    plain.read_parquet(connection, path, place=path.name)
    for path in (in_events, in_items, in_truth)
  )
  return Log(
    schema=SCHEMA,
    events=table,
    items=described.drop("row"),
    time_unit="us",
    files=files(source),
    place=f"synthetic log of seed {source.seed}",
    truth=truth.drop("row"),
  )


def write(
  source: Synthetic,
  path: pathlib.Path,
  *,
  truth: pathlib.Path | None = None,
) -> None:
  """The events, by blocks of users; if asked for, what is true of each."""
  titles = synthetic_titles.draw(source)
  accounts = synthetic_visits.accounts(source)
  with contextlib.ExitStack() as stack:
    events_to = stack.enter_context(
      pq.ParquetWriter(path, _EVENTS, compression="zstd")
    )
    truth_to = truth and stack.enter_context(
      pq.ParquetWriter(truth, _TRUTH, compression="zstd")
    )
    for number in range(blocks(source)):
      events, known = block(
        source,
        number,
        titles=titles,
        accounts=accounts,
        with_truth=truth is not None,
      )
      events_to.write_batch(events)
      if truth_to:
        truth_to.write_batch(known)


def blocks(source: Synthetic) -> int:
  return -(-source.users // USERS_AT_ONCE)


def block(
  source: Synthetic,
  number: int,
  *,
  titles: Titles | None = None,
  accounts: Accounts | None = None,
  with_truth: bool = True,
) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
  """The events of users [number · USERS_AT_ONCE, …), and what is true of each.

  By user and time. Nothing but the seed, the sizes and `number` decides them.

  Args:
    source: the log.
    number: below `blocks(source)`.
    titles: if they are drawn already.
    accounts: likewise.
    with_truth: if not, the second is None.
  """
  titles = titles or synthetic_titles.draw(source)
  accounts = accounts or synthetic_visits.accounts(source)
  first = number * USERS_AT_ONCE
  rng = np.random.default_rng([source.seed, 2, number])
  visits = synthetic_visits.visits(
    source, accounts, slice(first, first + USERS_AT_ONCE), rng
  )
  made, truth = synthetic_choices.choose(
    source, titles, visits, rng, with_truth=with_truth
  )
  user = pa.array(first + visits.user)
  time = pa.array(_START_US + visits.time_us)
  events = pa.record_batch(
    [
      user,
      pa.array(made.title),
      time,
      _texts(made.action, ACTIONS),
      pa.array(made.duration_ms),
      _texts(visits.device, DEVICES),
      _texts(visits.locale, LOCALES),
      _texts(visits.profile, [f"profile-{p}" for p in range(source.profiles)]),
      _texts(made.surface, SURFACES),
      pa.array(made.completion),
    ],
    schema=_EVENTS,
  )
  if truth is None:
    return events, None
  top = pa.array(truth.top_nk.reshape(-1), mask=truth.top_nk.reshape(-1) < 0)
  return events, pa.record_batch(
    [
      user,
      time,
      *(pa.array(getattr(truth, name)) for name in LOG_P),
      pa.array(truth.rank),
      pa.FixedSizeListArray.from_arrays(top, TOP),
    ],
    schema=_TRUTH,
  )


def items(source: Synthetic) -> pa.Table:
  """Every title, in the order of their numbers."""
  titles = synthetic_titles.draw(source)
  k, s = np.divmod(np.arange(source.items), titles.series)
  genres = [
    [f"genre-{g}" for g in np.flatnonzero(genres_g)]
    for genres_g in titles.genres_sg
  ]
  launch_us = _START_US + titles.launch_sk[s, k] * _DAY_US
  return pa.table(
    {
      "item_id": pa.array(np.arange(source.items)).cast(pa.string()),
      "title": [f"Series {s}, title {k}" for s, k in zip(s, k, strict=True)],
      "launch_time": pa.array(launch_us),
      "series": [f"series-{s}" for s in s],
      "genre": pa.array([genres[s] for s in s], pa.list_(pa.string())),
      "language": [LANGUAGES[titles.language_s[s]] for s in s],
      "minutes": pa.array(titles.minutes_sk[s, k]),
    }
  )


def _texts(place: np.ndarray, texts: Sequence[str]) -> pa.DictionaryArray:
  return pa.DictionaryArray.from_arrays(place.astype(np.int8), list(texts))


LOG_P = ("log_p", "log_p_ageless", "log_p_recent", "log_p_action")
_TEXT = pa.dictionary(pa.int8(), pa.string())
_EVENTS = pa.schema(
  {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "timestamp": pa.int64(),
    "action": _TEXT,
    "duration_ms": pa.int64(),
    "device": _TEXT,
    "locale": _TEXT,
    "profile": _TEXT,
    "surface": _TEXT,
    "completion": pa.float64(),
  }
)
_TRUTH = pa.schema(
  {
    "user_id": pa.int64(),
    "timestamp": pa.int64(),
    **dict.fromkeys(LOG_P, pa.float64()),
    "rank": pa.int32(),
    "top10": pa.list_(pa.int32(), TOP),
  }
)

"""What candidates look like as time goes on: their age and recent counts.

A prediction on day D may use what happened strictly before it, and candidates'
features are of the start of D, so they are a function of (item, day). A launch
that is not declared is "first seen in the log": unknown until that event is
over. Were it known a moment earlier, the first event of every item would have
age 0 by construction, and the age would give the target away.
"""

import dataclasses

import numpy as np

from fmjax.data.catalog import NEVER_US, Catalog
from fmjax.data.schema import DataError

WINDOWS_DAYS = (1, 3, 7, 30)
NOT_SEEN = -1  # the age of an item that is not out yet, as far as is known

_SECOND_US = 1_000_000
_DAY_S = 86_400
_DAY_US = _DAY_S * _SECOND_US
_MOST_BYTES = 2**31
_INT32 = (-(2**31), 2**31 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dated:
  """Features of every candidate at the start of every day.

  Rows are days of the log, from its first to the one after its last.

  Attributes:
    first_day: of row 0, days since 1970 UTC.
    age_dv: int32 [days, v], whole days since the launch; `NOT_SEEN` if that
      lies ahead or is not known yet, and for catalog row 0.
    count_fdv: int32 [f, days, v], the item's target tokens in the last
      `WINDOWS_DAYS[f]` days; f = 0 if they are not asked for.
  """

  first_day: int
  age_dv: np.ndarray
  count_fdv: np.ndarray


def dated(catalog: Catalog, *, counts: bool = True) -> Dated:
  """The tables of a catalog, with or without counts.

  Raises:
    DataError: they would take more than 2 GiB.
  """
  daily, items = catalog.daily, len(catalog)
  windows = WINDOWS_DAYS if counts else ()
  first = first_day(catalog)
  days = int(daily.day.max()) - first + 2
  size = days * items * 4 * (1 + len(windows))
  if size > _MOST_BYTES:
    what, remedy = "ages", "model.items.age = NoAge() and a mixer but AgeGate()"
    if counts:
      what, remedy = "ages and counts", "model.items.dynamics = NoDynamics()"
    raise DataError(
      f"{what} of {items} items on {days} days take {size} bytes, more than"
      f" {_MOST_BYTES}; set {remedy}, or prepare a shorter log"
    )
  day_d1 = np.arange(first, first + days)[:, None]
  age_dv = age_at_start(catalog, day_d1, np.arange(items))

  # Row r of the running total holds what happened before the start of day r.
  total_dv = np.zeros((days if windows else 0, items), np.int32)
  if windows:
    total_dv[daily.day - first + 1, daily.item] = daily.events
  np.cumsum(total_dv, axis=0, out=total_dv)
  count_fdv = np.empty((len(windows), *age_dv.shape), np.int32)
  for f, window in enumerate(windows):
    since_d = np.maximum(np.arange(days) - window, 0)
    np.subtract(total_dv, total_dv[since_d], out=count_fdv[f])
  return Dated(first_day=first, age_dv=age_dv, count_fdv=count_fdv)


def first_day(catalog: Catalog) -> int:
  """Day of the first event of the log, days since 1970 UTC."""
  first_us = catalog.first_seen_us_v[1:].min(initial=NEVER_US)
  return min(int(first_us // _DAY_US), int(catalog.daily.day[0]))


def age_at_start(
  catalog: Catalog, day: np.ndarray, item: np.ndarray
) -> np.ndarray:
  """Age of items at the start of days, int32, as in `Dated`.

  Args:
    catalog: the items.
    day: days since 1970 UTC, of a shape that broadcasts with `item`.
    item: catalog rows.
  """
  # Days fit in an int32, `NEVER_US` included; half the memory of an int64.
  day = np.asarray(day, np.int32)
  launch_day = (catalog.launch_us_v // _DAY_US).astype(np.int32)[item]
  seen_day = (catalog.first_seen_us_v // _DAY_US).astype(np.int32)[item]
  unknown = ~catalog.launch_declared_v[item] & (seen_day >= day)
  # A title that is announced is no new one: nobody can choose it yet.
  age = np.maximum(day - launch_day, NOT_SEEN)
  age[unknown | (item == 0)] = NOT_SEEN
  return age


def launch_seconds(catalog: Catalog) -> np.ndarray:
  """Launch of each item, int32 [v]: seconds since 1970, within 1901 to 2038.

  Never is 2038. The difference of two such times need not fit in an int32 (a
  film of 1930 seen in 2013): subtract days and seconds of the day apart.
  """
  seconds_v = catalog.launch_us_v // _SECOND_US
  return seconds_v.clip(*_INT32).astype(np.int32)

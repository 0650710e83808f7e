"""The best that a model without users can do: items, their age and the hour.

The rate of target tokens of item v on day D at hour h is taken to be

  popularity_v · aging(age of v at the start of D) · hours(group of v, h)

where groups are the values of the first categorical or bag field of the
metadata; an item with several has their mean. Popularity and aging are fitted
in turn, as Poisson rates: counts over exposure, an item being exposed in every
age that it went through. A count of few is drawn to what is expected, with the
strength of one token: an item to the rate of its groups, these to the rate of
all items. So a title nobody has met has the popularity of its groups and the
aging of a new one. All is counted in training tokens; nothing is tuned. In the
names of arrays, h are the hours of the day and i the groups.
"""

import dataclasses

import numpy as np

from fmjax.data.catalog import Catalog
from fmjax.data.dynamic import NOT_SEEN, age_at_start, first_day
from fmjax.data.schema import Kind
from fmjax.data.store import Prepared
from fmjax.eval.groups import Groups, first_field, groups_of
from fmjax.eval.timeline import Timeline

_SECONDS_PER_DAY = 86_400
_SECONDS_PER_HOUR = 3_600
_HOURS = 24
_DAY_US = 86_400_000_000
# Ages, two a doubling. Bucket 0 is before a declared launch, 1 is not seen yet.
_EDGES_DAYS = (
  *(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
  *(192, 256, 384, 512, 768, 1_024),
)
_BUCKETS = 2 + len(_EDGES_DAYS)
_ROUNDS = 20  # of fitting in turn: rates then move by less than 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeHour:
  """Popularity by age and hour, fitted.

  Attributes:
    catalog: the items.
    popularity_v: tokens a day of unit aging; 0 for row 0.
    aging_g: by age bucket.
    hours_hv: by hour and item; 1 where the hour tells nothing.
  """

  catalog: Catalog
  popularity_v: np.ndarray
  aging_g: np.ndarray
  hours_hv: np.ndarray

  def probabilities(self, hour: int) -> np.ndarray:
    """Of all catalog rows, at an hour since 1970; 0 for row 0."""
    day, hour_of_day = divmod(hour, _HOURS)
    bucket_v = _bucket(self.catalog, day, np.arange(len(self.catalog)))
    rate_v = self.popularity_v * self.aging_g[bucket_v]
    rate_v *= self.hours_hv[hour_of_day]
    return rate_v / rate_v.sum()


def hour_of(time_s: np.ndarray) -> np.ndarray:
  """Hours since 1970, the key of `AgeHour.probabilities`."""
  return time_s // _SECONDS_PER_HOUR


def fit(prepared: Prepared, log: Timeline) -> AgeHour:
  """Counts the training targets of a log with real times."""
  catalog = prepared.catalog
  rows = np.arange(len(catalog))
  train = log.counted & (log.place < prepared.index.train_end[log.user])
  item_n = log.item[train]
  day_n = log.time_s[train] // _SECONDS_PER_DAY

  exposure_vg = np.zeros((len(catalog), _BUCKETS))
  for day in range(first_day(catalog), int(day_n.max(initial=0)) + 1):
    exposure_vg[rows, _bucket(catalog, day, rows)] += 1
  exposure_vg[0] = 0
  # Nobody could choose what is held out.
  exposure_vg[prepared.held_out_v] = 0
  count_vg = _table(item_n, _bucket(catalog, day_n, item_n), exposure_vg.shape)

  groups = groups_of(
    catalog, first_field(prepared.spec, (Kind.CATEGORICAL, Kind.BAG))
  )
  popularity_v, aging_g = _in_turn(count_vg, exposure_vg, groups)
  hour_n = hour_of(log.time_s[train]) % _HOURS
  count_hv = _table(hour_n, item_n, (_HOURS, len(catalog)))
  return AgeHour(
    catalog=catalog,
    popularity_v=popularity_v,
    aging_g=aging_g,
    hours_hv=groups.mean(
      _hours(np.stack([groups.mass(count_v) for count_v in count_hv]))
    ),
  )


def _bucket(
  catalog: Catalog, day: int | np.ndarray, item: np.ndarray
) -> np.ndarray:
  """Age bucket at the start of days."""
  age = age_at_start(catalog, np.asarray(day), item)
  bucket = 1 + np.searchsorted(_EDGES_DAYS, age, side="right")
  declared = catalog.launch_declared_v[item]
  ahead = declared & (catalog.launch_us_v[item] // _DAY_US > day)
  return np.where(ahead, 0, np.where(age == NOT_SEEN, 1, bucket))


def _table(
  row_n: np.ndarray, column_n: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  """How many n there are in each cell."""
  rows, columns = shape
  cell_n = row_n.astype(np.int64) * columns + column_n
  return np.bincount(cell_n, minlength=rows * columns).reshape(shape)


def _in_turn(
  count_vg: np.ndarray, exposure_vg: np.ndarray, groups: Groups
) -> tuple[np.ndarray, np.ndarray]:
  """Popularity and aging, each by what the other leaves to explain.

  Args:
    count_vg: target tokens of an item in an age bucket.
    exposure_vg: days that the item spent there.
    groups: of the items.
  """
  count_v, count_g = count_vg.sum(axis=1), count_vg.sum(axis=0)
  count_i = groups.mass(count_v)
  aging_g = np.ones(count_vg.shape[1])
  popularity_v = np.zeros(len(count_v))
  for _ in range(_ROUNDS):
    expected_v = exposure_vg @ aging_g
    overall = (count_v.sum() + 1) / expected_v.sum()
    expected_i = groups.mass(expected_v)
    of_group_i = (count_i + 1) / (expected_i + 1 / overall)
    (of_group_v,) = groups.mean(of_group_i[None])
    popularity_v[1:] = (count_v[1:] + 1) / (expected_v[1:] + 1 / of_group_v[1:])
    expected_g = popularity_v @ exposure_vg
    # An age that nobody has been in yet is like the one before it.
    met_g = np.flatnonzero(expected_g > 0)
    nearest_g = np.maximum(
      np.searchsorted(met_g, range(len(aging_g)), "right"), 1
    )
    rate_g = (count_g[met_g] + 0.5) / expected_g[met_g]
    aging_g = rate_g[nearest_g - 1]
  return popularity_v, aging_g


def _hours(count_hi: np.ndarray) -> np.ndarray:
  """How much more likely a group is at an hour than on the whole.

  Drawn to 1 with the strength of a token an hour.
  """
  share_h1 = count_hi.sum(axis=1, keepdims=True) + 1.0
  share_h1 /= share_h1.sum()
  drawn_hi = count_hi + _HOURS * share_h1
  return drawn_hi / drawn_hi.sum(axis=0) / share_h1

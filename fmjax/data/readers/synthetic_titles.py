"""The titles of the synthetic service, and how each draws viewers on a day.

A title v has a weight on each day and surface f,

  W[f, v] = exp(quality_v · (1 - exp(-age_v / 14)) + κ_f · exp(-age_v / 7))
            / size of its series,

with age_v in whole days since launch; 0 before launch. While a title is new,
its series and its age tell all about it; once it is old, only its id does. The
size is the sum of the ageless weights of all its titles on the first surface:
large series are chosen no more than small ones.

The ageless weight replaces W by its mean over the days that the log can show:
`days` days from the launch, or from the first day of the log where that is
later. It keeps who had launched, and forgets when.
"""

import dataclasses
import functools

import numpy as np

from fmjax.config import Synthetic

LANGUAGES = ("en", "es", "hi", "ja", "fr", "ko")
LOCALES = (
  "US",
  "MX",
  "IN",
  "JP",
  "FR",
)  # each speaks the language at its place
DEVICES = ("phone", "tablet", "tv", "laptop")
SURFACES = ("home", "continue", "new", "search")
GENRES = 20
FRESHNESS_F = np.array((4.0, 2.0, 6.0, 1.0))  # κ of each surface

_SERIES_PER_ROOT = 0.45  # series = this · √titles: 32 of 5,000 titles
_NEW = 0.35  # share of the titles that launch while the log runs
_BACK_CATALOG_DAYS = 500  # mean age of the others when it begins
_OLDEST_DAYS = 3_000
_KNOWN_DAYS = 14  # a title's quality shows with age
_FRESH_DAYS = 7
_MINUTES = (12, 25, 50, 100)
_MEDIAN_MINUTES = 35
_LONGER_BY_DEVICE = np.array((-0.4, -0.1, 0.4, 0.1))  # per e-fold of minutes
_HOME_LANGUAGE = 0.7
_HOUR_STRENGTH = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Titles:
  """What is drawn once from the seed; everything else follows from it.

  Title v is episode v // series of series v % series: arrays [s, k] hold it at
  [v % series, v // series].

  Attributes:
    genres_sg: bool [s, genre], one to three a series.
    language_s: place in `LANGUAGES`.
    minutes_s: of the series' format.
    appeal_s: sums to 1.
    peak_g: hour of the day at which a genre is liked most.
    exists_sk: bool; the last series may have one title less.
    minutes_sk: the format's, within a few percent.
    launch_sk: day of the log on which a title is there from the start; below 0
      of the back catalog.
    quality_sk: about standard normal.
    days: of the log.
  """

  genres_sg: np.ndarray
  language_s: np.ndarray
  minutes_s: np.ndarray
  appeal_s: np.ndarray
  peak_g: np.ndarray
  exists_sk: np.ndarray
  minutes_sk: np.ndarray
  launch_sk: np.ndarray
  quality_sk: np.ndarray
  days: int

  @property
  def series(self) -> int:
    return len(self.language_s)

  def number(self, s: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Of the titles at [s, k]."""
    return k * self.series + s


def draw(source: Synthetic) -> Titles:
  rng = np.random.default_rng([source.seed, 0])
  series = max(1, round(_SERIES_PER_ROOT * source.items**0.5))
  episodes = -(-source.items // series)
  order_sg = rng.random((series, GENRES)).argsort(axis=1)
  genres_sg = order_sg < rng.integers(1, 4, (series, 1))
  minutes_s = rng.choice(_MINUTES, series) * rng.lognormal(0.0, 0.1, series)
  appeal_s = np.exp(0.5 * rng.standard_normal(series))
  shape = (series, episodes)
  back = -1 - np.floor(rng.exponential(_BACK_CATALOG_DAYS, shape))
  new = rng.integers(0, source.days, shape)
  is_new = rng.random(shape) < _NEW
  is_new[:, 0] = False  # a series always has something to offer
  launch_sk = np.where(is_new, new, back.clip(-_OLDEST_DAYS)).astype(np.int64)
  return Titles(
    genres_sg=genres_sg,
    language_s=rng.integers(0, len(LANGUAGES), series),
    minutes_s=minutes_s,
    appeal_s=appeal_s / appeal_s.sum(),
    peak_g=rng.uniform(0.0, 24.0, GENRES),
    exists_sk=source.items
    > np.arange(series * episodes).reshape(episodes, series).T,
    minutes_sk=minutes_s[:, None] * rng.lognormal(0.0, 0.05, shape),
    launch_sk=launch_sk,
    quality_sk=rng.standard_normal(shape),
    days=source.days,
  )


class Attraction:
  """What draws to a series, whoever asks.

  Attributes:
    appeal_s: sums to 1.
    hour_hs: exp(mean over the genres of cos(2π (hour - peak) / 24)).
    locale_ls: e^0.7 where the locale speaks the series' language, else 1.
    device_ds: (minutes / 35) to the power of the device.
  """

  def __init__(self, titles: Titles):
    self.appeal_s = titles.appeal_s
    hour = np.arange(24)[:, None]
    wave_hg = np.cos(2 * np.pi * (hour - titles.peak_g) / 24)
    share_sg = titles.genres_sg / titles.genres_sg.sum(axis=1, keepdims=True)
    self.hour_hs = np.exp(_HOUR_STRENGTH * (wave_hg @ share_sg.T))
    spoken = np.arange(len(LOCALES))[:, None] == titles.language_s
    self.locale_ls = np.exp(_HOME_LANGUAGE * spoken)
    length_s = np.log(titles.minutes_s / _MEDIAN_MINUTES)
    self.device_ds = np.exp(_LONGER_BY_DEVICE[:, None] * length_s)

  def newcomers(self, locale: np.ndarray) -> np.ndarray:
    """Of each request n, [n, s]: appeal · locale, divided by its sum."""
    product_ns = self.appeal_s * self.locale_ls[locale]
    return product_ns / product_ns.sum(axis=1, keepdims=True)

  def moment(self, hour: np.ndarray, device: np.ndarray) -> np.ndarray:
    """Of each request n, [n, s]: hour · device."""
    return self.hour_hs[hour] * self.device_ds[device]


class Day:
  """The catalog on one day of the log; arrays [f, s, k] and [f, s].

  Attributes:
    day: of the log.
    weight_fsk: W; 0 where there is no title, or not yet.
    total_fs: its sum over a series.
    ageless_fsk: the ageless weight, likewise.
    ageless_total_fs: its sum.
  """

  def __init__(self, titles: Titles, ageless_fsk: np.ndarray, day: int):
    size_s = ageless_fsk[0].sum(axis=1)
    here_sk = (titles.launch_sk <= day) / size_s[:, None]
    self.day = day
    self.weight_fsk = here_sk * titles.exists_sk * weights(titles, day)
    self.total_fs = self.weight_fsk.sum(axis=2)
    self.ageless_fsk = here_sk * ageless_fsk
    self.ageless_total_fs = self.ageless_fsk.sum(axis=2)

  @functools.cached_property
  def order_fsk(self) -> np.ndarray:
    """Places of a series' titles, heaviest first."""
    return np.argsort(-self.weight_fsk, axis=2, kind="stable")

  @functools.cached_property
  def falling_fsk(self) -> np.ndarray:
    """W in that order."""
    return np.take_along_axis(self.weight_fsk, self.order_fsk, axis=2)

  def at_least(self, surface: np.ndarray, least_ns: np.ndarray) -> np.ndarray:
    """How many titles of each series weigh `least_ns` > 0 or more; int64."""
    episodes = self.falling_fsk.shape[2]
    flat = self.falling_fsk.reshape(-1)
    series = np.arange(least_ns.shape[1])
    first_ns = (surface[:, None] * len(series) + series) * episodes
    # Bisection, all series of all requests at once: titles before `count_ns`
    # weigh enough, titles from `count_ns + step` on do not.
    count_ns = np.zeros(least_ns.shape, np.int64)
    step = 1 << (episodes.bit_length() - 1)
    while step:
      beyond_ns = count_ns + step
      inside_ns = np.minimum(beyond_ns, episodes) - 1
      enough_ns = (beyond_ns <= episodes) & (
        flat[first_ns + inside_ns] >= least_ns
      )
      count_ns += step * enough_ns
      step >>= 1
    return count_ns


def weights(titles: Titles, day: int | np.ndarray) -> np.ndarray:
  """exp(…) of W [f, s, k] at a day, or at a day of each title [s, k]."""
  age_sk = np.maximum(day - titles.launch_sk, 0)
  known_sk = titles.quality_sk * -np.expm1(-age_sk / _KNOWN_DAYS)
  fresh_sk = np.exp(-age_sk / _FRESH_DAYS)
  return np.exp(known_sk + FRESHNESS_F[:, None, None] * fresh_sk)


def ageless(titles: Titles) -> np.ndarray:
  """The mean of `weights` over `days` days of each title that exists."""
  first_sk = np.maximum(titles.launch_sk, 0)
  total_fsk = weights(titles, first_sk)
  for day in range(1, titles.days):
    total_fsk += weights(titles, first_sk + day)
  return titles.exists_sk * total_fsk / titles.days

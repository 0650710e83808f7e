"""Globo: news clicks of G1, Brazil, October 2017.

Articles are codes without metadata, so an article's first click stands for its
launch. The published `session_size` is left out: how many clicks a session has
is known only after it. Gaps between clicks cluster at exactly 30 s, because the
publisher imputed them, so no dwell time is derived.
"""

import pathlib

import ibis

from fmjax.config import Globo
from fmjax.data.log import Log
from fmjax.data.readers import plain, raw
from fmjax.data.schema import Feature, Kind, Schema, When

PUBLISHER = (
  "https://www.kaggle.com/datasets/gspmoreira/"
  "news-portal-user-interactions-by-globocom"
)

_FEATURES = {
  "environment": "click_environment",
  "device_group": "click_deviceGroup",
  "os": "click_os",
  "country": "click_country",
  "region": "click_region",
  "referrer": "click_referrer_type",
}

SCHEMA = Schema(
  source="globo",
  features=tuple(
    Feature(name=name, kind=Kind.CATEGORICAL, when=When.REQUEST)
    for name in _FEATURES
  ),
  # 1.3 % of the clicks are on an article that the user had clicked before: news
  # is read once.
  repeats=False,
)

_COLUMNS = (
  "user_id",
  "click_article_id",
  "click_timestamp",
  *_FEATURES.values(),
)


def files(source: Globo) -> tuple[pathlib.Path, ...]:
  """What is read."""
  located, names = _locate(source)
  return located.paths(names)


def _locate(source: Globo) -> tuple[raw.RawFiles, list[str]]:
  located = raw.locate(
    source.raw or raw.data_root() / "globo", publisher=PUBLISHER
  )
  # One table, or one file an hour as published.
  for pattern in ("clicks.csv", "clicks_hour_*.csv"):
    if located.given or located.find(pattern):
      return located, located.given_or(pattern, publisher=PUBLISHER)
  return located, located.require(
    "clicks.csv", "clicks_hour_*.csv", publisher=PUBLISHER
  )


def read(source: Globo, connection: ibis.BaseBackend) -> Log:
  located, names = _locate(source)
  paths = [located.open(name, connection) for name in names]
  place = located.place(names[0])
  clicks = plain.read_csv(connection, paths, place=place)
  clicks = plain.require_columns(clicks, _COLUMNS, place=place)
  return Log(
    schema=SCHEMA,
    events=clicks.select(
      row=clicks.row,
      user_id=clicks.user_id,
      item_id=clicks.click_article_id,
      timestamp=clicks.click_timestamp,
      action=ibis.literal("click"),
      duration_ms=ibis.null("int64"),
      **{name: clicks[column] for name, column in _FEATURES.items()},
    ),
    items=None,
    time_unit="ms",
    files=files(source),
    place=place,
  )

"""KuaiRand-Pure: two weeks of a short-video app, every exposure logged.

An event is a video shown. What the user did with it is the action (the
strongest of impression < click < long_view), the feedback given on the way, and
the time played. Exposures without a click stay in the history as context; they
are no targets, so they carry no weight.
"""

import pathlib
from typing import Any

import ibis

from fmjax.config import KuaiRandPure
from fmjax.data import parse
from fmjax.data.log import EVENT_COLUMNS, Log, compute
from fmjax.data.readers import plain, raw
from fmjax.data.schema import Feature, Kind, Schema, When

PUBLISHER = "https://zenodo.org/records/10439422"

USER_FEATURES = (
  "user_active_degree",
  "is_video_author",
  "follow_user_num_range",
  "register_days_range",
)

SCHEMA = Schema(
  source="kuairand-pure",
  features=(
    Feature(name="surface", kind=Kind.CATEGORICAL, when=When.REQUEST),
    Feature(name="hour", kind=Kind.CATEGORICAL, when=When.REQUEST),
    Feature(name="weekday", kind=Kind.CATEGORICAL, when=When.REQUEST),
    *(
      Feature(name=name, kind=Kind.CATEGORICAL, when=When.REQUEST)
      for name in USER_FEATURES
    ),
    Feature(name="feedback", kind=Kind.BAG),
    Feature(name="watch_ratio", kind=Kind.NUMERIC),
    Feature(name="comment_stay_ms", kind=Kind.NUMERIC, log=True),
  ),
  metadata=(
    Feature(name="tag", kind=Kind.BAG),
    Feature(name="author", kind=Kind.CATEGORICAL),
    Feature(name="uploaded", kind=Kind.TIMESTAMP),
    Feature(name="video_duration_ms", kind=Kind.NUMERIC, log=True),
    Feature(name="video_type", kind=Kind.CATEGORICAL),
    Feature(name="upload_type", kind=Kind.CATEGORICAL),
  ),
  target_actions=("click", "long_view"),
  # Of the clicked videos, .5 % had been shown to the user before and .2 % had
  # been clicked: the app avoids repeats, so seen items are filtered.
  repeats=False,
)

COLUMNS = {
  "log_standard": (
    "user_id",
    "video_id",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "comment_stay_time",
    "is_profile_enter",
    "tab",
  ),
  "user_features": ("user_id", *USER_FEATURES),
  "video_features_basic": (
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "video_duration",
    "tag",
  ),
}

_FEEDBACK = {
  "is_like": "like",
  "is_follow": "follow",
  "is_comment": "comment",
  "is_forward": "forward",
  "is_hate": "hate",
  "is_profile_enter": "profile_enter",
}
# A shorter video (some are 0 ms) is played many times over before a person can
# leave, so its ratio says nothing about interest.
_SHORTEST_VIDEO_MS = 1_000
# The tail is a looping video left alone; it would rule the standardization.
_LARGEST_RATIO = 5
_HOUR_MS = 3_600_000
_LOCAL_MS = 8 * _HOUR_MS  # China Standard Time, east of UTC


def files(source: KuaiRandPure) -> tuple[pathlib.Path, ...]:
  """What is read."""
  located = _locate(source)
  return located.paths(
    name for stem in COLUMNS for name in _members(located, stem)
  )


def _locate(source: KuaiRandPure) -> raw.RawFiles:
  return raw.locate(
    source.raw or raw.shipped_root() / "kuairand-pure", publisher=PUBLISHER
  )


def read(source: KuaiRandPure, connection: ibis.BaseBackend) -> Log:
  located = _locate(source)
  published = tables(located, connection)

  def described(stem: str, key: str) -> ibis.Table:
    # Computed here, so that a malformed line is blamed on its own file.
    first = plain.first_of_each(published[stem], key)
    return compute(first, place=located.place(_members(located, stem)[0]))

  users = described("user_features", "user_id")
  return Log(
    schema=SCHEMA,
    events=_events(published["log_standard"], users),
    items=_items(described("video_features_basic", "video_id")),
    time_unit="ms",
    files=files(source),
    place=", ".join(map(located.place, _members(located, "log_standard"))),
    logging=("hourmin",),
  )


def tables(
  located: raw.RawFiles, connection: ibis.BaseBackend
) -> dict[str, ibis.Table]:
  """The published columns as text, from .csv files or the shipped Parquet."""
  return {
    stem: _table(located, connection, stem, columns)
    for stem, columns in COLUMNS.items()
  }


def _members(located: raw.RawFiles, stem: str) -> list[str]:
  patterns = (f"{stem}*_pure.csv", f"{stem}.parquet")
  if stem == "log_standard":
    # The log comes in files by period, whose names sort by date.
    return located.given_or(*patterns, publisher=PUBLISHER)
  return located.require(*patterns, publisher=PUBLISHER)[:1]


def _table(
  located: raw.RawFiles,
  connection: ibis.BaseBackend,
  stem: str,
  columns: tuple[str, ...],
) -> ibis.Table:
  names = _members(located, stem)
  paths = [located.open(name, connection) for name in names]
  if paths[0].suffix == ".parquet":
    table = plain.read_parquet(connection, paths[0], place=names[0])
  else:
    table = plain.read_csv(connection, paths, place=names[0])
  table = plain.require_columns(table, columns, place=names[0])
  return plain.as_text(table)


def _events(log: Any, users: Any) -> ibis.Table:
  played = log.play_time_ms.try_cast("float64")
  length = log.duration_ms.try_cast("float64")
  ratio = (played / length).clip(0, _LARGEST_RATIO)
  # Not the published `hourmin`: it is up to three hours later, and events that
  # were logged twice have two of them, so it is the time of logging, which
  # nobody knows when the video is requested.
  local_ms = log.time_ms.try_cast("int64") + _LOCAL_MS
  hours = local_ms // _HOUR_MS
  feedback = ibis.array(
    [
      (log[flag] == "1").ifelse(name, ibis.null("string"))
      for flag, name in _FEEDBACK.items()
    ]
  )
  events = log.select(
    row=log.row,
    user_id=log.user_id,
    item_id=log.video_id,
    timestamp=log.time_ms,
    action=ibis.cases(
      (log.long_view == "1", "long_view"),
      (log.is_click == "1", "click"),
      else_="impression",
    ),
    duration_ms=log.play_time_ms,
    surface=log.tab,
    hour=(hours % 24).cast("string"),
    # Monday is 0; 1970 began on a Thursday.
    weekday=((hours // 24 + 3) % 7).cast("string"),
    feedback=feedback.filter(lambda name: name.notnull()),
    watch_ratio=(length >= _SHORTEST_VIDEO_MS).ifelse(
      ratio, ibis.null("float64")
    ),
    comment_stay_ms=log.comment_stay_time,
    hourmin=log.hourmin,
  )
  order = [feature.name for feature in SCHEMA.features]
  return plain.with_users(events, users).select(
    *EVENT_COLUMNS, *order, "hourmin"
  )


def _items(videos: Any) -> ibis.Table:
  # A date, in local time; its start, since the hour is not published.
  seconds = videos.upload_dt.try_cast("timestamp").epoch_seconds()
  uploaded = (seconds.cast("int64") * 1_000 - _LOCAL_MS) * 1_000
  return videos.select(
    item_id=videos.video_id,
    title=ibis.null("string"),
    launch_time=uploaded,
    tag=parse.bag(videos.tag, ","),
    author=videos.author_id,
    uploaded=uploaded,
    video_duration_ms=videos.video_duration.try_cast("float64"),
    video_type=videos.video_type,
    upload_type=videos.upload_type,
  )

"""MovieTweetings: film ratings that people posted on Twitter.

`ratings.dat` is user::film::rating::unix time, `movies.dat` is film::title
(year)::genre|genre. Users rate a film as they watch it, so the times are real;
a film's first rating stands for its launch.
"""

import pathlib
from typing import Any

import ibis

from fmjax.config import MovieTweetings
from fmjax.data import parse
from fmjax.data.log import Log
from fmjax.data.readers import plain, raw
from fmjax.data.schema import Feature, Kind, Schema

PUBLISHER = "https://github.com/sidooms/MovieTweetings"

SCHEMA = Schema(
  source="movietweetings",
  features=(Feature(name="rating", kind=Kind.NUMERIC),),
  metadata=(
    Feature(name="genre", kind=Kind.BAG),
    Feature(name="year", kind=Kind.CATEGORICAL),
  ),
  # No user rates a film twice in the log.
  repeats=False,
)

COLUMNS = {
  "ratings": ("user_id", "movie_id", "rating", "rating_timestamp"),
  "movies": ("movie_id", "movie_title", "genres"),
}


def files(source: MovieTweetings) -> tuple[pathlib.Path, ...]:
  """What is read."""
  located = _locate(source)
  return located.paths(_member(located, stem) for stem in COLUMNS)


def _locate(source: MovieTweetings) -> raw.RawFiles:
  return raw.locate(
    source.raw or raw.shipped_root() / "movietweetings", publisher=PUBLISHER
  )


def read(source: MovieTweetings, connection: ibis.BaseBackend) -> Log:
  located = _locate(source)
  published = tables(located, connection)
  return Log(
    schema=SCHEMA,
    events=rating_events(published["ratings"]),
    items=title_items(published["movies"], title="movie_title"),
    time_unit="s",
    files=files(source),
    place=located.place(_member(located, "ratings")),
  )


def tables(
  located: raw.RawFiles, connection: ibis.BaseBackend
) -> dict[str, ibis.Table]:
  """The published columns as text, from .dat files or the shipped Parquet."""
  return {
    stem: _table(located, connection, stem, columns)
    for stem, columns in COLUMNS.items()
  }


def _member(located: raw.RawFiles, stem: str) -> str:
  patterns = (f"{stem}.dat", f"{stem}.parquet")
  if stem == "ratings":
    return located.one(*patterns, publisher=PUBLISHER)
  return located.require(*patterns, publisher=PUBLISHER)[0]


def _table(
  located: raw.RawFiles,
  connection: ibis.BaseBackend,
  stem: str,
  columns: tuple[str, ...],
) -> ibis.Table:
  name = _member(located, stem)
  path = located.open(name, connection)
  if path.suffix == ".parquet":
    table = plain.read_parquet(connection, path, place=name)
    table = plain.require_columns(table, columns, place=name)
    return plain.as_text(table)
  lines = plain.read_lines(connection, path)
  return plain.split_lines(
    lines, separator="::", columns=columns, place=located.place(name)
  )


def rating_events(ratings: Any) -> ibis.Table:
  """Events of a table with `user_id`, `movie_id`, `rating` and its time."""
  return ratings.select(
    row=ratings.row,
    user_id=ratings.user_id,
    item_id=ratings.movie_id,
    timestamp=ratings.rating_timestamp,
    action=ibis.literal("rate"),
    duration_ms=ibis.null("int64"),
    rating=ratings.rating,
  )


def title_items(movies: Any, *, title: str) -> ibis.Table:
  """Items of a table with `movie_id`, a title "Name (1999)" and `genres`."""
  movies = plain.first_of_each(movies, "movie_id")
  year = movies[title].re_extract(r"\((\d{4})[^)]*\)\s*$", 1).nullif("")
  return movies.select(
    item_id=movies.movie_id,
    title=movies[title],
    launch_time=ibis.null("int64"),
    genre=parse.bag(movies.genres, "|"),
    year=year,
  )

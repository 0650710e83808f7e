"""MovieLens: film ratings, in each of the forms GroupLens publishes.

100K has tab-separated u.data, u.item and u.user; 1M and 10M have `::` between
the fields of .dat files; 20M, 25M and latest are CSV with a header. People rate
films in long sittings, and many ratings share a second: the order of the file
breaks the ties. Also the file that SASRec was evaluated on, which has the order
alone.
"""

from typing import Any

import ibis

from fmjax.config import MovieLens, MovieLensSasrec
from fmjax.data.log import Log
from fmjax.data.readers import plain, raw
from fmjax.data.readers.movietweetings import title_items
from fmjax.data.schema import Feature, Kind, Schema, When

PUBLISHER = "https://grouplens.org/datasets/movielens/"
SASREC_PUBLISHER = "https://github.com/pmixer/SASRec.pytorch (ml-1m.txt)"

_RATING = Feature(name="rating", kind=Kind.NUMERIC)
_USER_FEATURES = tuple(
  Feature(name=name, kind=Kind.CATEGORICAL, when=When.REQUEST)
  for name in ("gender", "age", "occupation")
)
_METADATA = (
  Feature(name="genre", kind=Kind.BAG),
  Feature(name="year", kind=Kind.CATEGORICAL),
)

_RATINGS = ("user_id", "movie_id", "rating", "rating_timestamp")
# The second is a part of 1M that is cut by user.
_RATINGS_DAT = ("ratings.dat", "ratings_users_*.dat")
_USERS = ("user_id", "gender", "age", "occupation")

# The order of the flags in u.item.
_GENRES_100K = (
  "unknown",
  "Action",
  "Adventure",
  "Animation",
  "Children's",
  "Comedy",
  "Crime",
  "Documentary",
  "Drama",
  "Fantasy",
  "Film-Noir",
  "Horror",
  "Musical",
  "Mystery",
  "Romance",
  "Sci-Fi",
  "Thriller",
  "War",
  "Western",
)
# 1M publishes the lower end of each range, 100K years; ranges generalize.
_AGES = (56, 50, 45, 35, 25, 18)
_YOUNGEST = "1"

_Tables = tuple[Any, Any, Any]  # ratings, movies, and users or None

# Artificial: one second a line, so that time keeps the order of the file.
_SASREC_START_S = 946_684_800  # 2000-01-01


def read(source: MovieLens, connection: ibis.BaseBackend) -> Log:
  files = raw.locate(
    source.raw or raw.data_root() / "movielens-1m",
    connection,
    publisher=PUBLISHER,
  )
  ratings_name = files.require(
    "u.data", *_RATINGS_DAT, "ratings.csv", publisher=PUBLISHER
  )[0]
  if files.find("u.data"):
    ratings, movies, users = _tables_100k(files, connection)
  elif files.find(*_RATINGS_DAT):
    ratings, movies, users = _tables_dat(files, connection)
  else:
    ratings, movies, users = _tables_csv(files, connection)
  events = ratings.select(
    row=ratings.row,
    user_id=ratings.user_id,
    item_id=ratings.movie_id,
    timestamp=ratings.rating_timestamp,
    action=ibis.literal("rate"),
    duration_ms=ibis.null("int64"),
    rating=ratings.rating,
  )
  features = (_RATING,)
  if users is not None:
    features = (_RATING, *_USER_FEATURES)
    users: Any = plain.first_of_each(users, "user_id").drop("row")
    users = users.rename(_user="user_id")
    joined = events.left_join(users, events.user_id == users._user)
    events = joined.drop("_user")
  return Log(
    schema=Schema(
      source="movielens",
      features=features,
      metadata=_METADATA,
      # A user rates a film once.
      repeats=False,
    ),
    events=events,
    items=title_items(movies, title="title"),
    time_unit="s",
    files=tuple(files.used),
    place=files.place(ratings_name),
  )


def read_sasrec(source: MovieLensSasrec, connection: ibis.BaseBackend) -> Log:
  """`user item` a line; the order of the lines is the order of time."""
  files = raw.locate(
    source.raw or raw.data_root() / "movielens-1m",
    connection,
    publisher=SASREC_PUBLISHER,
  )
  name = files.given_or(
    "ml-1m_sasrec.txt", "ml-1m.txt", publisher=SASREC_PUBLISHER
  )[0]
  lines = plain.read_lines(connection, files.open(name))
  pairs: Any = plain.split_lines(
    lines, separator=" ", columns=("user_id", "item_id")
  )
  return Log(
    schema=Schema(source="movielens-sasrec", timed=False, repeats=False),
    events=pairs.select(
      row=pairs.row,
      user_id=pairs.user_id,
      item_id=pairs.item_id,
      timestamp=_SASREC_START_S + pairs.row,
      action=ibis.literal("rate"),
      duration_ms=ibis.null("int64"),
    ),
    items=None,
    time_unit="s",
    files=tuple(files.used),
    place=files.place(name),
  )


def _tables_100k(files: raw.RawFiles, connection: ibis.BaseBackend) -> _Tables:
  ratings = _split(files, connection, ("u.data",), "\t", _RATINGS)
  flags = tuple(f"genre_{place}" for place in range(len(_GENRES_100K)))
  columns = ("movie_id", "title", "released", "video", "url", *flags)
  movies = _split(
    files, connection, ("u.item",), "|", columns, encoding="latin-1"
  )
  names = ibis.array(
    [
      (movies[flag] == "1").ifelse(name, ibis.null("string"))
      for flag, name in zip(flags, _GENRES_100K, strict=True)
    ]
  )
  names = names.filter(lambda name: name.notnull())
  movies = movies.select("row", "movie_id", "title", genres=names.join("|"))
  if not files.find("u.user"):
    return ratings, movies, None
  order = ("user_id", "age", "gender", "occupation")
  users = _split(files, connection, ("u.user",), "|", order)
  years = users.age.try_cast("int64")
  ranges = [(years >= start, str(start)) for start in _AGES]
  users = users.mutate(age=ibis.cases(*ranges, else_=_YOUNGEST))
  return ratings, movies, users.select("row", *_USERS)


def _tables_dat(files: raw.RawFiles, connection: ibis.BaseBackend) -> _Tables:
  ratings = _split(files, connection, _RATINGS_DAT, "::", _RATINGS)
  columns = ("movie_id", "title", "genres")
  # 10M, which alone has tags, turned from Latin-1 to UTF-8.
  encoding = "utf-8" if files.find("tags.dat") else "latin-1"
  movies = _split(
    files, connection, ("movies.dat",), "::", columns, encoding=encoding
  )
  if not files.find("users.dat"):  # 10M publishes none
    return ratings, movies, None
  users = _split(files, connection, ("users.dat",), "::", _USERS)
  return ratings, movies, users


def _tables_csv(files: raw.RawFiles, connection: ibis.BaseBackend) -> _Tables:
  ratings = _csv(
    files,
    connection,
    "ratings.csv",
    ("userId", "movieId", "rating", "timestamp"),
  )
  movies = _csv(files, connection, "movies.csv", ("movieId", "title", "genres"))
  return (
    ratings.rename(
      user_id="userId", movie_id="movieId", rating_timestamp="timestamp"
    ),
    movies.select(
      row=movies.row,
      movie_id=movies.movieId,
      title=movies.title,
      genres=movies.genres.nullif("(no genres listed)"),
    ),
    None,
  )


def _split(
  files: raw.RawFiles,
  connection: ibis.BaseBackend,
  patterns: tuple[str, ...],
  separator: str,
  columns: tuple[str, ...],
  *,
  encoding: str = "utf-8",
) -> Any:
  found = files.require(*patterns, publisher=PUBLISHER)[0]
  path = files.open(found, encoding=encoding)
  lines = plain.read_lines(connection, path)
  return plain.split_lines(lines, separator=separator, columns=columns)


def _csv(
  files: raw.RawFiles,
  connection: ibis.BaseBackend,
  name: str,
  columns: tuple[str, ...],
) -> Any:
  found = files.require(name, publisher=PUBLISHER)[0]
  table = plain.read_csv(connection, [files.open(found)], place=found)
  return plain.require_columns(table, columns, place=found)

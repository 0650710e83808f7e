"""MovieLens: film ratings, in each of the forms GroupLens publishes.

100K has tab-separated u.data, u.item and u.user; 1M and 10M have `::` between
the fields of .dat files; 20M, 25M and latest are CSV with a header. People rate
films in long sittings, and many ratings share a second: the order of the file
breaks the ties. Also the file that SASRec was evaluated on, which has the order
alone, and films by numbers of its own.
"""

import pathlib
from typing import Any

import ibis

from fmjax.config import MovieLens, MovieLensSasrec
from fmjax.data.log import Log, compute
from fmjax.data.readers import plain, raw
from fmjax.data.readers.movietweetings import rating_events, title_items
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

# By the name of the ratings and the number of movies, which tell the edition.
_PUBLISHED_EVENTS = {
  ("u.data", 1_682): 100_000,
  ("ratings.dat", 3_883): 1_000_209,
  ("ratings_users_1_2999.dat", 3_883): 487_650,
  ("ratings.dat", 10_681): 10_000_054,
  ("ratings.csv", 27_278): 20_000_263,
  ("ratings.csv", 62_423): 25_000_095,
}
_SASREC_NAMES = ("ml-1m_sasrec.txt", "ml-1m.txt")
_SASREC_EVENTS = 999_611
# `SASRec's number, MovieLens' number` a line; beside movies.dat it gives films
# their genres and years.
_SASREC_FILMS = ("sas_to_original_items.txt", "movies.dat")

_Tables = tuple[Any, Any, Any]  # ratings, movies, and users or None

# Artificial: one second a line, so that time keeps the order of the file.
_SASREC_START_S = 946_684_800  # 2000-01-01


def files(source: MovieLens) -> tuple[pathlib.Path, ...]:
  """What is read."""
  located, ratings = _locate(source)
  others = {
    "u.data": ("u.item", "u.user"),
    ".dat": ("movies.dat", "users.dat"),
    ".csv": ("movies.csv",),
  }[_form(ratings)]
  return located.paths([ratings, *located.find(*others)])


def _locate(source: MovieLens) -> tuple[raw.RawFiles, str]:
  located = raw.locate(
    source.raw or raw.data_root() / "movielens-1m", publisher=PUBLISHER
  )
  ratings = located.one(
    "u.data", *_RATINGS_DAT, "ratings.csv", publisher=PUBLISHER
  )
  return located, ratings


def _form(ratings: str) -> str:
  for form in (".dat", ".csv"):
    if raw.plain_name(ratings).endswith(form):
      return form
  return "u.data"


def read(source: MovieLens, connection: ibis.BaseBackend) -> Log:
  located, name = _locate(source)
  tables = {"u.data": _tables_100k, ".dat": _tables_dat, ".csv": _tables_csv}
  ratings, movies, users = tables[_form(name)](located, name, connection)
  edition = (raw.plain_name(name), movies.count().to_pyarrow().as_py())
  events = rating_events(ratings)
  features = (_RATING,)
  if users is not None:
    features = (_RATING, *_USER_FEATURES)
    users = plain.first_of_each(users, "user_id")
    events = plain.with_users(events, users)
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
    files=files(source),
    place=located.place(name),
    published_events=_PUBLISHED_EVENTS.get(edition, 0),
  )


def sasrec_files(source: MovieLensSasrec) -> tuple[pathlib.Path, ...]:
  """What is read."""
  located, name = _locate_sasrec(source)
  described = _describes_sasrec(located)
  films = located.find(*_SASREC_FILMS) if described else []
  return located.paths([name, *films])


def _describes_sasrec(located: raw.RawFiles) -> bool:
  return all(located.find(name) for name in _SASREC_FILMS)


def _locate_sasrec(source: MovieLensSasrec) -> tuple[raw.RawFiles, str]:
  located = raw.locate(
    source.raw or raw.data_root() / "movielens-1m", publisher=SASREC_PUBLISHER
  )
  return located, located.one(*_SASREC_NAMES, publisher=SASREC_PUBLISHER)


def read_sasrec(source: MovieLensSasrec, connection: ibis.BaseBackend) -> Log:
  """`user item` a line; the order of the lines is the order of time."""
  located, name = _locate_sasrec(source)
  lines = plain.read_lines(connection, located.open(name, connection))
  published = raw.plain_name(name) in _SASREC_NAMES
  pairs: Any = plain.split_lines(
    lines,
    separator=" ",
    columns=("user_id", "item_id"),
    place=located.place(name),
  )
  described = _describes_sasrec(located)
  return Log(
    schema=Schema(
      source="movielens-sasrec",
      metadata=_METADATA if described else (),
      timed=False,
      repeats=False,
    ),
    events=pairs.select(
      row=pairs.row,
      user_id=pairs.user_id,
      item_id=pairs.item_id,
      timestamp=_SASREC_START_S + pairs.row,
      action=ibis.literal("rate"),
      duration_ms=ibis.null("int64"),
    ),
    items=_sasrec_items(located, connection) if described else None,
    time_unit="s",
    files=sasrec_files(source),
    place=located.place(name),
    published_events=_SASREC_EVENTS if published else 0,
  )


def _sasrec_items(located: raw.RawFiles, connection: Any) -> Any:
  """The films of SASRec's file, by its numbers."""
  number, described = _SASREC_FILMS
  columns = ("item_id", "original")
  numbers = _split(located, connection, number, " ", columns).drop("row")
  columns = ("movie_id", "title", "genres")
  movies = _split(
    located, connection, described, "::", columns, encoding="latin-1"
  )
  films = movies.inner_join(numbers, movies.movie_id == numbers.original)
  films = films.drop("movie_id", "original").rename(movie_id="item_id")
  return title_items(films, title="title")


def _tables_100k(
  located: raw.RawFiles, ratings_name: str, connection: Any
) -> _Tables:
  ratings = _split(located, connection, ratings_name, "\t", _RATINGS)
  flags = tuple(f"genre_{place}" for place in range(len(_GENRES_100K)))
  columns = ("movie_id", "title", "released", "video", "url", *flags)
  movies = _split(
    located, connection, "u.item", "|", columns, encoding="latin-1"
  )
  names = ibis.array(
    [
      (movies[flag] == "1").ifelse(name, ibis.null("string"))
      for flag, name in zip(flags, _GENRES_100K, strict=True)
    ]
  )
  names = names.filter(lambda name: name.notnull())
  movies = movies.select("row", "movie_id", "title", genres=names.join("|"))
  if not located.find("u.user"):
    return ratings, movies, None
  order = ("user_id", "age", "gender", "occupation", "zip_code")
  users = _split(located, connection, "u.user", "|", order)
  years = users.age.try_cast("int64")
  ranges = [(years >= start, str(start)) for start in _AGES]
  users = users.mutate(age=ibis.cases(*ranges, else_=_YOUNGEST))
  return ratings, movies, users.select("row", *_USERS)


def _tables_dat(
  located: raw.RawFiles, ratings_name: str, connection: Any
) -> _Tables:
  ratings = _split(located, connection, ratings_name, "::", _RATINGS)
  columns = ("movie_id", "title", "genres")
  # 10M, which alone has tags, turned from Latin-1 to UTF-8.
  encoding = "utf-8" if located.find("tags.dat") else "latin-1"
  movies = _split(
    located, connection, "movies.dat", "::", columns, encoding=encoding
  )
  if not located.find("users.dat"):  # 10M publishes none
    return ratings, movies, None
  users = _split(located, connection, "users.dat", "::", (*_USERS, "zip_code"))
  return ratings, movies, users.select("row", *_USERS)


def _tables_csv(
  located: raw.RawFiles, ratings_name: str, connection: Any
) -> _Tables:
  def table(name: str, columns: tuple[str, ...]) -> Any:
    path, place = located.open(name, connection), located.place(name)
    table = plain.read_csv(connection, [path], place=place)
    return plain.require_columns(table, columns, place=place)

  ratings = table(ratings_name, ("userId", "movieId", "rating", "timestamp"))
  name = located.require("movies.csv", publisher=PUBLISHER)[0]
  # Computed here, so that a malformed line is blamed on its own file.
  movies: Any = compute(
    table(name, ("movieId", "title", "genres")), place=located.place(name)
  )
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
  located: raw.RawFiles,
  connection: Any,
  name: str,
  separator: str,
  columns: tuple[str, ...],
  *,
  encoding: str = "utf-8",
) -> Any:
  """The fields of a file's lines; `name` is a member, or how it is called."""
  if name not in located.names:
    name = located.require(name, publisher=PUBLISHER)[0]
  path = located.open(name, connection, encoding=encoding)
  lines = plain.read_lines(connection, path)
  return plain.split_lines(
    lines, separator=separator, columns=columns, place=located.place(name)
  )

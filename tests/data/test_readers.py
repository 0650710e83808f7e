"""Every published form of a log gives the same kind of Log."""

import gzip
import io
import lzma
import os
import pathlib
import tarfile
import zipfile

import ibis
import pytest

from fmjax.config import (
  Globo,
  KuaiRandPure,
  MovieLens,
  MovieLensSasrec,
  MovieTweetings,
)
from fmjax.data.clean import clean
from fmjax.data.readers import (
  globo,
  kuairand,
  movielens,
  movietweetings,
  raw,
)
from fmjax.data.schema import DataError, Kind, When

_2000_US = 946_684_800_000_000


def _connect():
  return ibis.duckdb.connect()


def _write(folder: pathlib.Path, files: dict[str, str | bytes]) -> pathlib.Path:
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
      content = content.encode()
    path.write_bytes(content)
  return folder


def _events(log, max_rejects: float = 0.001):
  cleaned = clean(log, max_rejects=max_rejects)
  return cleaned.events.order_by("row").to_pyarrow().to_pylist()


def _items(log):
  rows = log.items.order_by("item_id").to_pyarrow().to_pylist()
  return {row.pop("item_id"): row for row in rows}


_MOVIETWEETINGS = {
  "ratings.dat": "1::0054890::9::1381945744\n1::0000628::10::1382400295\n",
  "movies.dat": (
    "0054890::The Guns (1961)::Drama|War\n"
    "0000628::Fantômas: À l'ombre (TV) (1913)::\n"
  ),
}


def _packed(folder: pathlib.Path, files: dict[str, str], form: str):
  """The files, as a publisher may pack them."""
  match form:
    case "folder":
      return _write(folder / "log", files)
    case "xz" | "gz":
      squeeze = lzma.compress if form == "xz" else gzip.compress
      packed = {f"{n}.{form}": squeeze(t.encode()) for n, t in files.items()}
      return _write(folder / "log", packed)
    case "file":
      return _write(folder / "log", files) / next(iter(files))
    case "zip":
      path = folder / "log.zip"
      with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
          archive.writestr(f"top/{name}", text)
          archive.writestr(f"__MACOSX/top/{name}", "shadow")
      return path
    case "tar.gz":
      path = folder / "log.tar.gz"
      with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
          member = tarfile.TarInfo(f"top/{name}")
          member.size = len(text.encode())
          archive.addfile(member, io.BytesIO(text.encode()))
      return path
  raise ValueError(form)


@pytest.mark.parametrize(
  "form", ["folder", "xz", "gz", "file", "zip", "tar.gz"]
)
def test_a_log_is_read_however_it_is_packed(tmp_path, form):
  path = _packed(tmp_path, _MOVIETWEETINGS, form)
  log = movietweetings.read(MovieTweetings(raw=str(path)), _connect())
  events = _events(log)
  assert [event["item_id"] for event in events] == ["0054890", "0000628"]
  assert [event["rating"] for event in events] == [9.0, 10.0]
  assert events[0]["timestamp"] == 1_381_945_744_000_000
  assert events[0]["action"] == "rate"
  assert _items(log)["0054890"] == {
    "title": "The Guns (1961)",
    "launch_time": None,
    "genre": ["Drama", "War"],
    "year": "1961",
  }
  assert _items(log)["0000628"]["genre"] == []
  assert _items(log)["0000628"]["year"] == "1913"
  assert log.files
  assert all(file.is_file() for file in log.files)


def test_unpacked_files_live_as_long_as_the_connection(tmp_path):
  path = _packed(tmp_path, _MOVIETWEETINGS, "xz")
  connection = _connect()
  files = raw.locate(path, publisher="nowhere")
  plain = files.open("ratings.dat.xz", connection)
  assert plain.is_file()
  del connection
  assert not plain.parent.exists()


@pytest.mark.parametrize("form", ["xz", "gz", "zip", "tar.gz"])
def test_a_truncated_archive_is_refused(tmp_path, form):
  long = _MOVIETWEETINGS["ratings.dat"] * 2_000
  path = _packed(tmp_path, {**_MOVIETWEETINGS, "ratings.dat": long}, form)
  broken = path / f"ratings.dat.{form}" if path.is_dir() else path
  content = broken.read_bytes()
  broken.write_bytes(content[: len(content) * 2 // 3])
  with pytest.raises(DataError, match="truncated or damaged") as error:
    movietweetings.read(MovieTweetings(raw=str(path)), _connect())
  assert broken.name in str(error.value)
  assert "download it again" in str(error.value)


@pytest.mark.parametrize("form", ["folder", "xz"])
def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path, form):
  movies = b"1::Caf\xe9 (1999)::Drama\n"
  if form == "xz":
    movies = lzma.compress(movies)
  suffix = ".xz" if form == "xz" else ""
  _write(
    tmp_path, {"ratings.dat": "1::2::3::4\n", f"movies.dat{suffix}": movies}
  )
  with pytest.raises(DataError, match="line 1: byte 0xe9 is not UTF-8"):
    movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())


def test_the_line_of_a_bad_byte_is_right_beyond_the_first_block(tmp_path):
  lines = 200_000
  text = b"1::0054890::9::1381945744\n" * lines + b"\xff\n"
  _write(tmp_path, {**_MOVIETWEETINGS, "ratings.dat": text})
  with pytest.raises(DataError, match=f"line {lines + 1}: byte 0xff"):
    movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())


def test_a_missing_file_is_named_with_its_publisher(tmp_path):
  _write(tmp_path, {"ratings.dat": "1::2::3::4\n"})
  with pytest.raises(DataError, match=r"holds no movies\.dat") as error:
    movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())
  assert movietweetings.PUBLISHER in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(DataError, match="nothing does not exist"):
    globo.read(Globo(raw=str(tmp_path / "nothing")), _connect())


def test_an_empty_log_is_refused(tmp_path):
  _write(tmp_path, {**_MOVIETWEETINGS, "ratings.dat": ""})
  log = movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())
  with pytest.raises(DataError, match=r"ratings\.dat holds no events"):
    clean(log)


def test_a_line_with_too_few_fields_is_rejected_not_lost(tmp_path):
  ratings = _MOVIETWEETINGS["ratings.dat"] + "1::005\n\n"
  _write(tmp_path, {**_MOVIETWEETINGS, "ratings.dat": ratings})
  log = movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())
  cleaned = clean(log, max_rejects=0.5)
  assert cleaned.rejected == {"missing timestamp": 1}
  assert cleaned.events_in == 3


# ---- KuaiRand ------------------------------------------------------------

_KUAIRAND = {
  "log_standard_4_25_to_5_08_pure.csv": (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,"
    "is_comment,is_forward,is_hate,long_view,play_time_ms,duration_ms,"
    "profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
    # 2022-04-25 00:30 in China, a Monday; logged an hour late.
    "7,1,20220425,100,1650817800000,0,0,0,0,0,0,0,900,10000,0,0,0,0,1\n"
    "7,2,20220425,100,1650817900000,1,1,0,0,1,0,0,90000,10000,0,70,0,0,1\n"
    "7,3,20220425,100,1650818000000,1,0,0,0,0,0,1,5000,999,0,0,1,0,0\n"
    "7,3,20220425,100,1650818000000,1,0,0,0,0,0,1,5000,999,0,0,1,0,0\n"
    "7,3,20220425,200,1650818000000,1,0,0,0,0,0,1,5000,999,0,0,1,0,0\n"
    "8,1,20220425,100,1650818100000,0,0,0,0,0,0,1,10000,10000,0,0,0,0,4\n"
  ),
  "user_features_pure.csv": (
    "user_id,user_active_degree,is_video_author,follow_user_num_range,"
    'register_days_range\n7,full_active,1,"(10,50]",730+\n'
  ),
  "video_features_basic_pure.csv": (
    "video_id,author_id,video_type,upload_dt,upload_type,video_duration,tag\n"
    '1,50,NORMAL,2022-04-10,Web,10000.0,"39,68"\n'
    "2,51,AD,2022-04-11,Kmovie,,\n"
  ),
}


def _kuairand(folder):
  _write(folder, _KUAIRAND)
  return kuairand.read(KuaiRandPure(raw=str(folder)), _connect())


def test_the_strongest_action_counts(tmp_path):
  actions = [event["action"] for event in _events(_kuairand(tmp_path))]
  assert actions == ["impression", "click", "long_view", "long_view"]
  assert "impression" not in kuairand.SCHEMA.target_actions


def test_the_watch_ratio_is_clipped_and_unknown_for_tiny_videos(tmp_path):
  ratios = [event["watch_ratio"] for event in _events(_kuairand(tmp_path))]
  assert ratios == [0.09, 5.0, None, 1.0]


def test_feedback_user_features_and_surface_are_read(tmp_path):
  events = _events(_kuairand(tmp_path))
  assert events[1]["feedback"] == ["like", "forward"]
  assert events[2]["feedback"] == ["profile_enter"]
  assert events[1]["comment_stay_ms"] == 70.0
  assert events[0]["follow_user_num_range"] == "(10,50]"
  assert events[3]["follow_user_num_range"] is None
  assert [event["surface"] for event in events] == ["1", "1", "0", "4"]
  assert events[0]["duration_ms"] == 900


def test_hour_and_weekday_are_of_the_request_not_of_the_logging(tmp_path):
  event = _events(_kuairand(tmp_path))[0]
  assert (event["hour"], event["weekday"]) == ("0", "0")


def test_duplicates_go_to_the_rejects(tmp_path):
  cleaned = clean(_kuairand(tmp_path))
  assert cleaned.rejected == {"exact duplicate": 1, "logged again": 1}


def test_videos_have_a_declared_launch_and_typed_metadata(tmp_path):
  items = _items(_kuairand(tmp_path))
  # Midnight in China.
  launch = 1_649_520_000_000_000
  assert items["1"] == {
    "title": None,
    "launch_time": launch,
    "tag": ["39", "68"],
    "author": "50",
    "uploaded": launch,
    "video_duration_ms": 10_000.0,
    "video_type": "NORMAL",
    "upload_type": "Web",
  }
  assert items["2"]["tag"] == []
  assert items["2"]["video_duration_ms"] is None


def test_log_files_of_several_periods_are_one_log(tmp_path):
  text = _KUAIRAND["log_standard_4_25_to_5_08_pure.csv"]
  header = text.split("\n")[0]
  earlier = f"{header}\n7,9,20220401,0,1648800000000" + ",0" * 13 + ",1\n"
  _write(tmp_path, {"log_standard_4_08_to_4_21_pure.csv": earlier})
  events = _events(_kuairand(tmp_path))
  assert [event["row"] for event in events[:2]] == [1, 2]
  assert events[0]["item_id"] == "9"


def test_a_missing_column_is_named(tmp_path):
  name = "log_standard_4_25_to_5_08_pure.csv"
  broken = _KUAIRAND[name].replace("time_ms,is_click", "time,is_click")
  _write(tmp_path, {**_KUAIRAND, name: broken})
  with pytest.raises(DataError, match="has no column 'time_ms'") as error:
    kuairand.read(KuaiRandPure(raw=str(tmp_path)), _connect())
  assert name in str(error.value)


def test_a_line_with_too_many_fields_is_named(tmp_path):
  name = "log_standard_4_25_to_5_08_pure.csv"
  broken = _KUAIRAND[name] + "1," * 30 + "1\n"
  _write(tmp_path, {**_KUAIRAND, name: broken})
  log = kuairand.read(KuaiRandPure(raw=str(tmp_path)), _connect())
  with pytest.raises(DataError, match="Line: 8") as error:
    clean(log)
  assert name in str(error.value)
  assert "\n" not in str(error.value)


# ---- MovieLens -----------------------------------------------------------

_FLAGS = "|".join("1" if place in (5, 8) else "0" for place in range(19))
_ML_100K = {
  "ml-100k/u.data": "196\t242\t3\t881250949\n196\t302\t4\t881250950\n",
  "ml-100k/u.item": (
    f"242|Kolya, Café (1996)|24-Jan-1997||http://x|{_FLAGS}\n"
    f"302|L.A. Confidential (1997)|01-Jan-1997||http://y|{_FLAGS}\n"
  ).encode("latin-1"),
  "ml-100k/u.user": "196|49|M|writer|55105\n",
}
_ML_1M = {
  "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
  "movies.dat": (
    "1193::Café (1975)::Drama\n661::James (1996)::Animation|Musical\n"
  ).encode("latin-1"),
  "users.dat": "1::F::45::10::48067\n",
}
_ML_20M = {
  "ratings.csv": "userId,movieId,rating,timestamp\n"
  "1,2,3.5,1112486027\n1,29,4.0,1112484676\n",
  "movies.csv": "movieId,title,genres\n"
  '2,"Café, The (1995)",Adventure|Drama\n29,Lost (1995) ,(no genres listed)\n',
}
_ML_10M = {
  "ratings.dat": "1::2::3.5::1112486027\n1::29::4::1112484676\n",
  "movies.dat": "2::Café (1995)::Adventure|Drama\n29::Lost (1995)::Comedy\n",
  "tags.dat": "1::2::fun::1112486027\n",
}


def test_movielens_100k_is_read_with_its_flags_and_users(tmp_path):
  _write(tmp_path, _ML_100K)
  log = movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  event = _events(log)[0]
  assert event["timestamp"] == 881_250_949_000_000
  assert event["rating"] == 3.0
  # 49 years, in the ranges of 1M.
  assert (event["gender"], event["age"]) == ("M", "45")
  assert event["occupation"] == "writer"
  assert _items(log)["242"]["title"] == "Kolya, Café (1996)"
  assert _items(log)["242"]["genre"] == ["Comedy", "Drama"]
  assert _items(log)["242"]["year"] == "1996"


@pytest.mark.parametrize("name", ["ratings.dat", "ratings_users_1_2999.dat"])
def test_movielens_1m_is_read_whole_or_in_part(tmp_path, name):
  files = {name if n == "ratings.dat" else n: t for n, t in _ML_1M.items()}
  _write(tmp_path, files)
  log = movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  event = _events(log)[0]
  assert (event["gender"], event["age"], event["occupation"]) == (
    "F",
    "45",
    "10",
  )
  assert _items(log)["1193"]["title"] == "Café (1975)"
  assert {f.name: f.when for f in log.schema.features} == {
    "rating": When.POST_ACTION,
    "gender": When.REQUEST,
    "age": When.REQUEST,
    "occupation": When.REQUEST,
  }


@pytest.mark.parametrize("files", [_ML_20M, _ML_10M], ids=["20M", "10M"])
def test_larger_movielens_are_read_without_users(tmp_path, files):
  _write(tmp_path, files)
  log = movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  assert [event["rating"] for event in _events(log)] == [3.5, 4.0]
  assert [feature.name for feature in log.schema.features] == ["rating"]
  items = _items(log)
  assert "Café" in items["2"]["title"]
  assert items["2"]["genre"] == ["Adventure", "Drama"]
  assert {item["year"] for item in items.values()} == {"1995"}


def test_no_genres_listed_is_no_genre(tmp_path):
  _write(tmp_path, _ML_20M)
  log = movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  assert _items(log)["29"]["genre"] == []


def test_the_sasrec_file_has_order_but_no_time(tmp_path):
  _write(tmp_path, {"some.txt": "1 10\n1 11\n2 10\n"})
  path = str(tmp_path / "some.txt")
  log = movielens.read_sasrec(MovieLensSasrec(raw=path), _connect())
  events = _events(log)
  assert not log.schema.timed
  assert [(event["user_id"], event["item_id"]) for event in events] == [
    ("1", "10"),
    ("1", "11"),
    ("2", "10"),
  ]
  assert [event["timestamp"] for event in events] == [
    _2000_US + (line + 1) * 1_000_000 for line in range(3)
  ]


def test_films_of_the_sasrec_file_are_described_by_their_other_numbers(
  tmp_path,
):
  _write(
    tmp_path,
    {
      "ml-1m_sasrec.txt": "1 1\n1 2\n2 1\n",
      "sas_to_original_items.txt": "1 30\n2 10\n",
      "movies.dat": "10::Ten (1979)::Comedy\n20::Twenty (2002)::War\n"
      "30::Thirty (1930)::War|Drama\n",
    },
  )
  log = movielens.read_sasrec(MovieLensSasrec(raw=str(tmp_path)), _connect())
  assert [feature.name for feature in log.schema.metadata] == ["genre", "year"]
  items = _items(log)
  assert set(items) == {"1", "2"}
  assert items["1"]["title"] == "Thirty (1930)"
  assert sorted(items["1"]["genre"]) == ["Drama", "War"]
  assert items["2"]["year"] == "1979"
  assert len(log.files) == 3


def test_a_truncated_sasrec_file_is_refused(tmp_path):
  _write(tmp_path, {"ml-1m_sasrec.txt": "1 10\n1 11\n2 10\n"})
  log = movielens.read_sasrec(MovieLensSasrec(raw=str(tmp_path)), _connect())
  with pytest.raises(DataError, match="3 events where 999,611 are published"):
    clean(log)


def test_a_known_edition_is_complete_or_refused(tmp_path):
  movies = "".join(f"{n}::Film (1999)::Drama\n" for n in range(3_883))
  _write(tmp_path, {**_ML_1M, "movies.dat": movies})
  log = movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  with pytest.raises(DataError, match="2 events where 1,000,209 are published"):
    clean(log)


def test_of_two_ratings_files_one_must_be_named(tmp_path):
  other = "2::661::3::978302109\n2::1193::3::978302110\n"
  _write(tmp_path, {**_ML_1M, "ratings_users_2.dat": other})
  with pytest.raises(
    DataError, match=r"holds ratings\.dat and ratings_users_2"
  ):
    movielens.read(MovieLens(raw=str(tmp_path)), _connect())
  source = MovieLens(raw=str(tmp_path / "ratings_users_2.dat"))
  log = movielens.read(source, _connect())
  assert {event["user_id"] for event in _events(log)} == {"2"}
  assert [f.name for f in log.files] == [
    "ratings_users_2.dat",
    "movies.dat",
    "users.dat",
  ]


def test_a_file_given_by_name_is_read(tmp_path):
  other = _MOVIETWEETINGS["ratings.dat"].replace("1::", "7::")
  _write(tmp_path, {**_MOVIETWEETINGS, "mine.dat": other})
  source = MovieTweetings(raw=str(tmp_path / "mine.dat"))
  log = movietweetings.read(source, _connect())
  assert {event["user_id"] for event in _events(log)} == {"7"}


@pytest.mark.parametrize("name", ["movies.dat", "users.dat"])
def test_a_line_of_too_many_fields_is_blamed_on_its_file(tmp_path, name):
  _write(tmp_path, {**_ML_1M, name: "1::F::45::10::48067::9\n"})
  with pytest.raises(DataError, match=f"{name}, line 1: .*more than"):
    movielens.read(MovieLens(raw=str(tmp_path)), _connect())


@pytest.mark.parametrize(
  "name", ["user_features_pure.csv", "video_features_basic_pure.csv"]
)
def test_a_malformed_description_is_blamed_on_its_file(tmp_path, name):
  _write(tmp_path, {**_KUAIRAND, name: _KUAIRAND[name] + "1" + ",1" * 9 + "\n"})
  with pytest.raises(DataError, match=name) as error:
    kuairand.read(KuaiRandPure(raw=str(tmp_path)), _connect())
  assert "\n" not in str(error.value)


# ---- checksums and scratch ----------------------------------------------


def test_checksums_may_have_markers_and_blank_lines(tmp_path):
  _write(tmp_path, _MOVIETWEETINGS)
  for text in ("*ratings.dat", " ./ratings.dat"):
    (tmp_path / "SHA256SUMS").write_text(f"\n{'0' * 64} {text}\n\n")
    with pytest.raises(DataError, match="has the checksum"):
      movietweetings.read(MovieTweetings(raw=str(tmp_path)), _connect())


def test_what_is_unpacked_lies_beside_the_engines_file(tmp_path):
  connection = ibis.duckdb.connect(tmp_path / "engine.duckdb")
  assert raw.scratch_of(connection).parent == tmp_path
  connection.disconnect()


def test_a_zip_with_a_password_is_refused(tmp_path):
  path = _packed(tmp_path, _MOVIETWEETINGS, "zip")
  content = bytearray(path.read_bytes())
  for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    at = content.find(magic)
    while at >= 0:
      content[at + place] |= 1  # the flag "encrypted"
      at = content.find(magic, at + 1)
  path.write_bytes(content)
  with pytest.raises(DataError, match=r"cannot be unpacked .*password"):
    movietweetings.read(MovieTweetings(raw=str(path)), _connect())


# ---- Globo ---------------------------------------------------------------

_CLICKS = (
  "user_id,session_id,session_start,session_size,click_article_id,"
  "click_timestamp,click_environment,click_deviceGroup,click_os,"
  "click_country,click_region,click_referrer_type\n"
)


def test_globo_is_read_as_one_file_or_one_file_an_hour(tmp_path):
  first = _CLICKS + "0,1,2,2,157541,1506826828020,4,3,20,1,20,2\n"
  second = _CLICKS + "0,1,2,2,68866,1506826858020,4,3,20,1,20,2\n"
  whole = _write(
    tmp_path / "whole", {"clicks.csv": first + second.split("\n", 1)[1]}
  )
  hourly = _write(
    tmp_path / "hourly",
    {"clicks/clicks_hour_000.csv": first, "clicks/clicks_hour_001.csv": second},
  )
  logs = [
    globo.read(Globo(raw=str(folder)), _connect()) for folder in (whole, hourly)
  ]
  assert _events(logs[0]) == _events(logs[1])
  assert _events(logs[0])[0]["os"] == "20"
  # How long a session will be is unknown while it lasts.
  names = [feature.name for feature in logs[0].schema.features]
  assert "session_size" not in names
  assert {feature.kind for feature in logs[0].schema.features} == {
    Kind.CATEGORICAL
  }


def test_a_file_without_a_header_is_refused(tmp_path):
  _write(tmp_path, {"clicks.csv": ""})
  with pytest.raises(DataError, match=r"clicks\.csv is empty"):
    globo.read(Globo(raw=str(tmp_path)), _connect())


# ---- the published files themselves, where they are ----------------------

_PUBLISHED = {
  "movietweetings": (movietweetings.read, MovieTweetings, 141_695, {}),
  "kuairand-pure": (
    kuairand.read,
    KuaiRandPure,
    228_329,
    {"exact duplicate": 5_460, "logged again": 412},
  ),
  "movielens-1m": (movielens.read, MovieLens, 487_650, {}),
}


@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_logs_have_their_known_counts(name):
  folder = pathlib.Path(os.environ.get("FMJAX_DATA", "")) / name
  if "FMJAX_DATA" not in os.environ or not folder.exists():
    pytest.skip(f"FMJAX_DATA holds no {name}")
  read, source, rows, rejected = _PUBLISHED[name]
  cleaned = clean(read(source(raw=str(folder)), _connect()))
  assert cleaned.events_in == rows
  assert cleaned.rejected == rejected

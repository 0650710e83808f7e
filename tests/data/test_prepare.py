"""From a log to a prepared directory, and what is refused."""

import dataclasses
import errno
import json
import multiprocessing
import os

import pyarrow.parquet as pq
import pytest

from fmjax.config import (
  ConfigError,
  DataConfig,
  EventTokens,
  KuaiRandPure,
  LeaveLastOut,
  MovieTweetings,
  RunTokens,
  Synthetic,
  Table,
  TemporalSplit,
)
from fmjax.data import pipeline
from fmjax.data.prepare import (
  SOURCES,
  ensure_prepared,
  prepare,
  prepare_log,
  prepared_dir,
  source_from_name,
)
from fmjax.data.readers import movietweetings, synthetic
from fmjax.data.schema import DataError, Feature, Kind, Schema
from fmjax.data.store import open_prepared
from fmjax.data.write import HistoryWriter

_T0 = 1_600_000_000
_GENERATED = """
[events]
file = "events.parquet"
user = "user_id"
item = "item_id"
timestamp = "timestamp"
time_unit = "us"
action = "action"
duration = "duration_ms"
repeats = true

[features.device]
kind = "categorical"
when = "request"
"""
_TINY = Synthetic(events=400, users=20, items=30)


def _events(n=40):
  return [
    {"user_id": f"u{k % 3}", "item_id": f"i{k % 7}", "timestamp": _T0 + k}
    for k in range(n)
  ]


def _left_in(folder):
  return sorted(path.name for path in folder.iterdir())


def test_events_in_are_the_events_of_tokens_and_the_rejects(prepared_of):
  events = _events()
  events += [dict(events[3]), {**events[4], "user_id": None}]
  events += [{**events[5], "timestamp": 12}]
  for granularity in (EventTokens(), RunTokens()):
    prepared = prepared_of(events, granularity=granularity, max_rejects=0.1)
    counts = prepared.manifest["counts"]
    rejects = counts["rejects"]
    assert sum(rejects.values()) == 3
    assert counts["events_in"] == 43
    assert counts["events_in"] == counts["events_in_tokens"] + 3
    assert counts["tokens"] == sum(counts["tokens_by_split"].values())
    assert counts["tokens"] == prepared.index.tokens.sum()
    assert counts["compression"] == 40 / counts["tokens"]
    table = pq.read_table(prepared.path / "rejects.parquet")
    assert table["row"].to_pylist() == [41, 42, 43]
    assert table.group_by("reason").aggregate([]).num_rows == len(rejects)


def test_the_manifest_says_what_the_directory_was_made_from(prepared_of):
  prepared = prepared_of(_events(), split=LeaveLastOut())
  manifest = json.loads((prepared.path / "manifest.json").read_text())
  assert manifest["split"] == {"type": "LeaveLastOut"}
  assert manifest["granularity"] == {"type": "EventTokens"}
  assert manifest["schema"]["source"] == "tiny"
  assert manifest["cuts"] is None
  assert set(manifest["files"]) == {
    *("catalog.parquet", "daily.parquet", "histories-00000.arrayrecord"),
    *("index.npz", "rejects.parquet", "users.parquet"),
  }


def test_the_same_log_gives_the_same_content(prepared_of, every_kind):
  first, second = (prepared_of(_events(), schema=every_kind) for _ in "12")
  assert first.checksum == second.checksum
  changed = _events()
  changed[0]["item_id"] = "i6"
  assert prepared_of(changed, schema=every_kind).checksum != first.checksum


@pytest.mark.parametrize("granularity", [EventTokens(), RunTokens()])
@pytest.mark.parametrize("split", [TemporalSplit(), LeaveLastOut()])
def test_users_tokenized_a_few_at_a_time_give_the_same_content(
  prepared_of, every_kind, monkeypatch, granularity, split
):
  def content():
    return prepared_of(
      _events(), schema=every_kind, granularity=granularity, split=split
    ).checksum

  whole = content()
  monkeypatch.setattr(pipeline, "_EVENTS_AT_ONCE", 7)
  assert content() == whole


@pytest.mark.slow
def test_a_log_larger_than_memory_gives_the_same_content(tmp_path):
  synthetic.write(Synthetic(events=1_500_000), tmp_path / "events.parquet")
  mapping = tmp_path / "map.toml"
  mapping.write_text(_GENERATED)
  source = Table(mapping=str(mapping))  # typed, more than 160 MB
  whole, spilled = (
    prepare(
      source, tmp_path / limit, granularity=RunTokens(), memory_limit=limit
    )
    for limit in ("2GB", "150MB")
  )
  assert spilled.checksum == whole.checksum


def test_a_directory_of_the_same_choices_is_kept(tmp_path):
  out = tmp_path / "out"
  reports = []
  first = prepare(_TINY, out)
  before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
  again = prepare(_TINY, out, progress=lambda *args: reports.append(args))
  assert again.checksum == first.checksum
  assert reports == [("already prepared", 20)]
  assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
  assert _left_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
  "change, key",
  [
    ({"source": dataclasses.replace(_TINY, seed=1)}, "source"),
    ({"granularity": RunTokens()}, "granularity"),
    ({"split": LeaveLastOut()}, "split"),
  ],
)
def test_a_directory_of_other_choices_is_refused(tmp_path, change, key):
  prepare(_TINY, tmp_path / "out")
  options = {"source": _TINY, **change}
  with pytest.raises(DataError, match=f"another {key}.*another --out or rem"):
    prepare(options.pop("source"), tmp_path / "out", **options)


def test_what_is_no_prepared_directory_is_never_touched(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  (out / "thesis.tex").write_text("years of work")
  with pytest.raises(DataError, match="not a prepared directory; choose"):
    prepare(_TINY, out)
  with pytest.raises(DataError, match="not a prepared directory; choose"):
    prepare(_TINY, out / "thesis.tex")
  assert (out / "thesis.tex").read_text() == "years of work"
  assert _left_in(tmp_path) == ["out"]


def test_an_empty_directory_is_filled(tmp_path):
  (tmp_path / "out").mkdir()
  prepare(_TINY, tmp_path / "out")
  assert _left_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
  "schema, events, message",
  [
    (Schema(source="x"), [], "holds no events"),
    (
      Schema(source="x"),
      [{**event, "user_id": f"u{n}"} for n, event in enumerate(_events())],
      "none of the users has two events",
    ),
    (Schema(source="x", timed=False), _events(), "no timestamps"),
    (Schema(source="x"), _events(4), "no token|cannot be cut"),
    (
      Schema(
        source="x", features=(Feature(name="n", kind=Kind.NUMERIC, log=True),)
      ),
      [{**event, "n": -1.5} for event in _events()],
      "'n' is declared log = true but -1.5 occurs",
    ),
    (
      Schema(source="x", features=(Feature(name="item", kind=Kind.NUMERIC),)),
      _events(),
      "feature 'item', a name that is taken",
    ),
    (
      Schema(
        source="x",
        features=(
          Feature(name="tags", kind=Kind.BAG),
          Feature(name="tags_count", kind=Kind.NUMERIC),
        ),
      ),
      _events(),
      "feature 'tags_count', a name that is taken",
    ),
  ],
)
def test_an_unusable_log_leaves_nothing_behind(
  log_of, tmp_path, schema, events, message
):
  with pytest.raises(DataError, match=message):
    prepare_log(log_of(events, schema=schema), tmp_path / "new" / "out")
  assert _left_in(tmp_path) == []


def test_leave_last_out_needs_users_with_three_tokens(log_of, tmp_path):
  with pytest.raises(DataError, match="users with three tokens"):
    prepare_log(log_of(_events(6)), tmp_path / "out", split=LeaveLastOut())


@pytest.mark.parametrize(
  "error, expected, message",
  [
    (OSError(errno.ENOSPC, "No space left on device"), DataError, "is full"),
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
  ],
)
def test_an_interruption_leaves_nothing_behind(
  tmp_path, monkeypatch, error, expected, message
):
  def fail(self, tokens):
    raise error

  monkeypatch.setattr(HistoryWriter, "write", fail)
  with pytest.raises(expected, match=message):
    prepare(_TINY, tmp_path / "new" / "out")
  assert _left_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match=r"cannot be made.*another --out"):
    prepare(_TINY, tmp_path / "file" / "out")


def test_a_memory_limit_is_a_size(tmp_path):
  with pytest.raises(ConfigError, match="memory_limit='lots'"):
    prepare(_TINY, tmp_path / "out", memory_limit="lots")


@pytest.mark.parametrize("limit", ["0GB", "-1GB", "none"])
def test_a_memory_limit_is_positive(tmp_path, limit):
  with pytest.raises(ConfigError, match=r"memory_limit=.*is no size"):
    prepare(_TINY, tmp_path / "out", memory_limit=limit)


@pytest.mark.parametrize(
  "options",
  [
    {"max_rejects": -0.1},
    {"max_rejects": 1.1},
    {"max_rejects": float("nan")},
    {"split": TemporalSplit(validation=0.5, test=0.5)},
    {"granularity": RunTokens(max_gap_s=-1)},
  ],
)
def test_an_option_out_of_range_is_refused(tmp_path, options):
  with pytest.raises(ConfigError):
    prepare(_TINY, tmp_path / "out", **options)
  assert _left_in(tmp_path) == []


def test_what_is_there_is_looked_at_before_the_log_is_read(
  tmp_path, monkeypatch
):
  out = tmp_path / "out"
  prepare(_TINY, out)
  monkeypatch.setattr(synthetic, "read", None)
  prepare(_TINY, out)
  with pytest.raises(DataError, match="another split"):
    prepare(_TINY, out, split=LeaveLastOut())


def test_a_directory_is_named_without_reading_the_log(tmp_path, monkeypatch):
  monkeypatch.setattr(movietweetings, "read", None)
  assert prepared_dir(DataConfig()).name.startswith("movietweetings-")


def test_a_file_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
  def refuse(*args):
    raise PermissionError(errno.EACCES, "Permission denied", "log.csv")

  monkeypatch.setattr(synthetic, "read", refuse)
  with pytest.raises(DataError, match=r"log\.csv may not be opened"):
    prepare(_TINY, tmp_path / "out")


def test_times_in_too_large_a_unit_are_refused(log_of, tmp_path):
  items = [{"item_id": "i0", "launch_time": _T0 * 1_000}]  # milliseconds
  log = log_of(_events(), items=items)
  with pytest.raises(DataError, match="every 'launch_time' lies in January"):
    prepare_log(log, tmp_path / "out")


def test_items_that_describe_nothing_are_refused(log_of, tmp_path):
  log = log_of(_events(), items=[{"item_id": "0"}])
  with pytest.raises(DataError, match="describe none of the items"):
    prepare_log(log, tmp_path / "out")


def test_stages_are_reported_in_order(tmp_path):
  reports = []
  prepare(_TINY, tmp_path / "out", progress=lambda *args: reports.append(args))
  assert reports == [
    ("clean", 400),
    ("tokenize", 400),
    ("catalog", 30),
    ("encode", 12),
    ("write", 400),
  ]


def test_ensure_prepared_makes_a_directory_once(tmp_path, monkeypatch):
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
  data = DataConfig(source=_TINY)
  path = prepared_dir(data)
  assert path.parent == tmp_path / "cache"
  assert path.name.startswith("synthetic-")
  first = ensure_prepared(data)
  assert first.path == path
  reports = []
  ensure_prepared(data, progress=lambda *args: reports.append(args))
  assert reports == []
  # What a model reads is in the name; how batches are cut is not.
  assert prepared_dir(dataclasses.replace(data, window=8)) == path
  for change in (
    {"source": dataclasses.replace(_TINY, seed=1)},
    {"split": LeaveLastOut()},
    {"granularity": RunTokens()},
  ):
    assert prepared_dir(dataclasses.replace(data, **change)) != path


def _prepare(path):
  prepare(_TINY, path)


def test_two_processes_may_prepare_the_same_directory(tmp_path):
  out = tmp_path / "out"
  context = multiprocessing.get_context("spawn")
  both = [context.Process(target=_prepare, args=(out,)) for _ in "12"]
  for process in both:
    process.start()
  for process in both:
    process.join()
  assert [process.exitcode for process in both] == [0, 0]
  assert len(open_prepared(out).index) == 20
  assert _left_in(tmp_path) == ["out"]


def test_the_content_of_raw_files_counts_and_their_place_does_not(tmp_path):
  lines = [f"{n % 3},i{n % 5},{_T0 + n}" for n in range(30)]
  mapping = tmp_path / "map.toml"
  names = []
  for folder, text in (("a", lines), ("b", lines), ("c", lines[1:])):
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "log.csv"
    file.write_text("\n".join(["user,item,time", *text]) + "\n")
    mapping.write_text(_MAPPING)
    source = Table(raw=str(file), mapping=str(mapping))
    names.append(prepared_dir(DataConfig(source=source)).name)
  assert names[0] == names[1] != names[2]
  # The items' file of the same name is another file.
  (tmp_path / "log.csv").write_text("item\ni1\n")
  mapping.write_text(_MAPPING + '[items]\nfile = "log.csv"\nitem = "item"\n')
  with_items = prepared_dir(DataConfig(source=source)).name
  (tmp_path / "c" / "log.csv").write_text("user,item,time\n")
  assert prepared_dir(DataConfig(source=source)).name != with_items
  mapping.write_text(_MAPPING + "# changed\n")
  assert prepared_dir(DataConfig(source=source)).name != names[2]


_MAPPING = """
[events]
user = "user"
item = "item"
timestamp = "time"
time_unit = "s"
"""


def test_sources_are_found_by_name():
  assert source_from_name("movietweetings") == MovieTweetings()
  assert source_from_name("kuairand-pure", raw="x") == KuaiRandPure(raw="x")
  assert source_from_name("table", raw="x", mapping="y") == Table(
    raw="x", mapping="y"
  )
  with pytest.raises(ConfigError, match="did you mean 'movietweetings'"):
    source_from_name("movietweeting")
  with pytest.raises(ConfigError, match="takes no --raw x"):
    source_from_name("synthetic", raw="x")
  assert len(SOURCES) == 7


def test_cut_shares_are_taken_from_the_split(prepared_of):
  prepared = prepared_of(_events(), split=TemporalSplit(validation=0.25))
  parts = prepared.manifest["counts"]["tokens_by_split"]
  assert parts == {"train": 26, "validation": 10, "test": 4, "crossing": 0}


@pytest.mark.skipif(
  not os.path.isdir(f"{os.environ.get('FMJAX_DATA', '')}/movietweetings"),
  reason="FMJAX_DATA has no folder movietweetings (ratings.dat, movies.dat)",
)
def test_movietweetings_as_published_is_prepared_whole(tmp_path):
  raw = f"{os.environ['FMJAX_DATA']}/movietweetings"
  prepared = prepare(MovieTweetings(raw=raw), tmp_path / "out")
  counts = prepared.manifest["counts"]
  assert (counts["events_in"], counts["users"]) == (141_695, 21_081)
  assert sum(counts["rejects"].values()) == 0
  index = prepared.index
  assert (index.test_start < index.tokens).sum() == 4_741

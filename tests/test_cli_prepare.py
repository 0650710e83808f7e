"""`fmjax prepare`: counts that add up, and wrong input refused whole."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

from fmjax.__main__ import main
from fmjax.data.readers import raw

MAPPING = """
[events]
file = "log.csv"
user = "user"
item = "item"
timestamp = "time"
time_unit = "s"
duration = "ms"
"""
START = 1_600_000_000


def lines(events: int = 400, seed: int = 0) -> list[str]:
  random = np.random.default_rng(seed)
  users, items = (
    random.integers(20, size=events),
    random.integers(30, size=events),
  )
  times = START + np.sort(random.integers(10**6, size=events))
  return ["user,item,time,ms"] + [
    f"u{user},i{item},{time},{n}"
    for n, (user, item, time) in enumerate(
      zip(users, items, times, strict=True)
    )
  ]


@pytest.fixture
def prepare(tmp_path, capsys):
  """Prepares rows through the mapping; exit code, JSON and the folder."""

  def run(rows: list[str] | bytes, *options: str, mapping: str = MAPPING):
    (tmp_path / "log.toml").write_text(mapping)
    text = rows if isinstance(rows, bytes) else "\n".join(rows).encode() + b"\n"
    (tmp_path / "log.csv").write_bytes(text)
    place = ["--mapping", str(tmp_path / "log.toml")]
    out = tmp_path / "out"
    code = main(
      ["prepare", "table", *place, "--out", str(out), "--json", *options]
    )
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), out

  return run


def add_up(counts: dict) -> bool:
  rejected = sum(counts["rejects"].values())
  return counts["events_in"] == counts["events_in_tokens"] + rejected


def test_a_table_through_a_mapping_gives_counts_that_add_up(prepare):
  code, told, out = prepare(lines())
  assert code == 0
  counts = told["counts"]
  assert counts["events_in"] == 400
  assert add_up(counts)
  assert sum(counts["tokens_by_split"].values()) == counts["tokens"]
  manifest = json.loads((out / "manifest.json").read_text())
  assert manifest["counts"] == counts


def test_the_same_command_again_keeps_what_is_there(prepare):
  _, first, out = prepare(lines())
  before = (out / "manifest.json").stat().st_mtime_ns
  code, again, _ = prepare(lines())
  assert code == 0
  assert again == first
  assert (out / "manifest.json").stat().st_mtime_ns == before


def test_a_folder_prepared_from_another_log_is_refused_and_kept(prepare):
  _, _, out = prepare(lines())
  before = (out / "manifest.json").read_bytes()
  code, told, _ = prepare(lines(seed=1))
  assert code == 3
  assert str(out) in told["error"]
  assert (out / "manifest.json").read_bytes() == before


def test_rows_that_cannot_be_used_are_counted_by_reason(prepare):
  rows = lines()
  rows[5:5] = [",i1,1600000000,5", "u1,,1600000000,5", "u1,i1,1600000000,-5"]
  rows.append(rows[-1])
  code, told, _ = prepare(rows, "--max-rejects", "0.05")
  assert code == 0
  assert add_up(told["counts"])
  assert sum(told["counts"]["rejects"].values()) == 4
  assert len(told["counts"]["rejects"]) >= 3


def changed(rows: list[str], *, column: int, value: str) -> list[str]:
  cells = [row.split(",") for row in rows[1:]]
  for row in cells:
    row[column] = value
  return rows[:1] + [",".join(row) for row in cells]


ROWS = lines()
WRONG = {
  "missing column": (["who" + ROWS[0][4:], *ROWS[1:]], ["'user'", "log.csv"]),
  "null ids": (changed(ROWS, column=0, value=""), ["user", "row 1"]),
  "milliseconds read as seconds": (
    [ROWS[0], *(f"u{n % 9},i{n % 7},{START + n}000,1" for n in range(99))],
    ["1600000000000", "ms"],
  ),
  "dates before 1990": (
    [ROWS[0], *(f"u{n % 9},i{n % 7},{n},1" for n in range(99))],
    ["1990"],
  ),
  "negative durations": (
    changed(ROWS, column=3, value="-7"),
    ["-7", "duration"],
  ),
  "bytes that are no UTF-8": (
    "\n".join(ROWS).encode() + b"\nu\xff,i1,1600000000,1\n",
    ["0xff", "log.csv"],
  ),
  "empty file": (b"", ["log.csv", "empty"]),
  "no event": (ROWS[:1], ["log.csv"]),
  "nobody has two events": (
    [ROWS[0], *(f"u{n},i{n % 7},{START + n},1" for n in range(99))],
    ["two events"],
  ),
}


@pytest.mark.parametrize("rows,words", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_sentence_and_leaves_nothing(prepare, rows, words):
  code, told, out = prepare(rows)
  assert code == 3
  assert "\n" not in told["error"]
  for word in words:
    assert word in told["error"]
  assert {path.name for path in out.parent.iterdir()} == {"log.csv", "log.toml"}


@pytest.mark.parametrize(
  "old,new,word",
  [
    ('user = "user"', "", "user"),
    ('"s"', '"seconds"', "seconds"),
    ("duration =", "duratoin =", "duration"),
    ("[events]", "[event", "log.toml"),
    ("log.csv", "absent.csv", "absent.csv"),
  ],
)
def test_a_wrong_mapping_is_one_sentence(prepare, old, new, word):
  code, told, out = prepare(lines(), mapping=MAPPING.replace(old, new, 1))
  assert code == 3
  assert word in told["error"]
  assert not out.exists()


def test_a_truncated_archive_is_one_sentence(tmp_path, capsys):
  archive = tmp_path / "ml-1m.zip"
  with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
    packed.writestr("ml-1m/ratings.dat", "1::2::5::978300760\n" * 5_000)
    packed.writestr("ml-1m/movies.dat", "2::A (1999)::Drama\n")
  archive.write_bytes(archive.read_bytes()[:-60])
  out = tmp_path / "out"
  code = main(
    ["prepare", "movielens", "--raw", str(archive), "--out", str(out)]
  )
  assert code == 3
  assert "ml-1m.zip is truncated" in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


@pytest.mark.parametrize("source", ["movietweetings", "kuairand-pure"])
def test_each_shipped_log_prepares_with_counts_that_add_up(
  source, tmp_path, capsys
):
  out = tmp_path / "out"
  assert main(["prepare", source, "--out", str(out), "--json"]) == 0
  told = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert add_up(told["counts"])
  assert told["counts"]["events_in"] > 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
  "source,folder", [("movielens", "movielens-1m"), ("globo", "globo")]
)
def test_each_downloaded_log_prepares_with_counts_that_add_up(
  source: str, folder: str, tmp_path: pathlib.Path, capsys
):
  if not (raw.data_root() / folder).is_dir():
    pytest.skip(f"{folder} is not in {raw.data_root()} (FMJAX_DATA)")
  out = tmp_path / "out"
  assert main(["prepare", source, "--out", str(out), "--json"]) == 0
  told = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert add_up(told["counts"])

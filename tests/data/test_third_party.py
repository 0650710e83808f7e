"""The logs that ship are complete, small, licensed and as published."""

import hashlib
import os
import pathlib
import subprocess
import sys

import ibis
import pytest

from fmjax.config import KuaiRandPure, MovieTweetings
from fmjax.data.clean import clean
from fmjax.data.readers import kuairand, movietweetings, raw
from fmjax.data.schema import DataError

_ROOT = pathlib.Path(__file__).parents[2] / "third_party"
_LOGS = {
  "movietweetings": (movietweetings, MovieTweetings()),
  "kuairand-pure": (kuairand, KuaiRandPure()),
}


def _published(name: str) -> pathlib.Path:
  folder = pathlib.Path(os.environ.get("FMJAX_DATA", "")) / name
  if "FMJAX_DATA" not in os.environ or not folder.exists():
    pytest.skip(f"FMJAX_DATA holds no {name}")
  return folder


@pytest.mark.parametrize("name", _LOGS)
def test_every_shipped_table_has_its_checksum(name):
  sums = (_ROOT / name / "SHA256SUMS").read_text().splitlines()
  listed = dict(reversed(line.split()) for line in sums)
  files = sorted((_ROOT / name).glob("*.parquet"))
  assert sorted(listed) == [file.name for file in files]
  for file in files:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert listed[file.name] == digest


@pytest.mark.parametrize("name", _LOGS)
def test_every_log_ships_with_licence_and_attribution(name):
  licence = (_ROOT / name / "LICENSE").read_text()
  readme = (_ROOT / name / "README.md").read_text()
  assert len(licence) > 1_000
  for word in ("Source", "Licence", "cite", "What was changed", "embed.py"):
    assert word in readme


def test_all_shipped_files_are_at_most_five_megabytes():
  files = [path for path in _ROOT.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) <= 5_000_000


@pytest.mark.parametrize(
  "name, rows, users, rejected",
  [
    ("movietweetings", 141_695, 21_081, {}),
    (
      "kuairand-pure",
      228_329,
      25_156,
      {"exact duplicate": 5_460, "logged again": 412},
    ),
  ],
)
def test_shipped_logs_have_their_known_counts(name, rows, users, rejected):
  module, source = _LOGS[name]
  log = module.read(source, ibis.duckdb.connect())
  cleaned = clean(log)
  assert cleaned.events_in == rows
  assert cleaned.rejected == rejected
  found = cleaned.events.user_id.nunique().to_pyarrow().as_py()
  assert found == users
  assert all(file.is_relative_to(_ROOT) for file in log.files)


@pytest.mark.parametrize("name", _LOGS)
def test_shipped_tables_equal_the_published_ones(name):
  folder = _published(name)
  module, _ = _LOGS[name]
  connection = ibis.duckdb.connect()
  shipped, published = (
    module.tables(raw.locate(root, publisher=""), connection)
    for root in (_ROOT / name, folder)
  )
  for stem in shipped:
    ours, theirs = (
      tables[stem].order_by("row").to_pyarrow()
      for tables in (shipped, published)
    )
    assert ours.equals(theirs), stem


def test_the_one_command_makes_the_shipped_files(tmp_path):
  folder = _published("movietweetings")
  subprocess.run(
    [
      sys.executable,
      _ROOT / "embed.py",
      "movietweetings",
      "--raw",
      folder,
      "--out",
      tmp_path,
    ],
    check=True,
    env={**os.environ, "PYTHONPATH": str(_ROOT.parent)},
    stdout=subprocess.DEVNULL,
  )
  ours = (_ROOT / "movietweetings" / "SHA256SUMS").read_text()
  assert (tmp_path / "SHA256SUMS").read_text() == ours


def test_a_changed_file_is_refused(tmp_path):
  for file in (_ROOT / "movietweetings").iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  broken = tmp_path / "ratings.parquet"
  content = bytearray(broken.read_bytes())
  content[1_000] ^= 1
  broken.write_bytes(content)
  with pytest.raises(DataError, match=r"ratings\.parquet has the checksum"):
    movietweetings.read(
      MovieTweetings(raw=str(tmp_path)), ibis.duckdb.connect()
    )

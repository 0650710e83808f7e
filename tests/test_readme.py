"""What the README tells a reader to type works."""

import json
import pathlib
import re
import shlex

import pytest

from analysis import readme
from fmjax.__main__ import VERBS, main, parse
from fmjax.cli.experiment_file import load

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TARGETS = set(
  re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
)


def commands(program: str) -> list[str]:
  """Lines of the code blocks that begin with the program."""
  blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  lines = [re.sub(r"\s+#.*| *→.*", "", line).strip() for line in lines]
  lines = [line.removeprefix("$ ") for line in lines]
  return sorted({line for line in lines if line.startswith(f"{program} ")})


@pytest.mark.parametrize("command", commands("fmjax"))
def test_a_command_of_the_readme_parses(command: str, monkeypatch):
  monkeypatch.chdir(ROOT)
  _, verb, *words = shlex.split(command)
  assert verb in VERBS
  if "--help" in words:
    return
  asked = parse(verb, [word for word in words if word != "--json"])
  if file := getattr(asked, "file", None):
    assert load(file, asked.changes).experiments


@pytest.mark.parametrize("command", commands("make"))
def test_a_make_command_of_the_readme_has_its_target(command: str):
  words = shlex.split(command)[1:]
  assert [
    word for word in words if "=" not in word and word not in TARGETS
  ] == []


def test_the_readme_begins_with_the_quickstart():
  assert "make quickstart" in commands("make")
  assert "![" in README


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link: str):
  if not link.startswith("https://"):
    assert (ROOT / link).exists()


def test_the_numbers_of_the_readme_are_those_of_the_results():
  assert readme.fill(README) == README


def test_the_mapping_of_the_readme_prepares_a_log(tmp_path):
  (block,) = re.findall(
    r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL
  )
  (tmp_path / "watch.toml").write_text(block)
  rows = [
    f"u{i % 7},f{i % 5},{1_600_000_000 + i},{('tv', 'phone')[i % 2]}"
    for i in range(60)
  ]
  (tmp_path / "watch.csv").write_text(
    "\n".join(["viewer,film,at,device", *rows])
  )
  command = [
    "prepare", "table", "--raw", str(tmp_path / "watch.csv"),
    "--mapping", str(tmp_path / "watch.toml"), "--out", str(tmp_path / "out"),
  ]  # fmt: skip
  assert main(command) == 0
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert manifest["counts"]["events_in"] == 60
  assert "device" in manifest["encoding"]["features"]


def test_every_path_that_the_readme_names_exists():
  named = re.findall(
    r"`((?:fmjax|experiments|analysis|tests|third_party)/[\w./-]+)`", README
  )
  assert [path for path in named if not (ROOT / path).exists()] == []

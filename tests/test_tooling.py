"""Packaging, Makefile and CI agree with one another and with the tree."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

import fmjax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
# What a distribution is called where it is imported.
IMPORTED_AS = {
  "array-record": "array_record",
  "ibis-framework": "ibis",
  "orbax-checkpoint": "orbax",
}


def canonical(name: str) -> str:
  return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
  """Of fmjax itself and of the extras that CI installs."""
  extras = PYPROJECT["project"]["optional-dependencies"]
  return [
    Requirement(line)
    for line in (
      *PYPROJECT["project"]["dependencies"],
      *extras["analysis"],
      *extras["dev"],
    )
  ]


def constraints() -> dict[str, str]:
  lines = (ROOT / "constraints.txt").read_text().splitlines()
  pinned = [line for line in lines if line and not line.startswith("#")]
  return dict(line.split("==") for line in pinned)


def test_every_requirement_has_one_exact_version_that_satisfies_it():
  exact = {canonical(name): version for name, version in constraints().items()}
  for requirement in requirements():
    name = canonical(requirement.name)
    assert name in exact
    assert requirement.specifier.contains(exact[name]), name


def test_every_constraint_is_needed_by_something():
  exact = {canonical(name) for name in constraints()}
  needed, waiting = set(), requirements()
  while waiting:
    requirement = waiting.pop()
    name = canonical(requirement.name)
    extras = tuple(sorted(requirement.extras))
    if (name, extras) in needed:
      continue
    needed.add((name, extras))
    try:
      requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
      continue  # of another platform
    for line in requires:
      below = Requirement(line)
      if below.marker is None or any(
        below.marker.evaluate({"extra": extra}) for extra in ("", *extras)
      ):
        waiting.append(below)
  assert exact - {name for name, _ in needed} == set()


def test_every_third_party_import_is_a_declared_requirement():
  declared = {
    IMPORTED_AS.get(canonical(r.name), canonical(r.name))
    for r in requirements()
  } | {"duckdb"}  # of the extra ibis-framework[duckdb]
  for path in sorted((ROOT / "fmjax").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module]
      for name in names:
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top != "fmjax":
          assert top in declared, f"{path}, line {node.lineno}: {name}"


def test_the_extras_are_those_that_the_readme_may_name():
  extras = PYPROJECT["project"]["optional-dependencies"]
  assert set(extras) == {"analysis", "cuda13", "dev", "tpu"}


def test_the_installed_version_is_the_one_in_the_package():
  assert importlib.metadata.version("fmjax") == fmjax.__version__


def test_make_has_the_promised_targets_and_help_tells_them_all():
  promised = {
    *("venv", "quickstart", "test", "test-all", "lint", "figures", "help"),
  }
  assert promised <= TARGETS
  told = subprocess.run(
    ["make", "--no-print-directory"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert {line.split()[0] for line in told.splitlines()} == TARGETS


def test_targets_are_phony_so_that_a_file_of_that_name_hides_none():
  phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
  assert phony
  assert set(phony[1].split()) == TARGETS


def test_make_says_in_one_sentence_that_python_is_too_old(tmp_path):
  old = tmp_path / "python"
  old.write_text(
    '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n'
  )
  old.chmod(0o755)
  (tmp_path / "Makefile").write_text(MAKEFILE)
  for name in ("pyproject.toml", "constraints.txt"):
    (tmp_path / name).touch()
  ended = subprocess.run(
    ["make", "--no-print-directory", f"PYTHON={old}", "test"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 2
  sentence = ended.stderr.splitlines()[0]
  assert "needs Python >= 3.11" in sentence
  assert "Python 3.9.2" in sentence
  assert "make PYTHON=" in sentence
  assert not (tmp_path / ".venv" / "created").exists()


def test_ci_runs_lint_and_tests_and_stops_at_the_first_failure():
  script = (ROOT / ".ci" / "run").read_text()
  assert os.access(ROOT / ".ci" / "run", os.X_OK)
  assert "set -euo pipefail" in script
  lines = script.splitlines()
  assert lines.index("make lint") < lines.index("make test")
  assert "export FMJAX_DATA" in script


@pytest.mark.parametrize("target", ["lint", "test"])
def test_ci_calls_targets_that_exist(target):
  assert target in TARGETS
  assert f"make {target}" in (ROOT / ".ci" / "run").read_text()


def test_style_is_two_spaces_eighty_columns_and_warnings_are_errors():
  tools = PYPROJECT["tool"]
  assert tools["ruff"]["indent-width"] == 2
  assert tools["ruff"]["line-length"] == 80
  assert tools["pyright"]["typeCheckingMode"] == "basic"
  assert tools["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_the_licence_is_apache_2():
  text = (ROOT / "LICENSE").read_text()
  assert "Apache License" in text
  assert "END OF TERMS AND CONDITIONS" in text
  assert PYPROJECT["project"]["license"] == "Apache-2.0"

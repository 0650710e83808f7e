"""The architecture, read off the imports: what flows right never flows left."""

import ast
import pathlib

import pytest

from fmjax import config

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "fmjax"
# A module imports its own rank and those before it.
ORDER = (
  ("config", "mesh"),
  ("data",),
  ("model",),
  ("train",),
  ("eval",),
  ("scaling",),
  ("serve",),
  ("adapt",),
  ("tasks",),
  ("cli", "__main__"),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
MODULES = sorted(PACKAGE.rglob("*.py"))
each_module = pytest.mark.parametrize(
  "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)


def imported(source: str) -> list[tuple[str, int]]:
  """Full names of what a module imports, anywhere in it, with their lines."""
  names = []
  for node in ast.walk(ast.parse(source)):
    match node:
      case ast.Import():
        names += [(alias.name, node.lineno) for alias in node.names]
      case ast.ImportFrom():
        assert node.level == 0, f"relative import on line {node.lineno}"
        names += [
          (f"{node.module}.{alias.name}", node.lineno) for alias in node.names
        ]
  return names


def part(parts: tuple[str, ...]) -> str:
  """`data` for fmjax/data/split.py, `mesh` for fmjax/mesh.py."""
  return parts[1].removesuffix(".py")


@each_module
def test_a_module_imports_nothing_to_its_right(path: pathlib.Path):
  here = part(path.relative_to(ROOT).parts)
  if here == "__init__":
    here = "config"
  assert here in RANK, f"{here} has no place in the import order"
  for name, line in imported(path.read_text()):
    if not name.startswith("fmjax."):
      continue
    there = part(tuple(name.split(".")))
    if there == "__version__":
      continue
    assert there in RANK, f"line {line} imports {name}, of no known rank"
    assert RANK[there] <= RANK[here], f"line {line} imports {name}"


@each_module
def test_the_package_never_imports_experiments_or_analysis(path: pathlib.Path):
  for name, line in imported(path.read_text()):
    top = name.split(".")[0]
    assert top not in ("experiments", "analysis", "tests"), f"line {line}"


@each_module
def test_only_the_command_line_knows_tyro(path: pathlib.Path):
  if path == PACKAGE / "__main__.py":
    return
  tops = [name.split(".")[0] for name, _ in imported(path.read_text())]
  assert "tyro" not in tops


def test_no_module_is_called_utils():
  names = {path.stem for path in MODULES}
  assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_every_folder_of_modules_is_a_package():
  folders = {path.parent for path in MODULES}
  assert [f for f in folders if not (f / "__init__.py").exists()] == []


@pytest.mark.parametrize(
  "path",
  sorted(PACKAGE.rglob("__init__.py")),
  ids=lambda path: str(path.relative_to(ROOT)),
)
def test_an_init_holds_the_version_an_alphabet_the_choices_or_nothing(path):
  text = path.read_text()
  body = ast.parse(text).body
  if path == PACKAGE / "__init__.py":
    assert len(body) == 1
    assert isinstance(body[0], ast.Assign)
    assert ast.unparse(body[0].targets[0]) == "__version__"
  elif path == PACKAGE / "model" / "__init__.py":
    assert len(body) == 1
    assert ast.get_docstring(ast.parse(text))
  elif path == PACKAGE / "config" / "__init__.py":
    assert {type(node) for node in body[1:]} == {ast.ImportFrom}
    assert all(name.startswith("fmjax.config.") for name, _ in imported(text))
  else:
    assert body == []


def test_every_choice_can_be_imported_from_config_itself():
  for kind in config.Config.__subclasses__():
    if kind.__module__.startswith("fmjax."):
      assert getattr(config, kind.__name__) is kind

"""The committed notebooks run, and show what the results say."""

import pathlib
import shutil

import nbformat
import pytest

from analysis import execute

ANALYSIS = pathlib.Path(execute.__file__).parent
NOTEBOOKS = sorted(ANALYSIS.glob("*.ipynb"))
_LARGEST_BYTES = 600_000


def outputs(notebook):
  """Of each cell; of a figure only that there is one: fonts may differ."""
  return {
    cell.id: [
      {kind: "" if kind == "image/png" else text for kind, text in data.items()}
      for data in (output.get("data", output) for output in cell.outputs)
    ]
    for cell in notebook.cells
    if cell.cell_type == "code"
  }


# One that is executed within the time of `make test`.
EXECUTED = [
  pytest.param(
    path,
    marks=() if path.stem == "published" else pytest.mark.slow,
    id=path.stem,
  )
  for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", EXECUTED)
def test_a_notebook_shows_what_the_results_say(path):
  found = outputs(execute.executed(path))
  assert found == outputs(nbformat.read(path, as_version=4)), "make figures"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_tells_no_time(path):
  assert path.stat().st_size < _LARGEST_BYTES
  notebook = nbformat.read(path, as_version=4)
  assert set(notebook.metadata) == {"kernelspec", "language_info"}
  assert [cell.metadata for cell in notebook.cells if cell.metadata] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["performance", "ablations"])
def test_a_notebook_without_any_result_says_what_to_run(name, tmp_path):
  copied = shutil.ignore_patterns("results", "figures", "__pycache__")
  shutil.copytree(ANALYSIS, tmp_path / "analysis", ignore=copied)
  notebook = execute.executed(tmp_path / "analysis" / f"{name}.ipynb")
  shown = [data for cell in outputs(notebook).values() for data in cell]
  assert len(shown) > 10
  assert all("not measured: run" in data["text/markdown"] for data in shown)

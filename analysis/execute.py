"""Executes the notebooks in place, so that they show what the results say.

python -m analysis.execute      # also `make figures`

The same results give the same file: no times, no versions of the kernel.
"""

import pathlib
import tempfile

import nbclient
import nbformat
from nbformat import NotebookNode
from traitlets.config import Config

HERE = pathlib.Path(__file__).parent
_TIMEOUT_S = 60


def executed(path: pathlib.Path) -> NotebookNode:
  """The notebook with new outputs; its own folder is its working directory.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as sockets:
    # Between two processes of one machine nothing need go over the network.
    wire = {"transport": "ipc", "ip": f"{sockets}/kernel"}
    nbclient.NotebookClient(
      notebook,
      timeout=_TIMEOUT_S,
      record_timing=False,
      resources={"metadata": {"path": str(path.parent)}},
      config=Config({"KernelManager": wire}),
    ).execute()
  # What the kernel said of itself differs between machines.
  notebook.metadata = {
    "kernelspec": {
      "display_name": "Python 3",
      "language": "python",
      "name": "python3",
    },
    "language_info": {"name": "python"},
  }
  return notebook


def main() -> None:
  for path in sorted(HERE.glob("*.ipynb")):
    nbformat.write(executed(path), path)
    print(path.relative_to(HERE.parent))


if __name__ == "__main__":
  main()

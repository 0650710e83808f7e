"""What a person sees: progress and tables on stderr or stdout."""

from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.progress
import rich.table

# In a file or a pipe, where rows must not wrap.
_FILE_WIDTH = 240


class Terminal:
  """Where a verb writes for people.

  Progress goes to stderr. Tables are a verb's result, so they go to stdout,
  unless stdout belongs to the JSON object.
  """

  def __init__(self, *, json: bool):
    self._progress = _console(stderr=True)
    self._results = self._progress if json else _console(stderr=False)

  def say(self, text: str) -> None:
    """One line of progress."""
    self._progress.print(text, markup=False, soft_wrap=True)

  def show(self, text: str) -> None:
    """One line of the result."""
    self._results.print(text, markup=False, soft_wrap=True)

  def bar(self) -> rich.progress.Progress | None:
    """A bar to be started beside lines of progress; None: no terminal."""
    if not self._progress.is_terminal:
      return None
    return rich.progress.Progress(
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("{task.description}", markup=False),
      console=self._progress,
    )

  def table(
    self, columns: Sequence[str], rows: Iterable[Sequence[object]]
  ) -> None:
    """The first column is a name, the others are numbers."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
      table.add_column(name, justify="right" if number else "left")
    for row in rows:
      table.add_row(*(_cell(value) for value in row))
    self._results.print(table)


def _console(*, stderr: bool) -> rich.console.Console:
  console = rich.console.Console(stderr=stderr, highlight=False)
  if not console.is_terminal:
    console.width = _FILE_WIDTH
  return console


def _cell(value: object) -> str:
  match value:
    case None:
      return ""
    case bool() | str():
      return str(value)
    case int():
      return f"{value:,}"
    case float():
      return f"{value:.4g}"
  return str(value)

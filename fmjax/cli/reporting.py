"""A report, written to a folder and shown."""

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError
from fmjax.scaling import markdown
from fmjax.scaling.report import report as write_report


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  figure: pathlib.Path | None,
  terminal: Terminal,
  *,
  result: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """The content of report.json; its table goes to the terminal."""
  if command and result is None:
    raise ConfigError("--command is kept in a result: give --result PATH, too")
  if not command:
    words = ["fmjax", "report", *map(str, places), "--out", str(out)]
    words += ["--figure", str(figure)] if figure else []
    command = shlex.join([*words, "--result", str(result)])
  content = write_report(
    places, out, figure_path=figure, result_path=result, command=command
  )
  head, _, *rows = [
    line.strip("| ").split(" | ")
    for line in markdown.table(content).splitlines()
  ]
  terminal.table(head, rows)
  for line in markdown.verdicts(content):
    terminal.show(line)
  for note in content["notes"]:
    terminal.say(f"note: {note}")
  written = [
    out / "report.md",
    content["figure"],
    *([result] if result else []),
  ]
  terminal.say(f"written: {', '.join(map(str, written))}")
  return content

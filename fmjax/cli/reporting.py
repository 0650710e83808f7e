"""A report, written to a folder and shown."""

import pathlib
from collections.abc import Sequence
from typing import Any

from fmjax.cli.terminal import Terminal
from fmjax.scaling import markdown
from fmjax.scaling.report import report as write_report


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  figure: pathlib.Path | None,
  terminal: Terminal,
) -> dict[str, Any]:
  """The content of report.json; its table goes to the terminal."""
  content = write_report(places, out, figure_path=figure)
  head, _, *rows = [
    line.strip("| ").split(" | ")
    for line in markdown.table(content).splitlines()
  ]
  terminal.table(head, rows)
  for metric, finding in content["findings"].items():
    terminal.show(f"{metric.upper()}: {finding}")
  for name, (low, high) in content["compare"].items():
    terminal.show(
      f"{content['best']} {name.removeprefix('best_').replace('_', ' ', 1)},"
      f" {content['compare_metric']}:"
      f" {content['compare_difference'][name]:+.4f} [{low:+.4f}, {high:+.4f}]"
    )
  for note in content["notes"]:
    terminal.say(f"note: {note}")
  terminal.say(f"written: {out / 'report.md'}, {content['figure']}")
  return content

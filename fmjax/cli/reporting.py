"""Reports, written to a folder and shown."""

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from fmjax.cli.sweeping import root_of
from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError
from fmjax.scaling import paired, records
from fmjax.scaling.report import report as write_report
from fmjax.scaling.reports import ablation, markdown, transfer
from fmjax.scaling.rungs import find_runs
from fmjax.scaling.sweep import plan


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  figure: pathlib.Path | None,
  terminal: Terminal,
  *,
  runs: pathlib.Path | None = None,
  result: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """The content of report.json; its table goes to the terminal."""
  _refuse_command_alone(command, result)
  content = write_report(
    _located(places, runs),
    out,
    figure_path=figure,
    result_path=result,
    command=command or _command(places, out, figure, runs=runs, result=result),
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


def report_rates(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  figure: pathlib.Path | None,
  terminal: Terminal,
  *,
  runs: pathlib.Path | None = None,
  result: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """The content of transfer.json; best rates by width go to the terminal."""
  _refuse_command_alone(command, result)
  words = _command(places, out, figure, runs=runs, result=result, how="--rates")
  content = transfer.report(
    _located(places, runs),
    out,
    figure_path=figure,
    result_path=result,
    command=command or words,
  )
  rows = [
    (
      f"{curve['width']}",
      transfer.NAMES[scale],
      f"{curve['best_rate']:g}",
      f"{min(curve['validation_nll']):.4f}",
    )
    for scale, curves in content["curves"].items()
    for curve in curves
  ]
  terminal.table(("width", "", "best rate", "validation NLL"), rows)
  for line in transfer.verdicts(content):
    terminal.show(line)
  for note in content["notes"]:
    terminal.say(f"note: {note}")
  terminal.say(f"written: {out / 'transfer.json'}, {content['figure']}")
  return content


def _refuse_command_alone(command: str, result: pathlib.Path | None) -> None:
  if command and result is None:
    raise ConfigError("--command is kept in a result: give --result PATH, too")


def _command(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  figure: pathlib.Path | None,
  *,
  runs: pathlib.Path | None,
  result: pathlib.Path | None,
  how: str = "",
) -> str:
  """What regenerates a result."""
  words = ["fmjax", "report", *map(str, places), *_option(runs)]
  words += [how] if how else []
  words += ["--out", str(out)]
  words += ["--figure", str(figure)] if figure else []
  return shlex.join([*words, "--result", str(result)])


def write_records(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  terminal: Terminal,
  *,
  runs: pathlib.Path | None = None,
) -> dict[str, Any]:
  """Only the two tables, of runs of any kind."""
  run_dirs, notes = find_runs(_located(places, runs))
  written = [
    str(path) for path in records.write_tables(run_dirs, out, together=False)
  ]
  for note in notes:
    terminal.say(f"note: {note}")
  terminal.show(f"{len(run_dirs)} runs: {', '.join(written)}")
  return {"runs": len(run_dirs), "tables": written, "notes": notes}


def report_arms(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  terminal: Terminal,
  *,
  reference: str,
  runs: pathlib.Path | None = None,
  result: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """The content of ablation.json; a table a data set goes to the terminal."""
  if command and result is None:
    raise ConfigError("--command is kept in results: give --result PATH, too")
  if not command:
    words = ["fmjax", "report", *map(str, places), *_option(runs)]
    words += ["--reference", reference]
    command = shlex.join([*words, "--out", str(out), "--result", str(result)])
  content = ablation.report(
    _located(places, runs),
    out,
    reference=reference,
    result=result,
    command=command,
  )
  for data, arms in content["arms"].items():
    for part in paired.SLICES:
      if not any(arm["slices"][part]["queries"] for arm in arms.values()):
        continue
      head = (f"{data}, {part}", "NLL", "NDCG@10", f"NDCG@10 - {reference}'s")
      rows = [(name, *_row(arm["slices"][part])) for name, arm in arms.items()]
      terminal.table((*head, "gap closed"), rows)
  for note in content["notes"]:
    terminal.say(f"note: {note}")
  written = [out / "ablation.json", *([result] if result else [])]
  terminal.say(f"written: {', '.join(map(str, written))}")
  return content


def _option(runs: pathlib.Path | None) -> list[str]:
  return ["--runs", str(runs)] if runs else []


def _located(
  places: Sequence[pathlib.Path], runs: pathlib.Path | None
) -> list[pathlib.Path]:
  """An experiment file stands for the list of its runs."""
  files = [place for place in places if place.suffix == ".py"]
  if runs is not None and not files:
    raise ConfigError(
      f"--runs {runs} tells where the runs of an experiment file are, and"
      f" {', '.join(map(str, places))} is none: leave it out"
    )
  return [
    plan.list_path(root_of(place, runs), place.stem)
    if place in files
    else place
    for place in places
  ]


def _row(found: dict[str, Any]) -> tuple[str, str, str, str]:
  if not found["queries"]:
    return "", "", "", ""
  gain = closed = ""
  if "to_reference" in found:
    compared = found["to_reference"]["ndcg@10"]
    low, high = compared["interval"]
    gain = f"{compared['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
  if "gap_closed" in found:
    low, high = found["gap_closed_ci"]
    closed = f"{found['gap_closed']:.3f} [{low:.3f}, {high:.3f}]"
  return f"{found['nll']:.3f}", f"{found['ndcg@10']:.4f}", gain, closed

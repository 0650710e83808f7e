"""Preparing a log, for people who watch."""

from typing import Any

from fmjax.cli.terminal import Terminal
from fmjax.config import (
  EventTokens,
  Granularity,
  LeaveLastOut,
  RunTokens,
  Split,
  TemporalSplit,
)
from fmjax.data.prepare import Progress
from fmjax.data.store import Prepared


def granularity_of(name: str, *, max_gap_s: int) -> Granularity:
  match name:
    case "event":
      return EventTokens()
    case "run":
      return RunTokens(max_gap_s=max_gap_s)
  raise ValueError(f"{name=} is no granularity")


def split_of(name: str, *, validation: float, test: float) -> Split:
  match name:
    case "temporal":
      return TemporalSplit(validation=validation, test=test)
    case "leave-last-out":
      return LeaveLastOut()
  raise ValueError(f"{name=} is no split")


def progress(terminal: Terminal) -> Progress:
  """What `prepare` calls when a stage is done."""
  return lambda stage, count: terminal.say(f"  {stage}: {count:,}")


def show(prepared: Prepared, terminal: Terminal) -> dict[str, Any]:
  """The manifest's counts as a table; the JSON of `fmjax prepare`."""
  counts = prepared.manifest["counts"]
  terminal.table(("", prepared.schema.source), _rows(counts))
  terminal.say(f"written: {prepared.path}")
  return {
    "out": str(prepared.path),
    "source": prepared.schema.source,
    "data_checksum": prepared.checksum,
    "cuts": prepared.manifest["cuts"],
    "counts": counts,
  }


def _rows(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  rows: list[tuple[str, Any]] = []
  for name, value in counts.items():
    label = prefix + name.replace("_", " ")
    if isinstance(value, dict) and value:
      rows += _rows(value, f"{label}: ")
    else:
      rows.append((label, value or 0))
  return rows

"""What every benchmark writes beside its numbers: machine, versions, code."""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

from experiments.bench.protocol import ROOT
from fmjax.scaling import records

RESULTS = ROOT / "analysis" / "results" / "bench"

# Beside those of every committed result.
_LIBRARIES = ("duckdb", "ibis-framework", "orbax-checkpoint", "pyarrow")


def write(
  path: pathlib.Path, *, command: str, result: Mapping[str, Any]
) -> None:
  """Writes `result` with the facts that its numbers depend on.

  Args:
    path: of the JSON file; replaced whole.
    command: that makes these numbers again.
    result: measured; its keys are the file's.
  """
  facts = {
    "command": command,
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "machine": machine(),
    "versions": versions(),
    "code_hash": records.code_hash(),
  }
  if twice := facts.keys() & result.keys():
    raise ValueError(f"a result cannot say {', '.join(sorted(twice))} itself")
  records.write_json(path, {**facts, **result})


def machine() -> dict[str, Any]:
  pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return {
    "cpu": _cpu_model(),
    "architecture": platform.machine(),
    "cores": os.cpu_count(),
    "memory_bytes": pages,
    "system": platform.system(),
  }


def versions() -> dict[str, str]:
  return {
    **records.versions(),
    **{name: importlib.metadata.version(name) for name in _LIBRARIES},
  }


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
  """The command line of `python -m experiments.bench.NAME`, with `--out`."""
  name = command.rpartition(".")[2]
  found = argparse.ArgumentParser(
    prog=command,
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  found.add_argument(
    "--out",
    type=pathlib.Path,
    default=RESULTS / f"{name}.json",
    help="the JSON file to write",
  )
  return found


def _cpu_model() -> str:
  """As Linux names it; where there is no /proc, as Python does."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  named = (line for line in lines if line.startswith("model name"))
  return next(named, platform.processor()).partition(":")[2].strip()

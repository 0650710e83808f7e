"""What a run says while it works: JSON lines, TensorBoard, a progress bar.

Analysis reads only `metrics.jsonl`; TensorBoard is for looking.
"""

import json
import math
import os
import pathlib
import time
from typing import Any

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from tensorboard.summary import Writer

_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


class MetricsLog:
  """Appends to `metrics.jsonl`, one JSON object a line, and to TensorBoard."""

  def __init__(self, run_dir: pathlib.Path, *, from_step: int):
    """Opens the log, dropping what a killed run wrote after `from_step`."""
    path = run_dir / "metrics.jsonl"
    kept = [r for r in read_metrics(path) if r["step"] <= from_step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(r) + "\n" for r in kept))
    os.replace(partial, path)
    self._file = path.open("a")
    self._events = Writer(str(run_dir / "tensorboard"))

  def write(self, step: int, **metrics: float) -> None:
    self._file.write(json.dumps({"step": step, **metrics}) + "\n")
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step=step)

  def close(self) -> None:
    self._file.close()
    self._events.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a `metrics.jsonl`; a line cut by a kill is not one."""
  if not path.exists():
    return []
  records = []
  for line in path.read_bytes().splitlines():
    try:
      records.append(json.loads(line))
    except ValueError:
      break
  return records


def copy_metrics(
  from_dir: pathlib.Path, to_dir: pathlib.Path, *, to_step: int
) -> None:
  """Gives a run the history that it shares with another one."""
  shared = [
    record
    for record in read_metrics(from_dir / "metrics.jsonl")
    if record["step"] <= to_step
  ]
  lines = "".join(json.dumps(record) + "\n" for record in shared)
  (to_dir / "metrics.jsonl").write_text(lines)


class TrainingProgress:
  """Step, loss, tokens/s and ETA on stderr: a bar, or lines in a file."""

  def __init__(self, name: str, *, start: int, steps: int):
    self._name, self._start, self._steps = name, start, steps
    self._began = self._said = time.monotonic()
    console = Console(stderr=True)
    self._bar = None
    if console.is_terminal:
      self._bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=console,
      )
      self._bar.start()
      self._task = self._bar.add_task(
        name, total=steps, completed=start, facts=""
      )
    self._console = console

  def update(self, step: int, *, loss: float, tokens_per_s: float) -> None:
    facts = f"loss {loss:.3f} · {tokens_per_s:,.0f} tokens/s"
    if self._bar is not None:
      self._bar.update(self._task, completed=step, facts=facts)
      return
    now = time.monotonic()
    if now - self._said < _PLAIN_SECONDS and step < self._steps:
      return
    self._said = now
    rate = (now - self._began) / max(1, step - self._start)
    eta = math.ceil(rate * (self._steps - step))
    self._console.print(
      f"{self._name}: step {step}/{self._steps} · {facts} ·"
      f" {eta // 60}:{eta % 60:02d} left",
      highlight=False,
      soft_wrap=True,
    )

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()

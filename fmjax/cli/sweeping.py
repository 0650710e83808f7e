"""Running the experiments of a file, and telling how they stand."""

import pathlib
import tempfile
from typing import Any

import jax

from fmjax.cli import process
from fmjax.cli.experiment_file import ExperimentFile
from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError, override
from fmjax.data.prepare import ensure_prepared
from fmjax.scaling import launch, records
from fmjax.train.loop import RunError
from fmjax.train.loop import train as train_loop
from fmjax.train.stop import on_sigterm

_PROFILED_STEPS = 10  # the first compiles


def root_of(file: pathlib.Path, runs: pathlib.Path | None) -> pathlib.Path:
  """Where a file's runs go: runs/<its name>, unless told otherwise."""
  return runs or pathlib.Path("runs") / file.stem


class SweepError(RunError):
  """Some runs failed; `content` tells of all of them."""

  def __init__(self, sentence: str, content: dict[str, Any]):
    super().__init__(sentence)
    self.content = content


def train(
  file: ExperimentFile, root: pathlib.Path, terminal: Terminal
) -> dict[str, Any]:
  """Each experiment in turn; the first failure ends it."""
  done = []
  process.keep_compiled()
  with on_sigterm() as stop:
    entries = launch.plan(file.experiments, root)
    if file.whole:
      launch.write_list(root, file.path.stem, entries)
    for entry in entries:
      name, run_dir = entry.name, entry.run_dir
      launch.execute(
        entry.experiment, name=name, root=root, prepared=entry.prepared
      )
      state = launch.state_of(run_dir)
      result = records.read_json(run_dir / "result.json") or {}
      done.append({"run_dir": str(run_dir), "state": state, **result})
      if state == "done":
        _tell(name, run_dir, result["test"], terminal)
      else:
        terminal.show(f"{name}: {state}, the same command goes on: {run_dir}")
      if stop.requested:
        break
  return {"runs": done}


def profile(
  file: ExperimentFile, root: pathlib.Path, terminal: Terminal
) -> dict[str, Any]:
  """A few steps of one experiment under JAX's profiler; kept as no run."""
  if len(file.experiments) != 1:
    raise ConfigError(
      f"--profile traces one experiment: write {file.path}:NAME with one of"
      f" {', '.join(file.experiments)}"
    )
  ((name, experiment),) = file.experiments.items()
  prepared = ensure_prepared(experiment.data)
  root.mkdir(parents=True, exist_ok=True)
  folder = tempfile.mkdtemp(prefix=f"profile-{name}-", dir=root)
  run_dir = pathlib.Path(folder)
  short = override(experiment, {"run.steps": _PROFILED_STEPS})
  with jax.profiler.trace(str(run_dir / "tensorboard")):
    train_loop(short, prepared, run_dir, name=f"profile of {name}")
  terminal.show(
    f"{_PROFILED_STEPS} steps traced: tensorboard --logdir"
    f" {run_dir / 'tensorboard'} (its profile tab is the package xprof)"
  )
  return {"trace": str(run_dir / "tensorboard"), "steps": _PROFILED_STEPS}


def sweep(
  file: ExperimentFile,
  root: pathlib.Path,
  terminal: Terminal,
  *,
  retry_failed: bool,
) -> dict[str, Any]:
  """Every experiment once; a failed one is marked and the sweep goes on."""
  process.keep_compiled()
  rows = launch.sweep(
    file.experiments,
    root,
    listed=file.path.stem if file.whole else "",
    retry_failed=retry_failed,
    say=terminal.say,
  )
  for row in rows:
    if row.test:
      _tell(row.name, row.run_dir, row.test, terminal)
  content = {"root": str(root), "runs": [row.to_dict() for row in rows]}
  failed = [row for row in rows if row.state == "failed"]
  if failed:
    raise SweepError(
      f"{len(failed)} of {len(rows)} runs failed, first {failed[0].name}:"
      f" {failed[0].error}; --retry-failed tries again",
      content,
    )
  return content


def status(
  file: ExperimentFile, root: pathlib.Path, terminal: Terminal
) -> dict[str, Any]:
  """How each experiment stands; nothing is run."""
  rows = []
  for entry in launch.plan(file.experiments, root):
    run_dir = entry.run_dir
    saved = records.read_json(run_dir / "status.json") or {}
    rows.append(
      {
        "name": entry.name,
        "state": launch.state_of(run_dir),
        "step": saved.get("step"),
        "error": saved.get("error"),
        "run_dir": str(run_dir),
      }
    )
  terminal.table(
    ("experiment", "state", "step", "run"),
    [(r["name"], r["state"], r["step"], r["run_dir"]) for r in rows],
  )
  return {"root": str(root), "runs": rows}


def _tell(
  name: str, run_dir: pathlib.Path, test: Any, terminal: Terminal
) -> None:
  terminal.show(
    f"{name}: test NLL {test['nll']:.3f} · HR@10 {test['hr@10']:.4f} ·"
    f" NDCG@10 {test['ndcg@10']:.4f} · {run_dir}"
  )

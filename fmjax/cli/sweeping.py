"""Running the experiments of a file, and telling how they stand."""

import math
import pathlib
import tempfile
from typing import Any

import jax

from fmjax.cli import arguments, process
from fmjax.cli.experiment_file import ExperimentFile
from fmjax.cli.progress import SweepProgress, in_words
from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError, override, suggest
from fmjax.data.prepare import ensure_prepared
from fmjax.scaling import launch, records
from fmjax.scaling.sweep import executors, parallel, plan, run_state
from fmjax.scaling.sweep.executors import Local, Slurm
from fmjax.scaling.sweep.standing import counts, standing
from fmjax.train.loop import RunError
from fmjax.train.loop import train as train_loop
from fmjax.train.stop import on_sigterm

_PROFILED_STEPS = 10  # the first compiles


def root_of(file: pathlib.Path, runs: pathlib.Path | None) -> pathlib.Path:
  """Where a file's runs go: runs/<its name>, unless told otherwise."""
  return runs or pathlib.Path("runs") / file.stem


def launcher_of(name: str, *, jobs: int, options: str) -> Local | Slurm:
  """What `--launcher`, `--jobs` and `--slurm` mean together.

  Raises:
    ConfigError: they do not go together, or a value is out of its range.
  """
  if jobs < 1:
    raise ConfigError(f"--jobs {jobs} would train nothing: give 1 or more")
  if name != "slurm":
    if options:
      raise ConfigError(
        f"--slurm {options} is for jobs under Slurm: add --launcher slurm"
      )
    return Local(jobs=jobs)
  kinds = {**_TEXTS, **_WHOLE, **_REAL}
  values: dict[str, Any] = {}
  given = arguments.pairs(options, "--slurm") if options else {}
  for option, text in given.items():
    if option not in kinds:
      raise ConfigError(
        f"--slurm has no {option!r}" + suggest(option, list(kinds))
      )
    try:
      value = kinds[option](text)
    except ValueError:
      value = math.nan
    if not isinstance(value, str) and not 0 < value < math.inf:
      raise ConfigError(
        f"--slurm {option}={text} is no positive"
        f" {'whole number' if option in _WHOLE else 'number'}"
      )
    values[option] = value
  return Slurm(jobs=jobs, **values)


_TEXTS = dict.fromkeys(("partition", "account", "qos", "constraint"), str)
_WHOLE = dict.fromkeys(("cpus", "gpus"), int)
_REAL = dict.fromkeys(("hours", "memory_gb"), float)


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
    entries = plan.plan(file.experiments, root)
    if file.whole:
      plan.write_list(root, file.path.stem, entries)
    for entry in entries:
      name, run_dir = entry.name, entry.run_dir
      launch.execute(
        entry.experiment, name=name, root=root, prepared=entry.prepared
      )
      state = run_state.state_of(run_dir)
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
  launcher: Local | Slurm,
  retry_failed: bool,
) -> dict[str, Any]:
  """Every experiment once; a failed one is marked and the sweep goes on."""
  process.keep_compiled()
  listed = file.path.stem if file.whole else ""
  if launcher == Local(jobs=1):  # here, where its steps can be watched
    rows = launch.sweep(
      file.experiments,
      root,
      listed=listed,
      retry_failed=retry_failed,
      say=terminal.say,
    )
  else:
    with SweepProgress(terminal) as progress:
      rows = parallel.sweep(
        file.experiments,
        root,
        launcher=launcher,
        listed=listed,
        retry_failed=retry_failed,
        setup=process.keep_compiled,
        say=terminal.say,
        watch=progress.update,
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
  """How each experiment stands; nothing is trained, and nobody disturbed."""
  queued = executors.queued(root)
  rows = [
    standing(entry, queued=entry.run_dir.absolute() in queued)
    for entry in plan.plan(file.experiments, root)
  ]
  terminal.table(
    ("experiment", "state", "step", "tokens/s", "seconds", "starts", "run"),
    [
      (
        row.name,
        row.state,
        f"{row.step:,} / {row.steps:,}",
        row.tokens_per_s and round(row.tokens_per_s),
        row.wall_s and round(row.wall_s),
        row.starts,
        row.run_dir,
      )
      for row in rows
    ],
  )
  for row in rows:
    if row.error is not None:
      terminal.show(f"{row.name}: {row.cause or 'failed'}: {row.error}")
  counted = counts(rows)
  terminal.show(in_words(counted, total=len(rows)))
  return {
    "root": str(root),
    "counts": counted,
    "runs": [row.to_dict() for row in rows],
  }


def _tell(
  name: str, run_dir: pathlib.Path, test: Any, terminal: Terminal
) -> None:
  terminal.show(
    f"{name}: test NLL {test['nll']:.3f} · HR@10 {test['hr@10']:.4f} ·"
    f" NDCG@10 {test['ndcg@10']:.4f} · {run_dir}"
  )

"""Run directories: finding one, reading it, comparing two."""

import difflib
import pathlib
from typing import Any

from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError, Experiment, Targets, from_dict
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.data.store import Prepared
from fmjax.eval.baselines import baselines
from fmjax.eval.compare import compare
from fmjax.eval.ranked import Ranked, from_parquet
from fmjax.eval.timeline import SplitName
from fmjax.model.recommender import Recommender
from fmjax.scaling.records import read_json
from fmjax.train.loop import RunError, load_selected


def find(place: pathlib.Path) -> pathlib.Path:
  """The directory of a run; its id may be left off, as in runs/x/d64."""
  if _is_run(place):
    return place
  siblings = [path for path in sorted(place.parent.glob("*")) if _is_run(path)]
  named = [p for p in siblings if p.name.rpartition("-")[0] == place.name]
  if len(named) == 1:
    return named[0]
  if named:
    raise ConfigError(
      f"{place} names {len(named)} runs: give one of"
      f" {', '.join(map(str, named))}"
    )
  known = {path.name.rpartition("-")[0]: path for path in siblings}
  near = difflib.get_close_matches(place.name, known, n=1, cutoff=0.5)
  remedy = f"did you mean {known[near[0]]}?" if near else "train one first"
  raise ConfigError(f"{place} is no run of fmjax; {remedy}")


def compare_runs(
  first: pathlib.Path,
  second: pathlib.Path,
  terminal: Terminal,
  *,
  metric: str,
  split: SplitName,
  targets: Targets,
) -> dict[str, Any]:
  """The paired difference first - second over users.

  Args:
    first: a run.
    second: another run of the same data, or the name of a baseline.
    terminal: where it is told.
    metric: any mean over queries.
    split: of the targets.
    targets: first of each user, or all.
  """
  one = find(first)
  ranked_one = _ranks(one, split=split, targets=targets)
  if second.exists() or second.parent != pathlib.Path():
    two = find(second)
    ranked_two, name = _ranks(two, split=split, targets=targets), two.name
  else:
    _, prepared = open_run(one)
    known = baselines(prepared, split=split, targets=targets)
    name = second.name
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      remedy = f"did you mean {near[0]!r}?" if near else ", ".join(known)
      raise ConfigError(f"{name} is neither a run nor a baseline; {remedy}")
    ranked_two = known[name]
  result = compare(ranked_one, ranked_two, metric=metric)
  low, high = result.interval
  terminal.show(
    f"{metric} ({split}): {one.name} {result.first:.4f} − {name}"
    f" {result.second:.4f} = {result.difference:+.4f} [{low:+.4f},"
    f" {high:+.4f}], 95 %, {result.users:,} users paired"
    f"{'' if result.separates else ': no difference shown'}"
  )
  return {
    "first": str(one),
    "second": name if second.name == name else str(second),
    "metric": metric,
    "split": split,
    "targets": targets,
    "first_value": result.first,
    "second_value": result.second,
    "difference": result.difference,
    "interval": list(result.interval),
    "users": result.users,
    "queries": result.queries,
    "separates": result.separates,
  }


def _is_run(path: pathlib.Path) -> bool:
  return (path / "config.json").is_file()


def open_run(run_dir: pathlib.Path) -> tuple[Experiment, Prepared]:
  """The experiment of a run and its data, if they are still the same.

  Raises:
    DataError: they are not: rows of users and items would mean others.
  """
  experiment = from_dict(read_json(run_dir / "config.json"))
  prepared = ensure_prepared(experiment.data)
  facts = read_json(run_dir / "result.json") or read_json(
    run_dir / "status.json"
  )
  trained_on = (facts or {}).get("data_checksum", prepared.checksum)
  if trained_on != prepared.checksum:
    raise DataError(
      f"{run_dir} was trained on data {trained_on}, but they are now"
      f" {prepared.checksum}: bring those data back, or train again"
    )
  return experiment, prepared


def load(
  experiment: Experiment, prepared: Prepared, run_dir: pathlib.Path
) -> tuple[Recommender, int]:
  try:
    return load_selected(experiment, prepared, run_dir)
  except (OSError, ValueError, KeyError) as error:
    said = " ".join(str(error).split())
    raise RunError(
      f"the model of {run_dir} cannot be read ({said}): train it again"
    ) from error


def ranks_path(
  run_dir: pathlib.Path, *, split: SplitName, targets: Targets
) -> pathlib.Path:
  # test.parquet is what a finished run holds: the first target of each user.
  name = split if targets == "first" else f"{split}-{targets}"
  return run_dir / f"{name}.parquet"


def _ranks(
  run_dir: pathlib.Path, *, split: SplitName, targets: Targets
) -> Ranked:
  path = ranks_path(run_dir, split=split, targets=targets)
  if not path.is_file():
    options = f" --split {split}" if split != "test" else ""
    options += f" --targets {targets}" if targets != "first" else ""
    raise ConfigError(
      f"{run_dir} holds no ranks of the {split} split: run fmjax evaluate"
      f" {run_dir}{options}"
    )
  return from_parquet(path)

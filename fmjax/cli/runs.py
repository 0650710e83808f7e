"""Run directories: finding one, asking it again, comparing two."""

import difflib
import pathlib
from collections.abc import Mapping
from typing import Any

from fmjax import mesh
from fmjax.cli.terminal import Terminal
from fmjax.config import (
  AsLogged,
  ConfigError,
  Experiment,
  Masked,
  SometimesNeutral,
  from_dict,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError, Encoded
from fmjax.data.store import Prepared
from fmjax.eval.baselines import baselines
from fmjax.eval.compare import compare
from fmjax.eval.evaluate import evaluate
from fmjax.eval.heads import evaluate_head
from fmjax.eval.popularity import LIFT, measured
from fmjax.eval.ranked import Ranked, from_parquet
from fmjax.eval.slices import slices
from fmjax.eval.timeline import SplitName, Targets
from fmjax.model.recommender import Recommender
from fmjax.model.request import neutral_fields
from fmjax.scaling.records import read_json
from fmjax.train.loop import RunError, load_selected

_SHOWN = ("nll", "hr@10", "ndcg@10", "mrr", "coverage@10", LIFT)


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


def evaluate_run(
  run_dir: pathlib.Path,
  terminal: Terminal,
  *,
  split: SplitName,
  targets: Targets,
  by_slice: bool,
  neutral: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Ranks a split's targets by the selected step, next to the baselines.

  Args:
    run_dir: a run.
    terminal: where it is told.
    split: of the targets.
    targets: first of each user, or all.
    by_slice: also by parts of the targets.
    neutral: request-time features; once more without them.
  """
  experiment, prepared = _open(run_dir)
  fields = _askable(experiment, prepared, targets=targets, neutral=neutral)
  run = experiment.run
  untold = None
  with mesh.use(mesh.make_mesh(data=run.mesh_data, model=run.mesh_model)):
    model, step = _load(experiment, prepared, run_dir)
    ranked = evaluate(
      model, prepared, experiment.data, split=split, targets=targets
    )
    if neutral:
      untold = evaluate(
        model.untold(fields),
        prepared,
        experiment.data,
        split=split,
        targets=targets,
      )
  ranked.to_parquet(_ranks_path(run_dir, split=split, targets=targets))
  result: dict[str, Any] = {
    "run": str(run_dir),
    "selected_step": step,
    "split": split,
    "targets": targets,
    "seen_filtered": ranked.seen_filtered,
    split: measured(ranked, prepared),
    "baselines": {
      name: measured(answer, prepared)
      for name, answer in baselines(
        prepared, split=split, targets=targets
      ).items()
    },
  }
  rows = {run_dir.name: result[split]}
  if untold is not None:
    result["neutral"] = {
      "names": list(neutral),
      split: measured(untold, prepared),
    }
    rows[f"without {', '.join(neutral)}"] = result["neutral"][split]
  rows |= result["baselines"]
  terminal.table(("", *_SHOWN), [_row(n, m) for n, m in rows.items()])
  terminal.say(
    f"{result[split]['queries']:,} targets ({targets}) of the {split} split,"
    f" step {step}, 95 % intervals over users"
  )
  if by_slice:
    result["slices"] = slices(ranked)
    for kind, parts in result["slices"].items():
      terminal.table(
        (f"by {kind}", "queries", *_SHOWN),
        [
          (name, part["queries"], *_row(name, part)[1:])
          for name, part in parts.items()
        ],
      )
  return result


def evaluate_head_of_run(
  run_dir: pathlib.Path,
  terminal: Terminal,
  *,
  head: str,
  split: SplitName,
  targets: Targets,
) -> dict[str, Any]:
  """What the selected step says of a field, next to what needs no model."""
  experiment, prepared = _open(run_dir)
  _require_order(experiment, targets=targets)
  run = experiment.run
  with mesh.use(mesh.make_mesh(data=run.mesh_data, model=run.mesh_model)):
    model, step = _load(experiment, prepared, run_dir)
    found = evaluate_head(
      model, prepared, experiment.data, head, split=split, targets=targets
    )
  methods = {run_dir.name: found["model"], **found["baselines"]}
  metrics = [name for name in found["model"] if not name.endswith("_ci")]
  terminal.table(
    (head, *metrics),
    [
      (name, *(_with_interval(of, metric) for metric in metrics))
      for name, of in methods.items()
    ],
  )
  for method, differences in found["compare"].items():
    for metric, of in differences.items():
      low, high = of["interval"]
      terminal.show(
        f"{metric}: {run_dir.name} − {method} = {of['difference']:+.4f}"
        f" [{low:+.4f}, {high:+.4f}]"
        f"{'' if of['separates'] else ': no difference shown'}"
      )
  terminal.say(
    f"{found['queries']:,} targets ({targets}) of the {split} split whose"
    f" {head} is known, step {step}, 95 % intervals over {found['users']:,}"
    " users, differences paired"
  )
  return {
    "run": str(run_dir),
    "selected_step": step,
    "split": split,
    "targets": targets,
    **found,
  }


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
    _, prepared = _open(one)
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


def _open(run_dir: pathlib.Path) -> tuple[Experiment, Prepared]:
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


def _require_order(experiment: Experiment, *, targets: Targets) -> None:
  """Refuses all targets of a model that reads both ways.

  Raises:
    ConfigError: it does.
  """
  reading = experiment.model.reading
  if targets == "all" and isinstance(reading, Masked):
    raise ConfigError(
      f"--targets all of a run with model.reading={reading} would show a query"
      " what comes after it; ask --targets first"
    )


def _askable(
  experiment: Experiment,
  prepared: Prepared,
  *,
  targets: Targets,
  neutral: tuple[str, ...],
) -> tuple[Encoded, ...]:
  """The features of `neutral`.

  Raises:
    ConfigError: the run cannot be asked in this way.
  """
  model = experiment.model
  _require_order(experiment, targets=targets)
  if neutral and targets == "all":
    raise ConfigError(
      f"--neutral {','.join(neutral)} with --targets all would change the"
      " history, in which earlier targets are; ask --targets first"
    )
  match model.request:
    case SometimesNeutral(names=names):
      known = names
    case AsLogged():
      known = ()
  # A misspelled name first: no training would help.
  fields = neutral_fields(model, prepared.spec, neutral, place="--neutral")
  if always := [name for name in neutral if name not in known]:
    remedy = SometimesNeutral(names=(*known, *always))
    raise ConfigError(
      f"--neutral {','.join(always)} would ask the run what it never met: it"
      f" was always told; train one with model.request={remedy}"
    )
  if neutral and set(neutral) != set(known):
    raise ConfigError(
      f"--neutral {','.join(neutral)} would ask the run what it never met: in"
      f" training {', '.join(known)} were neutral together; ask --neutral"
      f" {','.join(known)}"
    )
  return fields


def _load(
  experiment: Experiment, prepared: Prepared, run_dir: pathlib.Path
) -> tuple[Recommender, int]:
  try:
    return load_selected(experiment, prepared, run_dir)
  except (OSError, ValueError, KeyError) as error:
    said = " ".join(str(error).split())
    raise RunError(
      f"the model of {run_dir} cannot be read ({said}): train it again"
    ) from error


def _ranks_path(
  run_dir: pathlib.Path, *, split: SplitName, targets: Targets
) -> pathlib.Path:
  # test.parquet is what a finished run holds: the first target of each user.
  name = split if targets == "first" else f"{split}-{targets}"
  return run_dir / f"{name}.parquet"


def _ranks(
  run_dir: pathlib.Path, *, split: SplitName, targets: Targets
) -> Ranked:
  path = _ranks_path(run_dir, split=split, targets=targets)
  if not path.is_file():
    options = f" --split {split}" if split != "test" else ""
    options += f" --targets {targets}" if targets != "first" else ""
    raise ConfigError(
      f"{run_dir} holds no ranks of the {split} split: run fmjax evaluate"
      f" {run_dir}{options}"
    )
  return from_parquet(path)


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[object, ...]:
  return (name, *(_with_interval(metrics, metric) for metric in _SHOWN))


def _with_interval(metrics: Mapping[str, Any], metric: str) -> str | None:
  if metric not in metrics:
    return None
  text = f"{metrics[metric]:.4f}"
  if interval := metrics.get(f"{metric}_ci"):
    text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
  return text

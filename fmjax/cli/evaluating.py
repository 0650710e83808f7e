"""Asking trained runs again: as logged, without some features, or a head.

Several runs are seeds of one experiment: their answers are averaged.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fmjax import mesh
from fmjax.cli import runs
from fmjax.cli.terminal import Terminal
from fmjax.config import (
  AsLogged,
  ConfigError,
  Experiment,
  Masked,
  SometimesNeutral,
  Targets,
)
from fmjax.data.schema import Encoded
from fmjax.data.store import Prepared
from fmjax.eval.baselines import baselines
from fmjax.eval.evaluate import evaluate
from fmjax.eval.heads import evaluate_head
from fmjax.eval.popularity import LIFT, measured
from fmjax.eval.slices import slices
from fmjax.eval.timeline import SplitName
from fmjax.model.request import neutral_fields
from fmjax.scaling import measure, records, rungs
from fmjax.scaling.paired import METRICS, difference
from fmjax.scaling.sweep import run_state

_SHOWN = ("nll", "hr@10", "ndcg@10", "mrr", "coverage@10", LIFT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeds:
  """Trained runs of one experiment, which differ by seed alone."""

  run_dirs: tuple[pathlib.Path, ...]
  experiment: Experiment  # of the first
  prepared: Prepared

  @property
  def name(self) -> str:
    count = len(self.run_dirs)
    first = self.run_dirs[0].name
    return first if count == 1 else f"{first} and {count - 1} more"

  def facts(self) -> list[dict[str, Any]]:
    """Their `result.json`s.

    Raises:
      ConfigError: a run is not finished.
    """
    for run_dir in self.run_dirs:
      if (state := run_state.state_of(run_dir)) != "done":
        raise ConfigError(
          f"{run_dir} is not finished but {state}, and only finished runs are"
          " averaged or committed: train it to its end first"
        )
    return [
      records.read_json(run_dir / "result.json") or {}
      for run_dir in self.run_dirs
    ]

  @property
  def mesh(self) -> Any:
    run = self.experiment.run
    return mesh.use(mesh.make_mesh(data=run.mesh_data, model=run.mesh_model))


def find(places: Sequence[pathlib.Path]) -> Seeds:
  """The runs of those places.

  Raises:
    ConfigError: several are no finished seeds of one experiment.
  """
  run_dirs = tuple(dict.fromkeys(map(runs.find, places)))
  experiment, prepared = runs.open_run(run_dirs[0])
  seeds = Seeds(run_dirs=run_dirs, experiment=experiment, prepared=prepared)
  if len(run_dirs) > 1:
    _require_seeds(seeds)
  return seeds


def _require_seeds(seeds: Seeds) -> None:
  facts = seeds.facts()
  first = seeds.run_dirs[0]
  known: dict[int, pathlib.Path] = {}
  for run_dir, result in zip(seeds.run_dirs, facts, strict=True):
    if rungs.but_seed(run_dir) != rungs.but_seed(first):
      raise ConfigError(
        f"{first} and {run_dir} differ by more than their seed (in their"
        " configuration, data, or the code that trained them), so their answers"
        " cannot be averaged: evaluate each alone, or use fmjax compare"
      )
    if (twin := known.setdefault(result["seed"], run_dir)) != run_dir:
      raise ConfigError(
        f"{twin} and {run_dir} have the same seed"
        f" {result['seed']}: leave one out"
      )


def evaluate_runs(
  seeds: Seeds,
  terminal: Terminal,
  *,
  split: SplitName,
  targets: Targets,
  by_slice: bool,
  neutral: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Ranks a split's targets by the selected steps, next to the baselines.

  Args:
    seeds: runs.
    terminal: where it is told.
    split: of the targets.
    targets: first of each user, or all.
    by_slice: also by parts of the targets.
    neutral: request-time features; once more without them.
  """
  experiment, prepared = seeds.experiment, seeds.prepared
  fields = _askable(experiment, prepared, targets=targets, neutral=neutral)
  ask = functools.partial(
    evaluate,
    prepared=prepared,
    data=experiment.data,
    split=split,
    targets=targets,
  )
  steps, ranked, untold = [], [], []
  with seeds.mesh:
    for run_dir in seeds.run_dirs:
      model, step = runs.load(experiment, prepared, run_dir)
      steps.append(step)
      answers = ask(model)
      answers.to_parquet(runs.ranks_path(run_dir, split=split, targets=targets))
      ranked.append(answers)
      if neutral:
        untold.append(ask(model.untold(fields)))
  result: dict[str, Any] = {
    **_asked(seeds, steps, split=split, targets=targets),
    "seen_filtered": ranked[0].seen_filtered,
    split: measured(ranked, prepared),
    "baselines": {
      name: measured(answer, prepared)
      for name, answer in baselines(
        prepared, split=split, targets=targets
      ).items()
    },
  }
  rows = {seeds.name: result[split]}
  without = f"without {', '.join(neutral)}"
  if untold:
    result["neutral"] = {
      "names": list(neutral),
      split: measured(untold, prepared),
      "to_told": {
        metric: difference(untold, ranked, metric) for metric in METRICS
      },
    }
    rows[without] = result["neutral"][split]
  rows |= result["baselines"]
  terminal.table(("", *_SHOWN), [_row(n, m) for n, m in rows.items()])
  if untold:
    for metric, of in result["neutral"]["to_told"].items():
      terminal.show(_difference(f"{metric}: {without} − as logged", of))
  terminal.say(
    f"{result[split]['queries']:,} targets ({targets}) of the {split} split,"
    f" {_of_steps(steps)}, 95 % intervals over users"
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


def evaluate_head_of_runs(
  seeds: Seeds,
  terminal: Terminal,
  *,
  head: str,
  split: SplitName,
  targets: Targets,
) -> dict[str, Any]:
  """What the selected steps say of a field, next to what needs no model."""
  experiment, prepared = seeds.experiment, seeds.prepared
  _require_order(experiment, targets=targets)
  with seeds.mesh:
    models, steps = zip(
      *(runs.load(experiment, prepared, run) for run in seeds.run_dirs),
      strict=True,
    )
    found = evaluate_head(
      models, prepared, experiment.data, head, split=split, targets=targets
    )
  methods = {seeds.name: found["model"], **found["baselines"]}
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
      terminal.show(_difference(f"{metric}: {seeds.name} − {method}", of))
  terminal.say(
    f"{found['queries']:,} targets ({targets}) of the {split} split whose"
    f" {head} is known, {_of_steps(steps)}, 95 % intervals over"
    f" {found['users']:,} users, differences paired"
  )
  return {**_asked(seeds, steps, split=split, targets=targets), **found}


def require_committable(path: pathlib.Path, seeds: Seeds) -> None:
  """Refuses, before anything is computed, what could not be written.

  Raises:
    ConfigError: a name that no result has, or a run that is under way.
  """
  records.require_result_name(path)
  seeds.facts()


def write_result(
  path: pathlib.Path, seeds: Seeds, found: Mapping[str, Any], *, command: str
) -> None:
  """Commits what was found of finished runs, as `records.write_result`.

  The file is the first run's `result.json`, but for the sources and the machine
  that answered now. "asked" is the answer of all seeds, "baselines" are those
  that were asked the same.
  """
  facts = seeds.facts()
  records.write_result(
    path,
    command=command,
    result=facts[0],
    baselines=found["baselines"],
    extra={
      "seeds": [result["seed"] for result in facts],
      "run_ids": [result["run_id"] for result in facts],
      "eval_hash": measure.eval_hash(),
      "versions": records.versions(),
      "device": records.device(),
      "asked": {
        key: value
        for key, value in found.items()
        if key not in ("runs", "baselines")
      },
    },
  )


def _asked(
  seeds: Seeds, steps: Sequence[int], *, split: SplitName, targets: Targets
) -> dict[str, Any]:
  return {
    "runs": list(map(str, seeds.run_dirs)),
    "selected_steps": list(steps),
    "split": split,
    "targets": targets,
  }


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


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[object, ...]:
  return (name, *(_with_interval(metrics, metric) for metric in _SHOWN))


def _with_interval(metrics: Mapping[str, Any], metric: str) -> str | None:
  if metric not in metrics:
    return None
  text = f"{metrics[metric]:.4f}"
  if interval := metrics.get(f"{metric}_ci"):
    text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
  return text


def _difference(what: str, of: Mapping[str, Any]) -> str:
  low, high = of["interval"]
  return (
    f"{what} = {of['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    f"{'' if of['separates'] else ': no difference shown'}"
  )


def _of_steps(steps: Sequence[int]) -> str:
  one = len(steps) == 1
  return f"step{'' if one else 's'} {', '.join(map(str, steps))}"

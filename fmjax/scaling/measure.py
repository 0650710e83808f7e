"""What is known of a trained run: counts, metrics, and what it must beat."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  Experiment,
  Targets,
  content_hash,
  from_dict,
  identity,
  override,
  to_dict,
  trunk_identity,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.data.store import Prepared
from fmjax.data.windows import tokens_per_epoch
from fmjax.eval.baselines import baselines
from fmjax.eval.evaluate import evaluate
from fmjax.eval.popularity import measured
from fmjax.eval.ranked import Ranked, from_parquet
from fmjax.eval.slices import slices
from fmjax.model import age
from fmjax.model.reading import asked_share
from fmjax.model.recommender import Recommender
from fmjax.scaling import count, records
from fmjax.scaling.abstract import abstract_step
from fmjax.scaling.item_bytes import item_bytes
from fmjax.scaling.traced import xla_flops
from fmjax.train.log import read_metrics
from fmjax.train.loop import Outcome, load_selected

# What answers to queries depend on, beside the model.
_ANSWERS = ("data", "eval")
_COUNTING = ("abstract", "count", "item_bytes", "measure", "traced")
# What else is in a result.
_RESULTS = (
  *_ANSWERS,
  *(f"scaling/{n}.py" for n in _COUNTING),
)


def measure(
  experiment: Experiment,
  prepared: Prepared,
  run_dir: pathlib.Path,
  outcome: Outcome,
) -> dict[str, Any]:
  """The content of `result.json`; writes `test.parquet` beside it.

  Args:
    experiment: the configuration.
    prepared: its data.
    run_dir: where its selected model lies.
    outcome: of its training.
  """
  data, run = experiment.data, experiment.run
  with mesh.use(mesh.make_mesh(data=run.mesh_data, model=run.mesh_model)):
    model, step = load_selected(experiment, prepared, run_dir)
    test, validation = (
      evaluate(model, prepared, data, split=split, targets=run.targets)
      for split in ("test", "validation")
    )
    gate = _gate(experiment, model)
  test.to_parquet(run_dir / "test.parquet")
  params = count.parameters(experiment.model, prepared.spec, window=data.window)
  in_data = tokens_per_epoch(prepared, data.weighting)
  asked = asked_share(experiment.model)
  return {
    "config": to_dict(experiment),
    "seed": run.seed,
    "code_hash": records.code_hash(),
    "eval_hash": eval_hash(),
    "data_checksum": prepared.checksum,
    "versions": records.versions(),
    "device": records.device(),
    "selected_step": step,
    "params": params.to_dict(),
    "tokens": outcome.tokens,
    "unique_tokens": min(in_data, outcome.tokens),
    "epochs": outcome.tokens / max(in_data * asked, 1),
    "trunk": trunk_of(experiment),
    "flops": _flops(
      experiment,
      prepared,
      params,
      # Tokens that are shown, not asked for, are computed all the same.
      tokens=round(outcome.tokens / asked),
    ),
    "item_bytes": item_bytes(
      experiment.model,
      prepared.spec,
      objective=experiment.objective,
      rows=data.rows,
      window=data.window,
    ).to_dict(),
    "users": len(prepared.index.tokens),
    "train_s": outcome.train_s,
    "curve": _curve(run_dir),
    "validation": measured(validation, prepared),
    "test": measured(test, prepared),
    "slices": slices(test),
    "gate": gate,
    "catalog": {
      "items": prepared.spec.items - 1,
      "seen_filtered": test.seen_filtered,
      "targets": test.targets,
    },
  }


def trunk_of(experiment: Experiment) -> str:
  """Shared by runs that are one until they decay: they are no separate luck."""
  shared = trunk_identity(experiment)
  return content_hash(identity(experiment) if shared is None else shared)


def eval_hash() -> str:
  """Of the sources that a run's result depends on, beside its model."""
  return records.code_hash(_RESULTS)


def is_current(run_dir: pathlib.Path) -> bool:
  """The run was evaluated by the sources that are here now."""
  result = records.read_json(run_dir / "result.json") or {}
  present = (run_dir / "test.parquet").is_file()
  return present and result.get("eval_hash") == eval_hash()


def baseline_dir(
  data_checksum: str, *, root: pathlib.Path, targets: Targets = "first"
) -> pathlib.Path:
  """Where the baselines of a data set are kept, present or not."""
  code = records.code_hash(_ANSWERS)
  asked = {"data_checksum": data_checksum, "targets": targets}
  return root / "baselines" / content_hash({**asked, "code_hash": code})


def baselines_of(
  prepared: Prepared, *, root: pathlib.Path, targets: Targets = "first"
) -> pathlib.Path:
  """The folder with every baseline's test ranks; ranked now if absent."""
  folder = baseline_dir(prepared.checksum, root=root, targets=targets)
  if (folder / "summary.json").is_file():
    return folder
  folder.mkdir(parents=True, exist_ok=True)
  ranked = baselines(prepared, split="test", targets=targets)
  for name, answer in ranked.items():
    answer.to_parquet(folder / f"{name}.parquet")
  # Written last: its presence says that the others are whole.
  records.write_json(
    folder / "summary.json",
    {name: measured(answer, prepared) for name, answer in ranked.items()},
  )
  return folder


def baselines_of_result(
  result: Mapping[str, Any], *, root: pathlib.Path
) -> pathlib.Path:
  """As `baselines_of`, for a run's `result.json`.

  Raises:
    DataError: they are not ranked yet, and the run's data are no longer there.
  """
  targets = result["config"]["run"]["targets"]
  folder = baseline_dir(result["data_checksum"], root=root, targets=targets)
  if (folder / "summary.json").is_file():
    return folder
  prepared = ensure_prepared(from_dict(result["config"]).data)
  if prepared.checksum != result["data_checksum"]:
    raise DataError(
      f"the data of {result['name']} has changed since it was trained"
      f" ({result['data_checksum']}, now {prepared.checksum}): sweep again"
    )
  return baselines_of(prepared, root=root, targets=targets)


def read_baselines(folder: pathlib.Path) -> dict[str, Ranked]:
  """What `baselines_of` wrote, in its order."""
  names = records.read_json(folder / "summary.json") or {}
  return {name: from_parquet(folder / f"{name}.parquet") for name in names}


def _gate(experiment: Experiment, model: Recommender) -> dict[str, Any] | None:
  """What the id weighs by age; None where no age gates it.

  `first_days` are the ages at which the weights begin, null for items that
  nobody has met yet.
  """
  if not isinstance(experiment.model.items.mixer, AgeGate):
    return None
  return {
    "first_days": [None, *age.BUCKET_EDGES_DAYS],
    "id_weight": np.asarray(model.items.gate_weights()).tolist(),
  }


def _curve(run_dir: pathlib.Path) -> list[dict[str, float]]:
  """Tokens and validation metrics of each evaluated step."""
  return [
    {
      name.removeprefix("validation/"): value
      for name, value in record.items()
      if name in ("step", "tokens") or name.startswith("validation/")
    }
    for record in read_metrics(run_dir / "metrics.jsonl")
    if any(name.startswith("validation/") for name in record)
  ]


def _flops(
  experiment: Experiment,
  prepared: Prepared,
  params: count.Parameters,
  *,
  tokens: int,
) -> dict[str, Any]:
  """Of the whole run, counted three ways; of `model`, also by part."""
  data, steps = experiment.data, experiment.run.steps
  flops = count.step_flops(
    experiment.model,
    prepared.spec,
    objective=experiment.objective,
    rows=data.rows,
    window=data.window,
  )
  # One device: XLA counts what one of them does.
  with mesh.use(mesh.make_mesh()):
    step = abstract_step(
      override(experiment, {"run.mesh_data": 1, "run.mesh_model": 1}),
      prepared.spec,
    )
    xla = xla_flops(step.gradient, step.params, step.batch)
  return {
    "six_nd": count.six_nd(params, tokens=tokens),
    "model": steps * flops.model.total,
    "executed": steps * flops.executed.total,
    "xla": steps * xla,
    "by_part": flops.model.times(steps).to_dict(),
  }

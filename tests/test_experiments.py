"""Every experiment of every file can be built, counted and trained."""

import ast
import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from fmjax import mesh
from fmjax.cli.experiment_file import load
from fmjax.config import (
  ChronologicalLast,
  DataConfig,
  Experiment,
  Globo,
  MovieLens,
  MovieLensSasrec,
  Synthetic,
  content_hash,
  override,
  to_dict,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.readers import raw
from fmjax.data.store import Prepared
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.scaling.abstract import abstract_step
from fmjax.scaling.count import parameters, step_flops
from fmjax.scaling.traced import jaxpr_flops
from fmjax.train.log import read_metrics
from fmjax.train.loop import train

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.py"))


def entries_of(path: pathlib.Path) -> dict[str, Experiment]:
  """Those of a file that are tested: of an ablation its last synthetic arm.

  Arms share all parts but one, and test_ablations.py looks at each.
  """
  found = load(str(path)).experiments
  if path.stem.startswith("ablate_"):
    last = [name for name in found if name.startswith("synthetic-")][-1]
    return {last: found[last]}
  return found


# The seeds of an arm are one experiment.
ENTRIES = {
  content_hash(to_dict(override(experiment, {"run.seed": 0}))): pytest.param(
    experiment, id=f"{path.stem}:{name}"
  )
  for path in reversed(FILES)
  for name, experiment in reversed(entries_of(path).items())
}.values()
ARMS = ("ablate_", "unseen:")
# Folders of the data sets that do not ship with fmjax.
DOWNLOADED = {
  MovieLens: "movielens-1m",
  MovieLensSasrec: "movielens-1m",
  Globo: "globo",
}


def shrunken(experiment: Experiment) -> Experiment:
  """The same parts, small, for two steps."""
  recency = experiment.data.recency
  if isinstance(recency, ChronologicalLast):
    recency = ChronologicalLast(share=0.5)  # of two steps, one
  return override(
    experiment,
    {
      "data.recency": recency,
      "model.width": 16,
      "model.layers": 1,
      "model.heads": 2,
      "data.window": min(experiment.data.window, 64),
      "data.stride": min(experiment.data.stride, 64),
      "data.rows": 4,
      "optim.learning_rate": 1e-3,
      "run.seed": 0,
      "run.steps": 2,
      "run.evaluate_every": 2,
      "run.checkpoint_every": 2,
      "run.log_every": 1,
    },
  )


# The rungs of a ladder shrink to the same experiment: train it once. An arm has
# most parts of its reference and takes as long to compile: that is slow.
SHRUNKEN = {
  content_hash(to_dict(small)): pytest.param(
    small,
    id=entry.id,
    marks=pytest.mark.slow if entry.id.startswith(ARMS) else (),
  )
  for entry in ENTRIES
  for small in [shrunken(entry.values[0])]
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Prepares the data of a configuration, or skips if they are absent."""
  cache = tmp_path_factory.mktemp("cache")

  @functools.cache
  def get(data: DataConfig) -> Prepared:
    if isinstance(data.source, Synthetic):  # as many items in fewer events
      short = dataclasses.replace(data.source, events=20_000, users=300)
      data = dataclasses.replace(data, source=short)
    folder = DOWNLOADED.get(type(data.source))
    if folder and not (raw.data_root() / folder).is_dir():
      pytest.skip(f"{folder} is not in {raw.data_root()} (FMJAX_DATA)")
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("FMJAX_CACHE", str(cache))
      return ensure_prepared(data)

  return get


@pytest.fixture(autouse=True)
def one_device():
  with mesh.use(mesh.make_mesh()):
    yield


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_opens_with_its_question_and_its_command(path: pathlib.Path):
  told = ast.get_docstring(ast.parse(path.read_text())) or ""
  assert told.splitlines()[0].endswith("?")
  assert f"experiments/{path.name}" in told


@pytest.mark.parametrize("experiment", ENTRIES)
def test_an_experiment_builds_at_full_size_and_its_counts_are_exact(
  experiment: Experiment, prepared
):
  spec, data = prepared(experiment.data).spec, experiment.data
  step = abstract_step(experiment, spec)
  loss = jax.eval_shape(step.loss, step.params, step.batch)
  assert (loss.shape, loss.dtype) == ((), np.float32)

  counted = parameters(experiment.model, spec, window=data.window)
  assert counted.total == sum(step.part_sizes().values())
  flops = step_flops(
    experiment.model,
    spec,
    objective=experiment.objective,
    rows=data.rows,
    window=data.window,
    looks=step.looks,
  )
  assert flops.forward.total == jaxpr_flops(step.loss, step.params, step.batch)
  assert flops.executed.total == jaxpr_flops(
    step.gradient, step.params, step.batch
  )


@pytest.mark.parametrize("experiment", SHRUNKEN.values())
def test_a_shrunken_experiment_trains_two_steps(
  experiment: Experiment, prepared, tmp_path
):
  data = prepared(experiment.data)
  evaluator = ValidationEvaluator(data, experiment.data, period=2)
  outcome = train(experiment, data, tmp_path, evaluators=[evaluator])
  assert (outcome.state, outcome.step, outcome.selected_step) == ("done", 2, 2)
  losses = [
    record["loss"]
    for record in read_metrics(tmp_path / "metrics.jsonl")
    if "loss" in record
  ]
  assert len(losses) == 2
  assert np.isfinite(losses).all()
  assert losses[0] == pytest.approx(np.log(data.spec.items), rel=0.2)

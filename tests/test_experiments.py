"""Every experiment of every file can be built, counted and trained."""

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fmjax import mesh
from fmjax.cli.experiment_file import load
from fmjax.config import (
  BinaryCrossEntropy,
  ChronologicalLast,
  DataConfig,
  Experiment,
  GeneralizedBce,
  Globo,
  LowRankAttention,
  MovieLens,
  MovieLensSasrec,
  MultiToken,
  StableDecay,
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
from fmjax.train.item_loss import target_power
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
DISTINCT = {
  content_hash(to_dict(override(experiment, {"run.seed": 0}))): (
    f"{path.stem}:{name}",
    experiment,
  )
  for path in reversed(FILES)
  for name, experiment in reversed(entries_of(path).items())
}.values()
# These have most parts of synthetic.py's, in which all are that depend on time,
# or of parameters_data.py's.
ALIKE = (
  "ablate_",
  "ablations:",
  "cold_items:",
  "context:",
  "globo:",
  "mup_transfer:",
  "unseen:",
  "movielens_order:",
  "movielens_1m:timed",
  "baselines:movielens_1m-sasrec",
  "baselines:movielens_1m-gsasrec",
  "baselines:movielens_1m-hstu",
  "quickstart:",  # it has a golden run
)
# Folders of the data sets that do not ship with fmjax.
DOWNLOADED = {
  MovieLens: "movielens-1m",
  MovieLensSasrec: "movielens-1m",
  Globo: "globo",
}


def shrunken(experiment: Experiment) -> Experiment:
  """The same parts, small, for two steps."""
  recency, attention = experiment.data.recency, experiment.model.attention
  schedule = experiment.optim.schedule
  if isinstance(schedule, StableDecay):
    schedule = StableDecay(warmup_steps=0)
  if isinstance(recency, ChronologicalLast):
    recency = ChronologicalLast(share=0.5)  # of two steps, one
  if isinstance(attention, LowRankAttention):
    attention = LowRankAttention(block=16, rank=min(attention.rank, 16))
  return override(
    experiment,
    {
      "data.recency": recency,
      "model.attention": attention,
      "optim.schedule": schedule,
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


def parts(tree: Any) -> Any:
  """Of a config's tree its choices alone; of a number, whether it is 0."""
  match tree:
    case dict():
      return {name: parts(value) for name, value in tree.items()}
    case int() | float():
      return bool(tree)  # a rate of 0 takes a part out
    case _:
      return tree


def counted_parts(experiment: Experiment) -> str:
  """What decides of which products a step is made: the choices, the log."""
  tree = to_dict(experiment)
  choices = parts({key: tree[key] for key in ("model", "objective")})
  log = type(experiment.data.source).__name__
  return content_hash({**choices, "log": log})


def is_long(experiment: Experiment) -> bool:
  """Its data take a minute to prepare."""
  return isinstance(experiment.data.source, Globo)


def entries() -> Iterator[Any]:
  """Slow where one before is made of the same parts, as rungs are."""
  seen = set()
  for name, experiment in DISTINCT:
    made_of = counted_parts(experiment)
    marks = pytest.mark.slow if made_of in seen or is_long(experiment) else ()
    yield pytest.param(experiment, id=name, marks=marks)
    seen.add(made_of)


# The rungs of a ladder shrink to the same experiment: train it once. What has
# all but one or two parts of another takes as long to compile: that is slow.
SHRUNKEN = {
  content_hash(to_dict(small)): pytest.param(
    small,
    id=name,
    marks=pytest.mark.slow if name.startswith(ALIKE) or is_long(small) else (),
  )
  for name, experiment in DISTINCT
  for small in [shrunken(experiment)]
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


@pytest.mark.parametrize("experiment", tuple(entries()))
def test_an_experiment_builds_at_full_size_and_its_counts_are_exact(
  experiment: Experiment, prepared
):
  spec, data = prepared(experiment.data).spec, experiment.data
  step = abstract_step(experiment, spec)
  found = []

  def loss(params, batch):  # traced once, for its type and for its products
    total = step.loss(params, batch)
    found.append((total.shape, total.dtype))
    return total

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
  assert flops.forward.total == jaxpr_flops(loss, step.params, step.batch)
  assert found == [((), np.float32)]
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
  assert losses[0] == pytest.approx(
    guessing(experiment, items=data.spec.items - 1), rel=0.2
  )


def guessing(experiment: Experiment, *, items: int) -> float:
  """The loss of a model that knows nothing: all logits alike, or 0."""
  match experiment.objective:
    case BinaryCrossEntropy(negatives=negatives):
      loss = (1 + negatives) * np.log(2)
    case GeneralizedBce(negatives=negatives, calibration=calibration):
      power = target_power(negatives, items=items, calibration=calibration)
      loss = (power + negatives) * np.log(2)
    case _:
      loss = np.log(items)
  match experiment.model.horizons:
    case MultiToken(weight=weight):
      loss *= 1 + weight
  return float(loss)

"""Every arm of an ablation is its reference with one thing changed."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from experiments import ablations, movietweetings, synthetic
from fmjax.cli.experiment_file import load
from fmjax.config import Experiment, content_hash, identity, to_dict, validate

ROOT = pathlib.Path(__file__).parents[1]
# What each file may change.
CHANGED = {
  "ablate_age_gate": ("model.items.mixer",),
  "ablate_id_dropout": ("model.items.mixer.id_dropout",),
  "ablate_request_features": ("model.features",),
  "ablate_time": ("model.time", "model.relative_time", "model.gap"),
  "ablate_dynamics": (
    "model.items.age",
    "model.items.dynamics",
    "data.recency",
  ),
  "ablate_granularity": ("data.granularity",),
  "ablate_attention": ("model.attention",),
  "ablate_positions": ("model.positions",),
  "ablate_horizons": ("model.horizons",),
  "ablate_heads": ("model.auxiliary", "model.hierarchy"),
  "ablate_weighting": ("data.weighting",),
  "ablate_loss": ("objective",),
  "ablate_depth": ("model.block", "model.layers"),
  "ablate_surface": ("model.request",),
}
Arms = dict[tuple[str, str], list[Experiment]]


# What takes so long on the synthetic service that it has one seed.
DEAR = {
  "ablate_depth": ("plain_2", "sasrec_2", "gated_8", "plain_8", "sasrec_8"),
  "ablate_attention": ("low_rank_8", "low_rank_32"),
}
# Where models have a gate; the others change the best of each data set.
GATED = ("ablate_age_gate", "ablate_id_dropout")


def base_of(stem: str) -> str:
  return "age_gate" if stem in GATED else "reference"


def arms_of(stem: str) -> Arms:
  """By data set and arm, a file's experiments, one a seed."""
  found: Arms = {}
  experiments = load(str(ROOT / "experiments" / f"{stem}.py")).experiments
  for name, experiment in experiments.items():
    data, arm, _ = name.split("-")
    found.setdefault((data, arm), []).append(experiment)
  return found


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from leaves(value, f"{path}.{key}" if path else key)
  else:
    yield path, tuple(tree) if isinstance(tree, list) else tree


def differences(one: Experiment, other: Experiment) -> set[str]:
  """Dotted paths where two configurations differ."""
  first, second = (set(leaves(to_dict(e))) for e in (one, other))
  return {path for path, _ in first ^ second}


def test_every_ablation_is_looked_at():
  files = (ROOT / "experiments").glob("ablate_*.py")
  assert {path.stem for path in files} == set(CHANGED)


@pytest.mark.parametrize("stem", CHANGED)
def test_an_ablation_has_a_synthetic_and_a_real_log_and_three_seeds(stem):
  found = arms_of(stem)
  logs = {data for data, _ in found}
  assert "synthetic" in logs
  assert logs & {"movietweetings", "movielens_1m", "kuairand"}
  for data in logs:
    assert (data, base_of(stem)) in found
    assert len([arm for log, arm in found if log == data]) > 1
  for (data, arm), seeds in found.items():
    dear = arm in DEAR.get(stem, ()) and data == "synthetic"
    count = 1 if dear else 3
    assert [experiment.run.seed for experiment in seeds] == list(range(count))


@pytest.mark.parametrize("stem", CHANGED)
def test_an_arm_differs_from_the_reference_in_what_its_file_asks_for(stem):
  found = arms_of(stem)
  for (data, arm), seeds in found.items():
    references = found[data, base_of(stem)][: len(seeds)]
    for experiment, reference in zip(seeds, references, strict=True):
      validate(experiment)
      paths = differences(experiment, reference)
      assert bool(paths) == (arm != base_of(stem))
      for path in paths:
        assert path.startswith(CHANGED[stem]), (data, arm)


@pytest.mark.parametrize("stem", CHANGED)
def test_an_arm_has_a_name_of_its_own(stem):
  found = arms_of(stem)
  hashes = {content_hash(identity(seeds[0])) for seeds in found.values()}
  assert len(hashes) == len(found)


@pytest.mark.parametrize("stem", CHANGED)
def test_an_arm_trains_on_a_million_tokens_at_most(stem):
  for experiment, *_ in arms_of(stem).values():
    data, run = experiment.data, experiment.run
    assert run.steps * data.rows * data.window <= 1_000_000
    assert run.steps % run.evaluate_every == 0


@pytest.mark.parametrize("stem", CHANGED)
def test_every_file_has_the_references_of_all_ablations(stem):
  shared = arms_of(GATED[0] if stem in GATED else "ablations")
  for (data, arm), seeds in arms_of(stem).items():
    if arm == base_of(stem):
      assert seeds == shared[data, arm]


def test_a_reference_of_the_ablations_is_the_whole_model_but_smaller():
  size = {
    "model.width",
    "model.heads",
    "run.steps",
    "run.evaluate_every",
    "run.checkpoint_every",
  }
  strength = {
    "model.dropout",
    "model.items.mixer.id_dropout",
    "optim.weight_decay",
  }
  whole = synthetic.reference()
  changed = differences(ablations.reference("synthetic"), whole)
  assert size <= changed <= size | strength
  whole = movietweetings.reference()
  assert ablations.reference("movietweetings") == whole


def test_the_time_arms_take_away_one_sense_each_and_all_of_them():
  found = arms_of("ablate_time")
  for data in ("synthetic", "movietweetings"):
    reference = found[data, "reference"][0].model

    def kept(arm: str, data=data, reference=reference) -> list[bool]:
      model = found[data, arm][0].model
      return [
        getattr(model, part) == getattr(reference, part)
        for part in ("time", "relative_time", "gap")
      ]

    assert kept("no_calendar") == [False, True, True]
    assert kept("no_relative") == [True, False, True]
    assert kept("no_gap") == [True, True, False]
    assert kept("no_time") == [False, False, False]

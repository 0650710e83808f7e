"""A grid of sizes and lengths that is drawn from a known law."""

import dataclasses
import json

import numpy as np
import pytest

from fmjax.config import (
  Experiment,
  MaximalUpdate,
  StableDecay,
  override,
  to_dict,
)
from fmjax.data.schema import DataError
from fmjax.eval.metrics import summary
from fmjax.eval.ranked import TOP, Ranked
from fmjax.eval.slices import slices
from fmjax.scaling import records
from fmjax.scaling.ladder import grid
from fmjax.scaling.reports import (
  gains,
  held_out,
  study,
  study_figure,
  tasks,
)
from fmjax.scaling.rungs import Rung, on_common_seeds
from fmjax.scaling.uncertainty import Samples

WIDTHS = (16, 32, 48, 64, 96, 128)
TOKENS = (100_000, 300_000, 1_000_000, 3_000_000)
LAW = {"E": 3.0, "A": 40.0, "B": 90.0, "alpha": 0.5, "beta": 0.4}
FLOOR, NOISE = 2.8, 2e-4
USERS, QUERIES = 60, 3


def size_of(width: int) -> int:
  return 28 * width**2


def true_loss(params: float, tokens: float) -> float:
  return (
    LAW["E"]
    + LAW["A"] * params ** -LAW["alpha"]
    + LAW["B"] * tokens ** -LAW["beta"]
  )


def answers(nll: float) -> Ranked:
  """The same people and the same queries for every run."""
  generator = np.random.default_rng(0)
  user = np.repeat(np.arange(USERS), QUERIES)
  spread = generator.normal(size=len(user))
  nll_n = nll + spread - spread.mean()
  count = generator.integers(0, 3, len(user))
  return Ranked(
    user=user.astype(np.int32),
    history_length=np.tile(np.arange(QUERIES), USERS).astype(np.int32),
    item=np.ones(len(user), np.int32),
    time_s=np.zeros(len(user), np.int32),
    rank=np.ceil(np.exp(nll_n - 1)).astype(np.int32),
    nll=nll_n.astype(np.float32),
    train_count=count.astype(np.int32),
    top10_nk=np.ones((len(user), TOP), np.int32),
    catalog_items=300,
    split="test",
    targets="all",
    seen_filtered=False,
    data_checksum="d",
  )


def make_rungs(*, widths=WIDTHS, tokens=TOKENS, seeds=1, bend=0.0):
  base = override(
    Experiment(),
    {
      "model.width": 16,
      "model.scale": MaximalUpdate(base_width=16),
      "optim.schedule": StableDecay(warmup_steps=1),
    },
  )
  generator = np.random.default_rng(1)
  found: dict[tuple[int, int], Rung] = {}
  for name, made in grid(
    base, widths=widths, tokens=tokens, seeds=seeds
  ).items():
    width, steps = made.model.width, made.run.steps
    seen = steps * made.data.rows * made.data.window
    params = size_of(width)
    nll = true_loss(params, seen) + bend * np.log(width / 64) ** 2
    nll *= np.exp(NOISE * generator.normal())
    ranked = answers(nll)
    result = {
      "name": name,
      "seed": made.run.seed,
      "config": to_dict(made),
      "params": {
        "item_tables": 16 * width,
        "features": 0,
        "backbone": params,
        "head": 0,
        "total": params + 16 * width,
      },
      "tokens": seen,
      "unique_tokens": seen,
      "epochs": seen / 1e7,
      "trunk": f"{width}-{made.run.seed}",
      "flops": {"model": 6.0 * params * seen},
      "validation": {"nll": nll},
      "test": summary(ranked),
      "slices": slices(ranked),
      "catalog": {"items": 300, "targets": "all"},
    }
    rung = found.setdefault(
      (width, steps), Rung(name=name, results=[], ranked=[])
    )
    rung.results.append(result)
    rung.ranked.append(ranked)
  return sorted(found.values(), key=lambda rung: rung.backbone)


@pytest.fixture(scope="module")
def rungs():
  return make_rungs(seeds=2)


@pytest.fixture(scope="module")
def content(rungs):
  return study.analyze(rungs, floor=FLOOR)


def test_a_grid_is_told_from_a_ladder(rungs):
  assert study.is_grid(rungs)
  ladder = study.longest(rungs)
  assert not study.is_grid(ladder)
  assert [rung.backbone for rung in ladder] == [size_of(w) for w in WIDTHS]


def test_the_law_that_made_the_losses_is_found(content):
  law = content["law"]
  assert law["good"]
  assert law["points"] == len(WIDTHS) * len(TOKENS) * 2
  for name in ("E", "alpha", "beta"):
    assert law["parameters"][name] == pytest.approx(LAW[name], rel=0.05)
  low, high = content["irreducible_ci"]
  assert low < LAW["E"] < high
  assert content["irreducible"] == law["parameters"]["E"]
  assert content["known_floor"] == FLOOR


def test_the_largest_sizes_are_predicted_from_the_others(rungs, content):
  assert [each["params"] for each in content["held_out"]] == [
    size_of(96),
    size_of(128),
  ]
  assert content["held_out_law"]["points"] == 4 * len(TOKENS) * 2
  assert max(content["holdout_error_over_drop"]) < 0.1
  lines = content["straight_line_error_over_drop"]
  assert min(lines) > max(content["holdout_error_over_drop"])
  for each, error in zip(
    content["held_out"], content["holdout_error_over_drop"], strict=True
  ):
    rung = next(r for r in rungs if r.name == each["name"])
    assert each["measured"] == pytest.approx(
      np.mean([result["test"]["nll"] for result in rung.results])
    )
    low, high = each["interval"]
    assert low < each["predicted"] < high
    gap = abs(each["predicted"] - each["measured"])
    assert error == pytest.approx(gap / each["drop"])


def test_the_sizes_that_are_seen_choose_the_form(content):
  chosen = content["held_out_form"]
  errors = chosen["errors"]
  # It was drawn with two exponents, and not as a straight line.
  assert errors["chinchilla"] < min(errors["power"], errors["quadratic"])
  assert chosen["form"] == min(
    ("chinchilla", "over_training"), key=lambda name: errors[name]
  )
  by_form = content["holdout_error_over_drop_by_form"]
  assert by_form[chosen["form"]] == content["holdout_error_over_drop"]


def test_two_sizes_carry_one_exponent_alone(rungs):
  sizes = sorted({rung.backbone for rung in rungs})
  found = held_out.choose(
    study.columns([rung for rung in rungs if rung.backbone in sizes[:3]])
  )
  assert found["form"] == "over_training"
  assert found["errors"]["chinchilla"] is None


def test_what_a_seed_moves_is_told_and_its_runs_are_one_cluster(content):
  assert content["noise"]["rungs"] == len(WIDTHS) * len(TOKENS)
  assert content["noise"]["nll"] == pytest.approx(4 * NOISE, rel=0.4)
  assert content["law"]["bootstrap"]["clusters"] == len(WIDTHS) * 2


def test_approaches_stand_side_by_side(content):
  found = content["allocation"]
  told = [each["approach"][:1] for each in found["approaches"]]
  assert len(told) + len(found["notes"]) == 4
  assert told[-1] == "3"
  assert "2" in told
  best = found["approaches"][-1]["params_exponent"]
  right = LAW["beta"] / (LAW["alpha"] + LAW["beta"])
  assert best == pytest.approx(right, abs=0.02)


def test_ten_times_the_data_and_the_parameters_are_compared_on_users(content):
  of = {axis: [] for axis in ("params", "tokens")}
  for gain in content["gains"]:
    of[gain["of"]].append(gain)
  assert all(8 <= gain["factor"] <= 12.5 for gain in content["gains"])
  # 100k to 1m and 300k to 3m at every size; 16 to 48, 32 to 96 and so on.
  assert len(of["tokens"]) == 2 * len(WIDTHS)
  assert len(of["params"]) == 2 * len(TOKENS)
  for gain in content["gains"]:
    for metric, sign in (("nll", -1), ("ndcg@10", 1)):
      low, high = gain[metric]["interval"]
      assert low <= gain[metric]["difference"] <= high
      assert sign * gain[metric]["difference"] > 0
      wide_low, wide_high = gain[metric]["interval_with_seeds"]
      assert wide_high - wide_low > high - low


def test_loss_and_metric_are_compared_along_each_axis(content):
  for axis in ("over_sizes", "over_lengths"):
    assert content["loss_and_metric"][axis]["agree_in_sign"]
    assert content["loss_and_metric"][axis]["rank_correlation"] > 0.95


def test_a_metric_that_falls_with_size_is_not_hidden_by_the_lengths():
  # Along the sizes the lower loss ranks worse, along the lengths better.
  value_n = np.array([6 - j + 0.05 * i for i in range(5) for j in range(3)])
  ndcg_n = np.array(
    [0.1 + 0.05 * j + 0.002 * i for i in range(5) for j in range(3)]
  )
  samples = {
    name: Samples(metric=name, value_n=v, draw_sn=np.tile(v, (4, 1)))
    for name, v in {"nll": value_n, "ndcg@10": ndcg_n}.items()
  }
  sizes = [i for i in range(5) for _ in range(3)]
  lengths = [j for _ in range(5) for j in range(3)]
  assert gains.ordered(samples, lengths)["rank_correlation"] == pytest.approx(
    -1
  )
  assert gains.ordered(samples, sizes)["rank_correlation"] == pytest.approx(1)


@pytest.mark.slow
def test_a_loss_that_rises_again_is_predicted_badly_and_said_to_be():
  bent = study.analyze(make_rungs(bend=0.05), floor=None)
  assert max(bent["holdout_error_over_drop"]) > 0.25
  assert bent["known_floor"] is None


def test_too_few_sizes_are_refused_with_their_number():
  few = make_rungs(widths=(16, 32, 64, 96))
  with pytest.raises(DataError, match="4 sizes do not carry"):
    study.analyze(few, floor=None)


def only_seed(rung, place):
  return dataclasses.replace(
    rung, results=[rung.results[place]], ranked=[rung.ranked[place]]
  )


def with_seeds(*, of_largest):
  """Sizes of two seeds, of which the largest has one."""
  several = make_rungs(seeds=2)
  largest = max(rung.backbone for rung in several)
  return [
    only_seed(rung, of_largest) if rung.backbone == largest else rung
    for rung in several
  ]


@pytest.mark.parametrize("seed", [0, 1])
def test_rungs_are_compared_on_the_seeds_that_all_have(seed):
  rungs = on_common_seeds(with_seeds(of_largest=seed))
  assert {tuple(r["seed"] for r in rung.results) for rung in rungs} == {(seed,)}
  assert all(len(rung.ranked) == 1 for rung in rungs)


def test_where_no_seed_is_common_all_are_kept():
  several = with_seeds(of_largest=0)
  apart = [
    rung if len(rung.results) == 1 else only_seed(rung, 1) for rung in several
  ]
  assert on_common_seeds(apart) == apart


@pytest.mark.slow
def test_what_other_seeds_tell_is_the_noise_alone():
  rungs = with_seeds(of_largest=0)
  found = study.analyze(rungs, floor=None)
  first = study.analyze([only_seed(rung, 0) for rung in rungs], floor=None)
  assert found["law"] == first["law"]
  assert found["held_out"] == first["held_out"]
  assert found["noise"]["nll"] > 0
  assert first["noise"]["nll"] is None


def test_a_missing_run_at_the_longest_training_is_named(rungs):
  longest = study.longest(rungs)
  for gone in longest[-3:]:
    left = [rung for rung in rungs if rung is not gone]
    with pytest.raises(DataError, match=f"{gone.backbone:,} backbone"):
      study.analyze(left, floor=None)


@pytest.mark.slow
def test_where_a_larger_size_is_worse_there_is_no_share_of_its_drop():
  worse = study.analyze(
    make_rungs(bend=1.0, widths=WIDTHS[1:], tokens=TOKENS[1:]), floor=None
  )
  assert worse["holdout_error_over_drop"] == [None, None]
  assert all(each["drop"] < 0 for each in worse["held_out"])


def test_the_content_is_json_and_draws_the_same_bytes_twice(content, tmp_path):
  whole = json.loads(json.dumps(records.finite(content), allow_nan=False))
  drawn = []
  for name in ("one", "two"):
    path = tmp_path / f"{name}.png"
    study_figure.draw(whole, path)
    drawn.append((path.read_bytes(), path.with_suffix(".svg").read_bytes()))
  assert drawn[0] == drawn[1]
  for each in drawn[0]:
    assert len(each) > 10_000
  for word in ("known floor", "3M tokens", "law of the filled points alone"):
    assert word in drawn[0][1].decode()


def test_a_law_that_is_not_to_be_relied_on_is_said_and_not_drawn(
  content, tmp_path
):
  bad = {**content, "law": {**content["law"], "good": False}}
  study_figure.draw(bad, tmp_path / "bad.png")
  drawn = (tmp_path / "bad.svg").read_text()
  assert "not to be relied on" in drawn
  assert "fitted irreducible loss" not in drawn


def test_a_task_has_a_curve_and_a_ceiling_of_its_own(rungs, content):
  everything, cold = content["tasks"]["all"], content["tasks"]["cold"]
  assert everything["params"] == [size_of(width) for width in WIDTHS]
  ladder = study.longest(rungs)
  first, last = (
    np.mean([r["test"]["nll"] for r in rung.results])
    for rung in (ladder[0], ladder[-1])
  )
  assert everything["improvement"][-1] == pytest.approx(1 - last / first)
  low, high = everything["improvement_ci"][-1]
  assert low <= everything["improvement"][-1] <= high
  # Sizes that the law has not seen lie within its band's reach.
  assert everything["band"]["x"][-1] == pytest.approx(size_of(WIDTHS[-1]))
  endless = LAW["E"] + LAW["B"] * TOKENS[-1] ** -LAW["beta"]
  assert everything["ceiling"] == pytest.approx(1 - endless / first, rel=0.2)
  assert cold["value"] != everything["value"]


def test_draws_of_known_intervals_have_these_intervals():
  values = [
    {"nll": 5.0, "nll_ci": [4.9, 5.1]},
    {"nll": 4.0, "nll_ci": [3.8, 4.2]},
  ]
  drawn = tasks.from_intervals("nll", values)
  assert drawn.value_n.tolist() == [5.0, 4.0]
  assert drawn.interval_n()[0] == pytest.approx([4.9, 5.1], abs=0.03)
  assert drawn.interval_n()[1] == pytest.approx([3.8, 4.2], abs=0.06)

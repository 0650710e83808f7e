"""The committed scaling studies: what they must show, with valid records."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis import clicks, scaling
from analysis import cold_items as cold
from experiments import cold_items, context, mup_transfer, parameters_data
from fmjax.scaling import validator

STUDIES = sorted(path.stem for path in scaling.FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_records_beside_a_study_are_valid(name):
  folder = scaling.FOLDER / name
  runs, evals = (
    pq.read_table(folder / f"{table}.parquet") for table in ("runs", "evals")
  )
  assert validator.problems(runs, evals, together=False) == []
  assert set(runs["state"].to_pylist()) == {"done"}


def test_the_grid_has_six_sizes_over_two_decades_and_four_lengths():
  content = scaling.read("parameters_data")
  sizes = {rung["params"]["backbone"] for rung in content["grid"]}
  lengths = {rung["steps"] for rung in content["grid"]}
  assert len(sizes) == len(parameters_data.WIDTHS) >= 6
  assert len(lengths) == len(parameters_data.TOKENS) >= 4
  assert max(sizes) >= 100 * min(sizes)
  assert max(rung["tokens"] for rung in content["grid"]) <= 4_000_000


def test_the_law_without_the_two_largest_rungs_predicts_them():
  content = scaling.read("parameters_data")
  errors = content["holdout_error_over_drop"]
  lines = content["straight_line_error_over_drop"]
  print("errors over drops:", errors, "of a straight line:", lines)
  assert len(errors) == 2
  assert max(errors) <= 0.25
  assert all(np.array(errors) < np.array(lines))


def test_the_fitted_irreducible_loss_stands_beside_the_known_floor():
  content = scaling.read("parameters_data")
  floor, fitted = content["known_floor"], content["irreducible"]
  low, high = content["irreducible_ci"]
  print(f"E = {fitted:.4f} [{low:.4f}, {high:.4f}], floor {floor:.4f}")
  assert low <= fitted <= high
  # No model is better than the oracle; one that sees 256 events is not as good.
  assert floor < low
  assert all(rung["nll"] > floor for rung in content["grid"])


def test_with_mup_the_best_rate_stays_within_a_step_of_the_narrowest():
  curves = scaling.read("mup_transfer")["curves"]
  for found in curves.values():
    widths = [curve["width"] for curve in found]
    assert widths == list(mup_transfer.WIDTHS)
    assert widths[-1] == 8 * widths[0]
  moved = [c["steps_from_narrowest"] for c in curves["MaximalUpdate"]]
  assert max(map(abs, moved)) <= 1
  # Without, it falls with the width.
  assert curves["StandardScale"][-1]["steps_from_narrowest"] < 0


def test_the_ladder_trains_at_about_the_best_rate_of_its_smallest_width():
  narrowest = scaling.read("mup_transfer")["curves"]["MaximalUpdate"][0]
  rate = parameters_data.base().optim.learning_rate
  assert abs(np.log2(rate / narrowest["best_rate"])) <= 1
  assert not narrowest["at_edge"]


def test_every_window_is_trained_at_the_same_compute():
  arms = scaling.read("context")["arms"]
  assert set(arms) == {
    name for window in context.WINDOWS for name in context.attentions(window)
  }
  runs = pq.read_table(scaling.FOLDER / "context" / "runs.parquet").to_pylist()
  flops = [run["flops_model"] for run in runs]
  assert max(flops) < 1.02 * min(flops)


def test_the_study_on_clicks_tells_what_ten_times_as_much_brings():
  content = scaling.read("globo")
  for of in ("params", "tokens"):
    steps = [step for step in content["gains"] if step["of"] == of]
    assert steps
    for metric in ("nll", "ndcg@10"):
      for step in steps:
        low, high = step[metric]["interval"]
        assert low <= step[metric]["difference"] <= high
  assert content["ceiling"]["warnings"] or content["ceiling"]["good"]
  for axis in ("over_sizes", "over_lengths"):
    assert content["loss_and_metric"][axis]["agree_in_sign"] in (True, False)


def test_the_share_of_articles_without_an_id_was_chosen_on_validation():
  by_nll = {arm: r["validation"]["nll"] for arm, r in clicks.ids().items()}
  assert len(by_nll) > 2
  assert min(by_nll, key=by_nll.__getitem__) == "reference"


def test_every_size_ranks_new_titles_with_metadata_and_without():
  for mixer in ("metadata", "ids"):
    found = cold.ladder(mixer)
    assert len(found) == len(cold_items.WIDTHS)
    assert all(r["slices"]["unseen"]["queries"] > 1_000 for r in found.values())


def test_a_study_says_what_regenerates_it():
  for name in STUDIES:
    content = json.loads((scaling.FOLDER / f"{name}.json").read_text())
    assert content["command"].startswith("fmjax ")
    assert f"experiments/{name}.py" in content["command"]

"""Figures and tables of the ablations, on results whole and in part."""

import io
import json

import pytest

from analysis import ablations, asked, costs, forests, plots, readme
from fmjax.__main__ import parse
from fmjax.cli.experiment_file import load


def told(difference: float) -> dict:
  interval = [difference - 0.1, difference + 0.1]
  return {
    "difference": difference,
    "interval": interval,
    "separates": abs(difference) > 0.1,
  }


def values(value: float) -> dict:
  metrics = ("nll", "hr@10", "ndcg@10")
  return {
    **dict.fromkeys(metrics, value),
    **{f"{metric}_ci": [value - 0.1, value + 0.1] for metric in metrics},
  }


def result(data: str, arm: str, difference: float | None, *, gated=False):
  """As a report writes it; of the reference without a difference."""
  baselines = {
    name: values(value)
    for name, value in {
      "popularity_3d_rolling": 0.3,
      "popularity_7d_rolling": 0.2,
      "popularity_genre": 0.1,
      **({"oracle": 0.8} if data == "synthetic" else {}),
    }.items()
  }
  part = {
    "queries": 1_000,
    **values(0.4),
    "coverage@10": 0.25,
    "baselines": baselines,
    "compare": {
      name: told(0.4 - known["ndcg@10"]) for name, known in baselines.items()
    },
  }
  if data == "synthetic":
    part |= {"gap_closed": 0.71, "gap_closed_ci": [0.7, 0.72]}
  if difference is not None:
    part["to_reference"] = {
      metric: told(difference) for metric in ("nll", "ndcg@10")
    }
  content = {
    "data": data,
    "arm": arm,
    "reference": "reference" if arm == "reference" else "age_gate",
    "seeds": [0, 1, 2],
    "run_ids": [f"{data}-{arm}-{seed}" for seed in range(3)],
    "train_s": 1_800.0,  # a seed
    "cold_below": 20,
    "config": {"objective": {"type": "FullSoftmax"}},
    "test_mean": {"popularity_lift@10": -0.5},
    "validation_mean": {"ndcg@10": 0.2 + (difference or 0.0)},
    "validation_seeds": {
      "ndcg@10": [0.2, 0.1 + 2 * (difference or 0.0), 0.3 + (difference or 0.0)]
    },
    "compare": part["compare"],
    "slices": {
      "all": part,
      "unseen": part,
      "cold": {"queries": 0} if data == "kuairand" else part,
      "warm": part,
    },
  }
  if gated:
    content["gate"] = {
      "first_days": [None, 0, 1],
      "id_weight": [0.1, 0.2, 0.5],
      "id_weight_by_seed": [[0.1, 0.1, 0.4], [0.1, 0.3, 0.6]],
    }
  return content


@pytest.fixture
def results(tmp_path, monkeypatch):
  """A folder of results, empty."""
  for module in (ablations, asked):
    monkeypatch.setattr(module, "RESULTS", tmp_path)
  return tmp_path


def commit(folder, study, content, *, name=None):
  name = name or f"{content['data']}_{content['arm']}"
  path = folder / study / f"{name}.json"
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(content))


@pytest.fixture
def measured(results):
  """One study on two data sets, and the reference of the synthetic one."""
  for data in ("synthetic", "kuairand"):
    commit(results, "ablate_age_gate", result(data, "age_gate", None))
    commit(results, "ablate_age_gate", result(data, "sum", 0.3))
  commit(results, "ablate_age_gate", result("synthetic", "concat", -0.05))
  reference = result("synthetic", "reference", None, gated=True)
  commit(results, "synthetic", reference, name="reference")
  return results


def marks(axis, color):
  """(x, row, is filled) of each point of a data set."""
  return [
    (
      pytest.approx(line.get_xdata()[0]),
      line.get_ydata()[0],
      line.get_markerfacecolor() == color,
    )
    for line in axis.lines
    if line.get_marker() == "o"
    and line.get_color() == color
    and len(line.get_xdata())
  ]


def test_a_forest_has_a_row_an_arm_and_a_color_a_data_set(measured):
  figure = forests.forest(ablations.read("age_gate"))
  assert len(figure.axes) == 4
  first = figure.axes[0]
  assert [t.get_text() for t in first.get_yticklabels()] == ["concat", "sum"]
  blue, green = (forests.COLORS[d] for d in ("synthetic", "kuairand"))
  # The better one above; filled where the interval excludes 0.
  (concat, sum_) = sorted(marks(first, blue), key=lambda mark: mark[1])
  assert concat[0] == -0.05
  assert not concat[2]
  assert sum_[0] == 0.3
  assert sum_[2]
  assert len(marks(first, green)) == 1
  # Cold targets that there are none of are no point.
  assert marks(figure.axes[1], green) == []


def test_arms_follow_their_numbers_else_their_loss():
  def order(differences):
    arms = {
      arm: result("synthetic", arm, difference)
      for arm, difference in differences.items()
    }
    return forests.arm_order({"synthetic": arms})

  numbered = {"drop_90": -0.3, "drop_0": 0.2, "drop_10": 0.1}
  assert order(numbered) == ["drop_0", "drop_10", "drop_90"]
  # Of one number the least loss first.
  assert order({"a_8": 0.1, "b_8": -0.1, "c_2": 0.3}) == ["c_2", "b_8", "a_8"]
  assert order({**numbered, "none": 0.0}) == [
    "drop_90",
    "none",
    "drop_10",
    "drop_0",
  ]


def test_an_nll_of_scores_that_are_no_logarithms_is_not_shown(results):
  objectives = {
    "bce": {"type": "BinaryCrossEntropy", "negatives": 8},
    "sampled": {"type": "SampledSoftmax", "logq": 1.0},
    "less_logq": {"type": "SampledSoftmax", "logq": 0.5},
  }
  differences = {"bce": 0.15, "sampled": 0.3, "less_logq": 0.2}
  commit(results, "ablate_loss", result("synthetic", "reference", None))
  for arm, objective in objectives.items():
    content = {
      **result("synthetic", arm, differences[arm]),
      "reference": "reference",
      "config": {"objective": objective},
    }
    commit(results, "ablate_loss", content)
  arms = ablations.read("loss")
  assert forests.arm_order(arms) == ["sampled", "less_logq", "bce"]
  shown = ablations.differences("loss").markdown
  assert "| sampled | **+0.3000 [+0.2000, +0.4000]** |" in shown
  for arm in ("bce", "less_logq"):
    assert f"| {arm} |  |  | **+0." in shown
  of_nll, _, of_ndcg, _ = forests.forest(arms).axes
  blue = forests.COLORS["synthetic"]
  assert len(marks(of_nll, blue)) == 1
  assert len(marks(of_ndcg, blue)) == 3
  covered = ablations.coverage("loss").markdown
  assert "| bce | 0.4000 [0.3000, 0.5000] | 0.250 | -0.50 |" in covered


def test_a_verdict_says_where_an_arm_helps_and_where_it_hurts(results):
  for data in ("synthetic", "kuairand", "movielens_1m"):
    commit(results, "ablate_heads", result(data, "reference", None))
  for data, whole, cold in (
    ("synthetic", 0.3, 0.3),
    ("movielens_1m", 0.0, -0.3),
    ("kuairand", 0.0, 0.0),
  ):
    arm = {**result(data, "auxiliary", whole), "reference": "reference"}
    arm["slices"]["cold"] = result(data, "x", cold)["slices"]["all"]
    commit(results, "ablate_heads", arm)
  assert ablations.verdict("heads").markdown == (
    "* `auxiliary`: helps (NDCG@10) on synthetic service; hurts (NDCG@10) on"
    " MovieLens-1M, cold items; no difference in NDCG@10 shown on"
    " KuaiRand-Pure; validation: +0.3000 [-0.4452, +1.0452] (synthetic"
    " service), +0.0000 [+0.0000, +0.0000] (KuaiRand-Pure), +0.0000 [+0.0000,"
    " +0.0000] (MovieLens-1M)"
  )


def test_validation_compares_as_many_seeds_of_the_reference(results):
  commit(results, "ablate_depth", result("synthetic", "reference", None))
  arm = {**result("synthetic", "gated_8", 0.3), "reference": "reference"}
  arm["validation_seeds"]["ndcg@10"] = [0.25]
  commit(results, "ablate_depth", {**arm, "seeds": [0]})
  said = ablations.verdict("depth").markdown
  assert said.endswith("validation: +0.0500 (synthetic service)")
  del arm["validation_seeds"]
  commit(results, "ablate_depth", arm)
  said = ablations.verdict("depth").markdown
  assert said.endswith("validation: +0.3000 (synthetic service)")


def test_depth_is_told_by_what_is_kept_of_two_blocks(results):
  for arm, ndcg in (("reference", 0.4), ("gated_8", 0.3), ("sasrec_8", 0.1)):
    content = {**result("synthetic", arm, None), "reference": "reference"}
    content["slices"]["all"] |= {"ndcg@10": ndcg}
    commit(results, "ablate_depth", content)
  lines = ablations.depth().markdown.splitlines()
  assert len(lines) == 3  # of a block without both depths there is no row
  assert lines[2].startswith("| synthetic service | gated | 0.4000 [")
  assert lines[2].endswith("| 75% | 3 |")


def test_weights_are_told_by_both_measures(results):
  commit(results, "ablate_weighting", result("kuairand", "reference", None))
  arm = {
    **result("kuairand", "completion", 0.2),
    "reference": "reference",
    "weighted_to_reference": {"ndcg@10": told(0.05)},
  }
  commit(results, "ablate_weighting", arm)
  assert (
    "| KuaiRand-Pure | completion | **+0.2000 [+0.1000, +0.3000]**"
    " | +0.0500 [-0.0500, +0.1500] |"
  ) in ablations.weighted().markdown


def test_a_run_that_studies_share_costs_once(results):
  for study in ("ablate_depth", "ablate_loss"):
    shared = result("synthetic", "reference", None)
    commit(results, study, {**shared, "run_ids": ["a", "b", "c"]})
  arm = {**result("synthetic", "gated_8", 0.3), "reference": "reference"}
  commit(results, "ablate_depth", {**arm, "run_ids": ["d"], "train_s": 3_600})
  assert ablations.trained() == (4, pytest.approx(2.5))


def test_fewer_seeds_than_the_others_are_said(results):
  commit(results, "ablate_depth", result("synthetic", "reference", None))
  arm = {**result("synthetic", "gated_8", 0.3), "reference": "reference"}
  commit(results, "ablate_depth", {**arm, "seeds": [0]})
  cell = "**+0.3000 [+0.2000, +0.4000]** (1 seed)"
  assert cell in ablations.differences("depth").markdown
  assert "synthetic service (1 seed)" in ablations.verdict("depth").markdown


def test_what_older_results_do_not_say_is_an_empty_cell(results):
  content = result("synthetic", "reference", None)
  del content["test_mean"]
  commit(results, "ablate_loss", content)
  shown = ablations.coverage("loss").markdown.splitlines()[-1]
  assert shown.endswith("| 0.250 |  |")


def test_figures_are_the_same_twice_and_every_axis_says_what_it_shows(measured):
  arms = ablations.read("age_gate")
  gated = {"synthetic": result("synthetic", "reference", None, gated=True)}
  for draw, content in ((forests.forest, arms), (forests.gate, gated)):
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
      plots.write(draw, content, file, dpi=40)
    assert files[0].getvalue() == files[1].getvalue()
    for axis in draw(content).axes:
      assert axis.get_xlabel()
      assert axis.get_title(loc="left")


def test_attention_is_drawn_by_what_it_costs_and_what_it_brings(results):
  run = {"data": {"rows": 2, "window": 50}, "run": {"steps": 10}}
  for arm, flops, difference, seeds in (
    ("reference", 4e9, None, 3),
    ("low_rank_2", 2e9, -0.3, 3),
    ("low_rank_8", 3e9, 0.1, 1),
    ("window_64", 1e9, -0.2, 3),
  ):
    content = result("synthetic", arm, difference) | {
      "reference": "reference",
      "seeds": list(range(seeds)),
      "config": run,
      "flops": {"by_part": {"attention": flops}},
    }
    content["slices"]["all"]["ndcg@10"] = 0.4 + (difference or 0.0)
    commit(results, "ablate_attention", content)
  (axis,) = costs.attention(ablations.read("attention")).axes
  drawn = {text.get_text(): text.xy for text in axis.texts}
  assert drawn == {
    "2": pytest.approx((2.0, 0.1)),  # 2e9 FLOPs for 1,000 positions
    "8 (1 seed)": pytest.approx((3.0, 0.5)),
    "64": pytest.approx((1.0, 0.2)),
  }
  band, *_ = axis.patches
  low, high = band.get_y(), band.get_y() + band.get_height()
  assert (low, high) == pytest.approx((0.98 * 0.4, 1.02 * 0.4))


def test_the_gate_is_drawn_by_age_without_what_nobody_has_met():
  gated = {"synthetic": result("synthetic", "reference", None, gated=True)}
  (axis,) = forests.gate(gated).axes
  *seeds, mean, the_sum = [list(line.get_ydata()) for line in axis.lines]
  assert seeds == [[0.1, 0.4], [0.3, 0.6]]
  assert mean == [0.2, 0.5]
  assert the_sum == [0.5, 0.5]
  assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "1"]


def test_the_tables_say_what_the_results_say(measured):
  mixers = ablations.mixers().markdown
  assert "| age gate | 0.710 [0.700, 0.720] |" in mixers
  unseen = ablations.unseen_table().splitlines()
  synthetic = next(line for line in unseen if "synthetic" in line)
  assert "| 1,000 | 0.4000 [0.3000, 0.5000] |" in synthetic
  assert synthetic.endswith("| 0.8000 [0.7000, 0.9000] | 0.50 |")
  assert "not measured: run" in next(
    line for line in unseen if "MovieLens" in line
  )
  block = ablations.readme()
  assert "+0.1000 [+0.0000, +0.2000] (`popularity_3d_rolling`)" in block
  assert "analysis/figures/ablate_age_gate.png" in block
  differences = ablations.differences("age_gate").markdown
  assert "| KuaiRand-Pure | sum | **+0.3000 [+0.2000, +0.4000]** |  |" in (
    differences
  )


def test_the_readme_has_a_row_an_arm_of_every_other_study(results):
  for data in ("synthetic", "kuairand"):
    commit(results, "ablate_time", result(data, "reference", None))
  arm = {**result("kuairand", "no_gap", 0.3), "reference": "reference"}
  commit(results, "ablate_time", arm)
  block = ablations.readme()
  cell = "**+0.3000 [+0.2000, +0.4000]**"
  assert f"| time | `no_gap` |  |  | {cell} | {cell} |" in block
  assert "`ablate_time` is not measured" not in block
  assert "`ablate_dynamics` is not measured: run `fmjax sweep" in block


def test_figures_of_what_is_measured_are_saved(measured, tmp_path):
  folder = tmp_path / "figures"
  folder.mkdir()
  lines = ablations.save_figures(folder)
  assert {path.name for path in folder.glob("*.png")} == {
    "ablate_age_gate.png",
    "age_gate_weights.png",
  }
  missing = [line for line in lines if "not measured" in line]
  assert len(missing) == len(ablations.STUDIES) - 1


def test_nothing_measured_is_sentences_that_say_what_to_run(results):
  assert "![" not in ablations.readme()
  questions = [*ablations.STUDIES, *asked.HEADS, *asked.NEUTRAL]
  assert ablations.readme().count("not measured") == 5 + len(questions)
  for shown in (
    ablations.gate(),
    ablations.mixers(),
    *map(ablations.forest, ablations.STUDIES),
    *map(ablations.differences, ablations.STUDIES),
    *map(ablations.verdict, ablations.STUDIES),
    ablations.coverage("loss"),
    ablations.depth(),
    ablations.weighted(),
  ):
    assert shown.markdown.startswith("not measured: run `fmjax sweep")
    assert shown.png is None


@pytest.mark.parametrize(
  "commands",
  [
    *map(ablations.commands, ablations.STUDIES),
    *map(ablations.reference_commands, ablations.REFERENCES),
  ],
)
def test_what_a_sentence_says_to_run_can_be_run(commands, monkeypatch):
  monkeypatch.chdir(readme.HERE.parent)
  for command in commands:
    _, verb, *words = command.split()
    said = parse(verb, words)
    file = said.file if verb == "sweep" else str(said.places[0])
    arms = load(file).experiments
    if verb == "report":
      assert any(f"-{said.reference}-s0" in name for name in arms)

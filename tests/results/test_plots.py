"""Figures and tables of the benchmarks, on results whole and in part."""

import importlib.util
import io
import json

import pytest

from analysis import bench, performance, plots, readme, tables

DRAWN = list(plots.BENCH)
POPULARITY = {"ndcg@10": 0.02, "ndcg@10_ci": [0.01, 0.03]}
SASREC = {
  "baselines": {"popularity_all": POPULARITY, "cooccurrence": {}},
  "seeds": [0, 1],
  "curve": [{"step": 2, "ndcg@10": 0.1}, {"step": 4, "ndcg@10": 0.2}],
  "selected_step": 4,
  "slices": {"all": {"ndcg@10": 0.18, "ndcg@10_ci": [0.17, 0.19]}},
}
REFERENCE = SASREC | {
  "command": "fmjax report x.py",
  "slices": {
    "all": {
      "ndcg@10": 0.2,
      "ndcg@10_ci": [0.19, 0.21],
      "to_reference": {
        "ndcg@10": {
          "difference": 0.02,
          "interval": [0.01, 0.03],
          "separates": True,
        }
      },
    }
  },
}


def draw(name, made_up):
  source, function = plots.BENCH[name]
  return function(made_up[source])


def title(axis):
  return axis.get_title(loc="left")


def rows(markdown):
  """First cell: the others."""
  lines = [line for line in markdown.splitlines() if line.startswith("|")]
  cells = [[c.strip() for c in line[1:-1].split("|")] for line in lines]
  return {first: others for first, *others in cells}


@pytest.fixture
def without_results(tmp_path, monkeypatch):
  monkeypatch.setattr(bench, "RESULTS", tmp_path)
  return tmp_path


# ---- figures ---------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_and_the_same_twice(name, made_up):
  source, function = plots.BENCH[name]
  files = [io.BytesIO(), io.BytesIO()]
  for file in files:
    plots.write(function, made_up[source], file, dpi=40)
  first, second = (file.getvalue() for file in files)
  assert first == second
  assert first.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", DRAWN)
def test_every_axis_says_what_it_shows(name, made_up):
  for axis in draw(name, made_up).axes:
    assert title(axis)
    assert axis.get_xlabel() or axis.get_ylabel() or name == "throughput"


def test_throughput_shows_every_pair_and_the_losses_that_there_are(made_up):
  result = made_up["train_throughput"]
  full, sampled, _, memory = plots.throughput(result).axes
  assert title(full) == "full softmax\n8.0 × (6.0 to 8.0)"
  assert len([line for line in full.lines if len(line.get_xdata()) == 2]) == 2
  assert title(sampled).startswith("128 sampled negatives\n12.0 ×")
  assert [bar.get_width() for bar in memory.patches] == [1] * 3 + [3] * 3
  del result["losses"]["sampled"], result["losses"]["bce"]
  assert len(plots.throughput(result).axes) == 2


def test_who_has_not_reached_the_quality_is_said_so(made_up):
  result = made_up["time_to_quality"]

  def legend():
    (found,) = plots.time_to_quality(result).legends
    return [text.get_text() for text in found.get_texts()]

  assert legend()[:2] == ["fmjax: 100 s", "Peer 1.2: 1,000 s"]
  result["peer_s"] = None
  assert legend()[1] == "Peer 1.2: not there yet"


def test_a_change_is_a_bar_up_to_what_was_left_and_one_for_the_difference(
  made_up,
):
  (axis,) = draw("changes", made_up).axes
  widths = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
  assert widths == [(0, 16), (16, 0), (0, 16), (16, 4), (0, 8), (8, 12)]
  colors = [bar.get_facecolor() for bar in axis.patches]
  assert colors[3] != colors[5]  # what cost does not look as what saved


def test_a_part_without_a_twin_has_one_value(made_up):
  (axis,) = draw("parts", made_up).axes
  assert [text.get_text() for text in axis.texts] == ["2.0", "2.0", "3.0"]


def test_prepare_without_the_peer_or_where_it_failed(made_up):
  result = made_up["prepare"]
  result["peer"][1] = {"runs": [{"error": "killed"}]}
  ours, theirs = plots.prepare(result).axes[0].lines
  assert list(ours.get_xdata()) == [1e6, 2e7]
  assert list(theirs.get_xdata()) == [1e6]
  result["peer"] = None
  assert len(plots.prepare(result).axes[0].lines) == 1


# ---- tables ----------------------------------------------------------------


def test_every_row_of_the_performance_table_names_its_command(made_up):
  lines = rows(tables.performance(made_up))
  assert lines[""] == ["fmjax 0.1.0", "Peer 1.2", "fmjax / peer", "command"]
  del lines[""], lines["---"]
  assert len(lines) == 12
  gpu = lines.pop("training on a GPU")
  assert gpu == ["not measured", "", "", "`python -m experiments.bench.gpu`"]
  for cells in lines.values():
    assert cells[-1] == f"`{made_up['input']['command']}`"
  assert lines["training, full softmax: tokens/s"][:3] == [
    "1,000",
    "125",
    "8.0 (6.0 to 8.0)",
  ]
  assert lines["training, full softmax: peak memory, GiB"][:3] == [
    "1.00",
    "3.00",
    "0.33",
  ]
  what = "attention with a bias of time, width 64, 4,096 positions"
  for rank, ms, ratio in ((2, "3", "6.0"), (4, "6", "3.0")):
    found = lines[f"{what}, {rank} slots a block of 32: ms"]
    assert found[:2] == [ms, ""]
    assert found[2].startswith(f"full / low rank: {ratio}; memory")
  assert lines["`prepare`, 20 M events: events/s"][:3] == [
    "1,000,000",
    "250,000",
    "4.0",
  ]


def test_versions_and_machines_are_not_mixed_in_silence(made_up):
  made_up["evaluation"]["peer"] = {
    **made_up["evaluation"]["peer"],
    "version": "1.3",
  }
  made_up["input"]["machine"] = {**made_up["input"]["machine"], "cores": 4}
  text = readme.performance(made_up)
  assert "| Peer 1.2; Peer 1.3 |" in text
  assert "Abacus, 2 cores, 8 GiB; Abacus, 4 cores, 8 GiB" in text


def test_what_is_not_reached_is_a_bound(made_up):
  result = made_up["time_to_quality"]
  result |= {"peer_s": None, "ratio": None}
  found = rows(tables.time_to_quality(result))
  cells = found["training to validation NDCG@10 = 0.17: s"]
  assert cells == ["100", "> 1,000", "< 0.100"]
  result |= {"fmjax_s": None, "ratio_upper_bound": None}
  result["curves"]["fmjax"] = []
  found = rows(tables.time_to_quality(result))
  cells = found["training to validation NDCG@10 = 0.17: s"]
  assert cells == ["> 0", "> 1,000", ""]


def test_a_loss_or_a_peer_not_measured_leaves_its_cells(made_up):
  del made_up["train_throughput"]["losses"]["full_softmax"]
  made_up["prepare"]["peer"][1] = {"runs": [{"error": "killed"}]}
  found = rows(tables.performance(made_up))
  assert found["training, full softmax: tokens/s"][0] == "not measured"
  prepared = found["`prepare`, 20 M events: events/s"]
  assert prepared[:3] == ["1,000,000", "not finished", ""]
  made_up["prepare"]["peer"] = None
  found = rows(tables.performance(made_up))
  assert found["`prepare`, 20 M events: events/s"][1] == ""


def test_the_quality_of_both_sides_stands_beside_the_paired_difference(made_up):
  result = made_up["peer_quality"]
  text = readme.movielens_1m(REFERENCE, SASREC, result)
  assert rows(text)["test NDCG@10"] == [
    "0.2000 [0.1900, 0.2100]",
    "0.1700 [0.1600, 0.1800]",
    "+0.0300 [+0.0200, +0.0400]",
  ]
  assert rows(text)["test HR@10"][2] == "+0.0500 [+0.0400, +0.0600]"
  assert "1,234 users, 3 seeds of fmjax, one of RecTools" in text
  assert "(RecTools: 2 of 3)" in text
  command = "python -m experiments.bench.peer_quality"
  absent = readme.movielens_1m(REFERENCE, SASREC, None)
  assert f"not measured: run `{command}`" in absent


def test_the_reference_stands_before_sasrec_with_their_paired_difference():
  text = readme.movielens_1m(REFERENCE, SASREC, None)
  assert list(rows(text))[2:5] == [
    "fmjax, `reference`",
    "fmjax, `sasrec_ce`",
    "SASRec+ as published",
  ]
  assert rows(text)["fmjax, `reference`"][1] == "0.2000 [0.1900, 0.2100]"
  assert rows(text)["popularity"][1] == "0.0200 [0.0100, 0.0300]"
  assert "means of 2 seeds" in text
  assert "minus `sasrec_ce`'s: +0.0200 [+0.0100, +0.0300]." in text


def test_the_curves_of_reference_and_sasrec_carry_their_means():
  results = {"reference": REFERENCE, "sasrec_ce": SASREC}
  (axis,) = plots.movielens_1m(results).axes
  labels = [text.get_text() for text in axis.get_legend().get_texts()]
  assert labels[0].endswith("test 0.2000 [0.1900, 0.2100], 2 seeds")
  assert labels[1].endswith("test 0.1800 [0.1700, 0.1900], 2 seeds")


@pytest.mark.parametrize("name", sorted(set(tables.BENCH) - {"gpu"}))
def test_a_table_has_as_many_cells_in_every_row(name, made_up):
  source, make = tables.BENCH[name]
  lines = make(made_up[source]).splitlines()
  assert len({line.count("|") for line in lines}) == 1


def test_a_gpu_is_named_and_a_row_that_failed_says_why():
  of = {
    "width": 64,
    "dtype": "bfloat16",
    "attention": "FullAttention",
    "objective": "FullSoftmax",
  }
  result = {
    "device": "a GPU",
    "rows": [
      {**of, "tokens_per_s": 1e6, "mfu": 0.25},
      {**of, "width": 1_024, "error": "out of memory"},
    ],
  }
  head, _, first, last = tables.gpu(result).splitlines()
  assert "on a GPU" in head
  assert "1,000,000 | 0.250" in first
  assert "1,024" in last
  assert "out of memory" in last


# ---- what is missing -------------------------------------------------------


@pytest.mark.parametrize(
  "name,module", [("floor", "floor"), ("reading", "input_pipeline")]
)
def test_a_missing_result_is_a_sentence(name, module, without_results):
  shown = performance.figure(name)
  sentence = f"not measured: run `python -m experiments.bench.{module}`"
  assert shown._repr_markdown_() == repr(shown) == sentence
  assert shown._repr_png_() is None


def test_a_result_that_is_there_is_shown(made_up, without_results):
  (without_results / "floor.json").write_text(json.dumps(made_up["floor"]))
  figure, table = performance.figure("floor"), performance.table("floor")
  assert figure._repr_png_().startswith(b"\x89PNG")
  assert figure._repr_markdown_() is None
  found = rows(table._repr_markdown_())
  assert found["all"] == ["4.00", "6.0", "4.0", "8.0"]
  assert found["a step, not traced"][-1] == "8.0"
  assert "| `floor.json` | `python" in performance.results()._repr_markdown_()


def test_nothing_measured_is_a_table_of_commands(without_results):
  text = readme.performance(bench.read_all())
  assert text.count("not measured") == len(rows(text)) - 2 == 7


def test_figures_of_missing_benchmarks_are_left_out(
  without_results, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(plots, "PLOTS", {})
  monkeypatch.setattr(plots, "FIGURES", tmp_path / "figures")
  plots.main()
  assert list((tmp_path / "figures").iterdir()) == []
  assert capsys.readouterr().out.count("not measured") == len(plots.BENCH)


@pytest.mark.parametrize("module", sorted(set(bench.MODULES.values())))
def test_the_command_of_every_result_exists(module):
  assert importlib.util.find_spec(f"experiments.bench.{module}")

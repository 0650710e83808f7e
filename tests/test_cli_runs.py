"""From an experiment file to a report, through the command line alone."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fmjax.__main__ import main

LADDER = '''"""Does width help on a synthetic log?"""
from fmjax.config import (
  DataConfig, Experiment, IdOnly, ItemOnly, ItemsConfig, ModelConfig, NoTime,
  RunConfig, SasrecBlock, Synthetic, override
)

def experiments():
  base = Experiment(
    data=DataConfig(
      source=Synthetic(events=3_000, users=150, items=60),
      window=16, stride=16, rows=8,
    ),
    # Little to compile: what is tested here is what happens around training.
    model=ModelConfig(
      width=8, layers=1, heads=1, dropout=0.0, features=ItemOnly(),
      time=NoTime(), items=ItemsConfig(mixer=IdOnly()), block=SasrecBlock(),
    ),
    run=RunConfig(steps=4, evaluate_every=2, checkpoint_every=2, log_every=1),
  )
  return {
    f"d{width}": override(base, {"model.width": width})
    for width in (8, 16)
  }
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """A folder with an experiment file, swept once."""
  root = tmp_path_factory.mktemp("project")
  (root / "ladder.py").write_text(LADDER)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    patch.delenv("FMJAX_CACHE", raising=False)
    assert main(["sweep", "ladder.py"]) == 0
  return root


@pytest.fixture
def ask(project, monkeypatch, capsys):
  """Runs a command in the project; the JSON object it ends with."""
  monkeypatch.chdir(project)
  monkeypatch.delenv("FMJAX_CACHE", raising=False)

  def run(*words: str, code: int = 0):
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])

  return run


def test_a_second_sweep_keeps_every_run_and_trains_none(ask, project):
  runs = sorted((project / "runs" / "ladder").glob("d*/metrics.jsonl"))
  before = {path: path.read_bytes() for path in runs}
  assert len(before) == 2
  swept = ask("sweep", "ladder.py")
  assert [run["action"] for run in swept["runs"]] == ["kept"] * 2
  assert {path: path.read_bytes() for path in runs} == before


def test_status_tells_how_each_run_stands_and_begins_none(ask, project):
  told = ask("sweep", "ladder.py", "--status", "--run.seed", "5")
  assert [run["state"] for run in told["runs"]] == ["new"] * 2
  assert told["counts"] == {"new": 2}
  told = ask("sweep", "ladder.py", "--status")
  for run in told["runs"]:
    assert (run["state"], run["step"], run["steps"]) == ("done", 4, 4)
    assert run["tokens_per_s"] > 0
    assert run["wall_s"] > 0
  assert told["counts"] == {"done": 2}
  assert len(list((project / "runs" / "ladder").glob("d8-*"))) == 1


def test_status_shows_steps_errors_and_counts(project, monkeypatch, capsys):
  monkeypatch.chdir(project)
  monkeypatch.delenv("FMJAX_CACHE", raising=False)
  words = ["sweep", "ladder.py", "--runs", "runs/broken"]
  words += ["--optim.learning_rate", "1e30", "--optim.clip_norm", "1e9"]
  assert main(words) == 4
  capsys.readouterr()
  assert main([*words, "--status"]) == 0
  told = capsys.readouterr().out
  assert "\nd8: crashed: " in told
  assert told.splitlines()[-1] == "0 of 2 done · 2 failed"


def test_a_sweep_in_two_jobs_keeps_what_one_after_the_other_trained(ask):
  swept = ask("sweep", "ladder.py", "--jobs", "2")
  assert [run["action"] for run in swept["runs"]] == ["kept"] * 2


def test_list_counts_what_training_found(ask):
  listed = ask("list", "ladder.py")
  trained = ask("train", "ladder.py")
  assert listed["question"] == "Does width help on a synthetic log?"
  for entry, run in zip(listed["experiments"], trained["runs"], strict=True):
    assert entry["name"] == run["name"]
    assert entry["params"] == run["params"]
    assert entry["flops"] == run["flops"]["model"]
    assert entry["tokens"] == pytest.approx(run["tokens"], rel=0.2)
    assert entry["least_s"] > 0


def test_train_takes_one_experiment_with_overrides(ask):
  words = ["--run.steps", "2", "--runs", "runs/short"]
  (run,) = ask("train", "ladder.py:d8", *words)["runs"]
  assert (run["state"], run["selected_step"]) == ("done", 2)
  assert run["config"]["run"]["steps"] == 2


def test_profile_leaves_a_trace_and_no_run(ask, project):
  told = ask("train", "ladder.py:d8", "--profile", "--runs", "runs/profiled")
  assert list((project / told["trace"]).rglob("*.xplane.pb"))
  told = ask("train", "ladder.py", "--profile", code=2)
  assert "with one of d8, d16" in told["error"]


def test_evaluate_gives_the_metrics_of_the_run_and_the_baselines(ask):
  (run,) = ask("train", "ladder.py:d16")["runs"]
  told = ask("evaluate", "runs/ladder/d16", "--slices")
  assert told["test"] == run["test"]
  assert "popularity_7d_rolling" in told["baselines"]
  by_item = told["slices"]["item"].values()
  assert sum(part["queries"] for part in by_item) == told["test"]["queries"]


def test_compare_is_antisymmetric_and_knows_baselines(ask):
  one = ask("compare", "runs/ladder/d16", "runs/ladder/d8")
  other = ask("compare", "runs/ladder/d8", "runs/ladder/d16")
  assert one["difference"] == pytest.approx(-other["difference"])
  assert one["interval"] == pytest.approx([-x for x in other["interval"][::-1]])
  baseline = ask("compare", "runs/ladder/d16", "popularity_all")
  assert baseline["first_value"] == one["first_value"]


def test_report_writes_table_figure_and_json(ask, project):
  places = ["report", "runs/ladder", "--out", "out", "--figure", "fig/a.png"]
  told = ask(*places)
  assert [rung["name"] for rung in told["rungs"]] == ["d8", "d16"]
  for rung in told["rungs"]:
    parts = dict(rung["params"])
    assert parts.pop("total") == sum(parts.values())
    assert {"nll", "hr@10", "ndcg@10", "ndcg@10_ci"} <= set(rung["test"])
  assert {
    "popularity_all",
    "popularity_7d_rolling",
    "popularity_7d_frozen",
    "cooccurrence",
  } <= set(told["baselines"])
  assert {"best_vs_popularity_all", "best_vs_cooccurrence"} <= set(
    told["compare"]
  )
  assert json.loads((project / "out" / "report.json").read_text()) == told
  assert "popularity_all" in (project / "out" / "report.md").read_text()
  assert (project / "fig" / "a.png").stat().st_size
  assert (project / "fig" / "a.svg").stat().st_size


ARMS = '''"""Does width help on a synthetic log?"""
import ladder
from fmjax.config import override
from fmjax.scaling.reports.arms import arms

def experiments():
  reference = ladder.experiments()["d8"]
  wide = override(reference, {"model.width": 12})
  return arms("log", {"reference": reference, "wide": wide}, seeds=1)
'''


def test_files_share_a_folder_and_each_has_its_own_report(
  ask, project, monkeypatch
):
  monkeypatch.syspath_prepend(project)
  (project / "arms.py").write_text(ARMS)
  (project / "more.py").write_text(ARMS.replace("wide", "wider"))
  ask("sweep", "arms.py", "--runs", "runs/shared")
  swept = ask("sweep", "more.py", "--runs", "runs/shared")
  actions = {run["name"]: run["action"] for run in swept["runs"]}
  assert actions["log-reference-s0"] == "kept"
  told = ask(
    "report", "arms.py", "--runs", "runs/shared", "--reference", "reference",
    "--out", "out", "--result", "results/log",
  )  # fmt: skip
  assert set(told["arms"]["log"]) == {"reference", "wide"}
  assert not told["notes"]
  written = json.loads((project / "results/log/wide.json").read_text())
  assert "report arms.py --runs runs/shared" in written["command"]
  assert {"gap_closed", "gap_closed_cold", "compare"} <= set(written)
  assert "popularity_7d_rolling" in written["compare"]


@pytest.mark.parametrize(
  "words,expected",
  [
    (
      ["report", "runs/ladder", "--runs", "runs", "--out", "out"],
      "runs/ladder is none: leave it out",
    ),
    (["evaluate", "runs/ladder/d17"], "did you mean runs/ladder/d16"),
    (["evaluate", "nowhere"], "nowhere is no run of fmjax"),
    (["compare", "runs/ladder/d16", "popularity_al"], "'popularity_all'"),
    (
      ["compare", "runs/ladder/d16", "popularity_all", "--metric", "ndgc@10"],
      "did you mean 'ndcg@10'?",
    ),
    (
      ["report", "runs/ladder", "--out", "out", "--command", "make it"],
      "give --result PATH",
    ),
    (
      ["compare", "runs/ladder/d8", "runs/ladder/d16", "--targets", "all"],
      "run fmjax evaluate",
    ),
  ],
)
def test_a_run_that_cannot_be_asked_is_one_sentence(ask, words, expected):
  told = ask(*words, code=2)
  assert expected in told["error"]


def test_a_learning_rate_that_explodes_ends_with_4_and_is_marked(ask):
  words = ["ladder.py:d8", "--optim.learning_rate", "1e30"]
  words += ["--optim.clip_norm", "1e30", "--runs", "runs/exploding"]
  told = ask("train", *words, code=4)
  assert "step" in told["error"]
  told = ask("sweep", *words, "--status")
  assert told["runs"][0]["state"] == "failed"
  # A sweep with a failure tells of every run, and of the failure.
  told = ask("sweep", *words, code=4)
  assert [run["state"] for run in told["runs"]] == ["failed"]
  assert told["runs"][0]["error"] in told["error"]


def test_a_run_whose_data_have_changed_cannot_be_asked(ask, project):
  words = ["--run.steps", "2", "--runs", "runs/changed"]
  (run,) = ask("train", "ladder.py:d8", *words)["runs"]
  path = project / run["run_dir"] / "result.json"
  path.write_text(json.dumps({**run, "data_checksum": "other"}))
  for command in (
    ["evaluate", run["run_dir"]],
    ["compare", run["run_dir"], "popularity_all"],
  ):
    told = ask(*command, code=3)
    assert "was trained on data other, but they are now" in told["error"]


def test_a_run_without_its_model_is_one_sentence(ask, project):
  words = ["--run.steps", "2", "--run.seed", "9", "--runs", "runs/emptied"]
  (run,) = ask("train", "ladder.py:d8", *words)["runs"]
  shutil.rmtree(project / run["run_dir"] / "selected")
  told = ask("evaluate", run["run_dir"], code=4)
  assert "cannot be read" in told["error"]
  assert "--debug" not in told["error"]


def test_a_result_to_commit_says_how_it_is_regenerated(ask, project):
  words = ["report", "runs/ladder", "--out", "out"]
  place = "results/synthetic/ladder.json"
  for extra, command in (
    ([], "fmjax report runs/ladder --out out --result " + place),
    (["--command", "make ladder"], "make ladder"),
  ):
    told = ask(*words, "--result", place, *extra)
    result = json.loads((project / place).read_text())
    assert result["command"] == command
    assert result["rungs"] == told["rungs"]
    assert result["figure"] == "out/figure.png"


def test_sigterm_saves_and_exits_0(ask, project, tmp_path):
  words = ["train", "ladder.py:d8", "--run.steps", "3000", "--run.seed", "3"]
  words += ["--runs", str(tmp_path)]
  process = subprocess.Popen(
    [sys.executable, "-m", "fmjax", *words, "--json"],
    cwd=project,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 120
  while not any(
    path.stat().st_size for path in tmp_path.glob("*/metrics.jsonl")
  ):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  out, said = process.communicate(timeout=120)
  assert process.returncode == 0, said
  (run,) = json.loads(out.splitlines()[-1])["runs"]
  assert run["state"] == "interrupted"
  told = ask("sweep", *words[1:], "--status")
  assert 0 < told["runs"][0]["step"] < 3000

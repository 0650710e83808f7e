import dataclasses
import fcntl
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmjax.config import (
  AllFeatures,
  Auxiliary,
  Completion,
  ConfigError,
  DataConfig,
  Experiment,
  HierarchicalItems,
  IdOnly,
  ItemOnly,
  ItemsConfig,
  ModelConfig,
  MovieTweetings,
  NoTime,
  RunConfig,
  SampledSoftmax,
  SasrecBlock,
  SometimesNeutral,
  Synthetic,
  override,
  to_dict,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.eval.ranked import from_parquet
from fmjax.scaling import launch, measure, records, validator
from fmjax.scaling.ladder import ladder
from fmjax.scaling.report import report
from fmjax.scaling.rungs import find_runs
from fmjax.scaling.sweep import plan, run_state
from fmjax.train import loop
from fmjax.train.log import read_metrics

BASE = Experiment(
  data=DataConfig(
    source=Synthetic(events=3_000, users=150, items=60),
    window=16,
    stride=16,
    rows=8,
  ),
  # Little to compile: what is tested here is what happens around training.
  model=ModelConfig(
    width=16,
    dropout=0.0,
    features=ItemOnly(),
    time=NoTime(),
    items=ItemsConfig(mixer=IdOnly()),
    block=SasrecBlock(),
  ),
  run=RunConfig(steps=6, evaluate_every=3, checkpoint_every=3, log_every=1),
)
LADDER = ladder(BASE, (8, 16, 32))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory, compiled):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    # Other processes find what was compiled here.
    patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[pathlib.Path, list[launch.Row]]:
  """A ladder that ran once; tests leave it as it is."""
  root = tmp_path_factory.mktemp("runs") / "ladder"
  return root, launch.sweep(LADDER, root)


@pytest.fixture
def two_swept(swept, tmp_path) -> pathlib.Path:
  """A copy of its two smaller runs, to change."""
  root, rows = swept
  ours = tmp_path / "runs"
  shutil.copytree(root, ours)
  shutil.rmtree(ours / rows[2].run_dir.name)
  return ours


@pytest.fixture(scope="module")
def reported(swept, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  """Where the ladder is reported, and what is told."""
  out = tmp_path_factory.mktemp("report")
  figure = out / "figures" / "ladder.png"
  return out, report([swept[0]], out, figure_path=figure)


def contents(root: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(root)): path.read_bytes()
    for path in sorted(root.rglob("*"))
    if path.is_file()
  }


def test_a_sweep_trains_every_experiment_once(swept):
  root, rows = swept
  assert [row.name for row in rows] == list(LADDER)
  assert {row.state for row in rows} == {"done"}
  assert {row.action for row in rows} == {"trained"}
  for row in rows:
    assert row.run_dir.parent == root
    assert row.run_dir.name.startswith(f"{row.name}-")
    assert row.test is not None
    assert 0 <= row.test["ndcg@10"] <= 1
    json.dumps(row.to_dict(), allow_nan=False)


def test_a_second_sweep_keeps_everything_and_writes_nothing(swept):
  root, before = swept
  files = contents(root)
  rows = launch.sweep(LADDER, root)
  assert {row.action for row in rows} == {"kept"}
  assert [row.run_dir for row in rows] == [row.run_dir for row in before]
  assert contents(root) == files


def test_a_result_says_what_protocols_demand(swept):
  _, rows = swept
  result = json.loads((rows[1].run_dir / "result.json").read_text())
  assert result["config"] == to_dict(LADDER["d16"])
  assert result["selected_step"] in (3, 6)
  metrics = read_metrics(rows[1].run_dir / "metrics.jsonl")
  by_step = {
    r["step"]: r["validation/ndcg@10"] for r in metrics if "validation/mrr" in r
  }
  assert by_step[result["selected_step"]] == max(by_step.values())
  assert result["validation"]["ndcg@10"] == pytest.approx(max(by_step.values()))
  assert [point["step"] for point in result["curve"]] == list(by_step)
  ranked = from_parquet(rows[1].run_dir / "test.parquet")
  assert result["test"]["nll"] == pytest.approx(float(ranked.nll.mean()))
  low, high = result["test"]["nll_ci"]
  assert low < result["test"]["nll"] < high
  assert result["unique_tokens"] <= result["tokens"]
  assert result["flops"]["by_part"]["total"] == result["flops"]["model"]
  # XLA counts what is no matrix product, too.
  ratio = result["flops"]["xla"] / result["flops"]["executed"]
  assert 0.8 < ratio < 2.5


def test_baselines_are_ranked_once_for_the_sweep(swept):
  root, _ = swept
  (folder,) = (root / "baselines").iterdir()
  ranked = measure.read_baselines(folder)
  assert {"popularity_all", "cooccurrence"} <= ranked.keys()
  prepared = ensure_prepared(BASE.data)
  assert measure.baselines_of(prepared, root=root) == folder


def test_the_id_depends_on_what_determines_the_model_and_on_nothing_else():
  def identity(changes=None, checksum="a"):
    return run_state.run_id(
      override(BASE, changes or {}), data_checksum=checksum
    )

  same = [
    {},
    {"run.mesh_data": 8},
    {"run.log_every": 7},
    {"run.checkpoint_every": 1},
  ]
  other = [
    {"run.seed": 1},
    {"run.steps": 7},
    {"run.evaluate_every": 2},
    {"optim.learning_rate": 2e-3},
    {"model.width": 32},
    {"data.window": 8, "data.stride": 8},
    {"objective.chunk": 64},
  ]
  assert {identity(changes) for changes in same} == {identity()}
  ids = [identity(changes) for changes in other]
  ids += [identity(), identity(checksum="b")]
  assert len(set(ids)) == len(ids)


def test_the_place_of_a_log_is_no_part_of_the_id():
  here, there = (
    override(BASE, {"data.source": MovieTweetings(raw=raw)})
    for raw in ("", "/somewhere/else")
  )
  assert run_state.run_id(here, data_checksum="a") == run_state.run_id(
    there, data_checksum="a"
  )


def test_a_status_says_what_data_it_is_of(swept):
  _, rows = swept
  status = json.loads((rows[0].run_dir / "status.json").read_text())
  assert status["data_checksum"] == ensure_prepared(BASE.data).checksum


def test_the_same_experiment_under_another_name_is_not_trained_again(swept):
  root, rows = swept
  (row,) = launch.sweep({"sixteen": LADDER["d16"]}, root)
  assert row.action == "kept"
  assert row.run_dir == rows[1].run_dir


def test_a_killed_run_is_seen_and_resumed_where_it_stopped(tmp_path):
  longer = override(BASE, {"run.steps": 200, "run.evaluate_every": 50})
  longer = override(longer, {"run.checkpoint_every": 10})
  root = tmp_path / "killed"
  script = textwrap.dedent(
    """
    import pathlib, pickle, sys
    from fmjax.scaling import launch
    experiment = pickle.loads(bytes.fromhex(sys.argv[1]))
    launch.execute(experiment, name="long", root=pathlib.Path(sys.argv[2]))
    """
  )
  child = subprocess.Popen(
    [sys.executable, "-c", script, pickle.dumps(longer).hex(), str(root)],
    stderr=subprocess.DEVNULL,
  )
  try:
    while child.poll() is None:
      time.sleep(0.01)
      found = list(root.glob("long-*/metrics.jsonl"))
      if found and any(r["step"] >= 20 for r in read_metrics(found[0])):
        break
    assert child.poll() is None, "it ended before it could be killed"
    (run_dir,) = root.glob("long-*")
    assert run_state.state_of(run_dir) == "running"
    with pytest.raises(ConfigError, match="another process is working on"):
      launch.execute(longer, name="long", root=root)
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
  assert run_state.state_of(run_dir) == "killed"
  (row,) = launch.sweep({"long": longer}, root)
  assert (row.state, row.action) == ("done", "resumed")
  steps = [
    r["step"] for r in read_metrics(run_dir / "metrics.jsonl") if "loss" in r
  ]
  assert steps == list(range(1, 201))


def test_a_failed_run_is_marked_kept_and_retried_on_request(tmp_path):
  # The rate makes the loss overflow within a few steps.
  broken = override(BASE, {"optim.learning_rate": 1e30, "optim.clip_norm": 1e9})
  experiments = {"broken": broken, "fine": LADDER["d8"]}
  rows = launch.sweep(experiments, tmp_path)
  assert [row.state for row in rows] == ["failed", "done"]
  assert "the loss is" in rows[0].error
  assert [row.action for row in launch.sweep(experiments, tmp_path)] == [
    "kept",
    "kept",
  ]
  retried = launch.sweep(experiments, tmp_path, retry_failed=True)
  assert [row.action for row in retried] == ["retried", "kept"]
  assert retried[0].state == "failed"
  runs, notes = find_runs([tmp_path])
  assert [run.name.partition("-")[0] for run in runs] == ["fine"]
  assert any("it is failed" in note for note in notes)


def test_an_evaluation_by_older_code_is_repeated_without_training(two_swept):
  (run_dir,) = two_swept.glob("d8-*")
  path = run_dir / "result.json"
  result = json.loads(path.read_text())
  path.write_text(json.dumps({**result, "eval_hash": "of older sources"}))
  log = (run_dir / "metrics.jsonl").read_bytes()
  (row,) = launch.sweep({"d8": LADDER["d8"]}, two_swept)
  assert row.action == "evaluated"
  again = json.loads(path.read_text())
  assert again["test"] == result["test"]
  assert again["eval_hash"] == result["eval_hash"]
  assert (run_dir / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize(
  "change,message",
  [
    ({"model.heads": 3}, "not a multiple of"),
    ({"objective": SampledSoftmax(negatives=61)}, "exceeds the 60 items"),
    (
      {"model.auxiliary": Auxiliary(targets=("surface",))},
      "model.auxiliary.targets",
    ),
    (
      {"model.hierarchy": HierarchicalItems(attribute="genr")},
      "did you mean 'genre'",
    ),
    (
      {
        "model.features": AllFeatures(),
        "model.request": SometimesNeutral(names=("srface",)),
      },
      "did you mean 'surface'",
    ),
    (
      {"data.weighting": Completion(feature="complete")},
      "did you mean 'completion'",
    ),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nothing_is_trained_if_one_experiment_cannot_run(
  change, message, tmp_path
):
  experiments = {"fine": LADDER["d8"], "odd": override(BASE, change)}
  with pytest.raises(ConfigError, match=message):
    launch.sweep(experiments, tmp_path)
  assert list(tmp_path.iterdir()) == []


# ---- records and report ----------------------------------------------------


def test_the_records_hold_a_row_a_run_and_a_row_a_value(swept, tmp_path):
  _, rows = swept
  paths = records.write_tables([row.run_dir for row in rows], tmp_path)
  runs, evals = map(pq.read_table, paths)
  assert runs.schema.equals(records.RUNS)
  assert evals.schema.equals(records.EVALS)
  assert runs["name"].to_pylist() == list(LADDER)
  one = [
    row
    for row in evals.to_pylist()
    if row["run_id"] == runs["run_id"][0].as_py()
    and (row["split"], row["slice"]) == ("test", "all")
    and (row["metric"], row["k"]) == ("ndcg", 10)
  ]
  assert [row["value"] for row in one] == [rows[0].test["ndcg@10"]]
  assert [[row["ci_low"], row["ci_high"]] for row in one] == [
    rows[0].test["ndcg@10_ci"]
  ]
  steps = {
    row["step"] for row in evals.to_pylist() if row["split"] == "validation"
  }
  assert steps == {3, 6}


@pytest.mark.parametrize(
  "table,column,value,sentence",
  [
    ("runs", "params_total", 1, "parts add up to"),
    ("runs", "tokens", 1, "unique tokens, but 1 seen"),
    ("runs", "wall_s", float("nan"), "wall_s is nan"),
    ("runs", "flops_model", None, "flops_model is None"),
    ("runs", "epochs", -1.0, "less than 0"),
    ("runs", "data_checksum", "other", "evaluated on different data"),
    ("runs", "run_id", "twin", "is there twice"),
    ("evals", "value", float("nan"), "is nan"),
    ("evals", "value", 7.5, "is 7.5, not a share"),
    ("evals", "run_id", "nobody", "no such run"),
    ("evals", "tokens", None, "nobody knows after how many tokens"),
  ],
)
def test_the_validator_finds_what_makes_records_unfit(
  swept, table, column, value, sentence
):
  _, rows = swept
  dirs = [row.run_dir for row in rows]
  tables = {
    "runs": records.runs_table(dirs).to_pylist(),
    "evals": records.evals_table(dirs).to_pylist(),
  }
  schemas = {"runs": records.RUNS, "evals": records.EVALS}

  def found():
    runs, evals = (
      pa.Table.from_pylist(tables[name], schema=schemas[name])
      for name in ("runs", "evals")
    )
    return validator.problems(runs, evals)

  assert found() == []
  place = next(
    i
    for i, row in enumerate(tables[table])
    if table == "runs" or row["metric"] == "hr"
  )
  tables[table][place][column] = value
  if column == "run_id" and table == "runs":
    tables[table][place + 1][column] = value
  assert any(sentence in problem for problem in found())


@pytest.mark.parametrize("value,fits", [(7.5, True), (-1.5, False)])
def test_popularity_may_be_lifted_by_any_factor_but_not_below_none(
  swept, value, fits
):
  _, rows = swept
  dirs = [row.run_dir for row in rows]
  evals = records.evals_table(dirs).to_pylist()
  lifted = [row for row in evals if row["metric"] == "popularity_lift"]
  assert {(row["split"], row["k"]) for row in lifted} == {("test", 10)}
  assert all(row["ci_low"] <= row["ci_high"] for row in lifted)
  lifted[0]["value"] = value
  found = validator.problems(
    records.runs_table(dirs), pa.Table.from_pylist(evals, schema=records.EVALS)
  )
  assert len(found) == (0 if fits else 1)


def test_a_report_is_complete_and_repeatable(swept, reported):
  out, content = reported
  figure = out / "figures" / "ladder.png"
  assert json.loads((out / "report.json").read_text()) == content
  assert [rung["name"] for rung in content["rungs"]] == list(LADDER)
  backbones = [rung["params"]["backbone"] for rung in content["rungs"]]
  assert backbones == sorted(backbones)
  for rung in content["rungs"]:
    assert {"name", "params", "tokens", "flops", "test"} <= rung.keys()
    assert {"nll", "hr@10", "ndcg@10", "ndcg@10_ci"} <= rung["test"].keys()
    parts = dict(rung["params"])
    assert parts.pop("total") == sum(parts.values())
  assert {"popularity_all", "cooccurrence"} <= content["baselines"].keys()
  assert {"best_vs_popularity_all", "best_vs_cooccurrence"} <= (
    content["compare"].keys()
  )
  assert all(low <= high for low, high in content["compare"].values())
  for baseline in content["baselines"].values():
    low, high = baseline["nll_ci"]
    assert low <= baseline["nll"] <= high
  for rung in content["rungs"]:
    low, high = rung["test"]["coverage@10_ci"]
    assert low <= rung["test"]["coverage@10"] <= high
  assert content["figure"] == str(figure)
  for path in (figure, figure.with_suffix(".svg")):
    assert path.stat().st_size > 10_000
  text = (out / "report.md").read_text()
  for name in (*LADDER, *content["baselines"]):
    assert name in text
  assert "figures/ladder.png" in text
  assert report([swept[0]], out, figure_path=figure) == content


def test_the_best_rung_is_chosen_on_validation(swept, reported):
  (_, rows), (_, content) = swept, reported
  validation = {
    row.name: records.read_json(row.run_dir / "result.json")["validation"]
    for row in rows
  }
  best = max(validation, key=lambda name: validation[name]["ndcg@10"])
  assert content["best"] == best


def test_runs_of_several_seeds_are_one_rung(two_swept, tmp_path):
  seeds = {
    f"seed{seed}": override(LADDER["d8"], {"run.seed": seed})
    for seed in range(2)
  }
  rows = launch.sweep(seeds, two_swept)
  content = report([row.run_dir for row in rows], tmp_path)
  (rung,) = content["rungs"]
  assert rung["seeds"] == [0, 1]
  expected = np.mean([row.test["nll"] for row in rows])
  assert rung["test"]["nll"] == pytest.approx(expected)
  assert any("not fitted" in w for w in content["fit"]["nll"]["warnings"])


def test_a_report_on_nothing_or_on_two_data_sets_is_refused(swept, tmp_path):
  root, _ = swept
  with pytest.raises(DataError, match="holds no run"):
    report([tmp_path], tmp_path)
  source = dataclasses.replace(BASE.data.source, seed=1)
  other = override(LADDER["d8"], {"data.source": source})
  run_dir = launch.execute(other, name="other", root=tmp_path / "runs")
  with pytest.raises(DataError, match="different data"):
    report([root, run_dir], tmp_path)


def test_a_committed_result_has_the_form_of_the_protocols(swept, tmp_path):
  root, rows = swept

  def commit(places, name, command=""):
    path = tmp_path / "synthetic" / name
    content = report(
      places, tmp_path, result_path=path, command=command or "make it"
    )
    return json.loads(path.read_text()), content

  result, content = commit([root], "ladder.json", "fmjax sweep ladder.py")
  assert result["command"] == "fmjax sweep ladder.py"
  # A report is there whole, its figure as seen from here.
  figure = pathlib.Path(result.pop("figure"))
  assert not figure.is_absolute()
  assert figure.resolve() == pathlib.Path(content.pop("figure")).resolve()
  assert content.items() <= result.items()
  assert list(result)[: len(records.RESULT_KEYS)] == list(records.RESULT_KEYS)
  assert result["name"] == result["best"]
  assert result["baselines"]["popularity_all"]["ndcg@10"] >= 0
  result, _ = commit([rows[0].run_dir], "d8.json")
  assert result["test"] == rows[0].test
  assert {"curve", "eval_hash"} <= result.keys()
  assert {"tokens", "ndcg@10"} <= result["curve"][0].keys()
  assert "rungs" not in result
  with pytest.raises(ConfigError, match="lower case"):
    commit([root], "My result.json")


def test_the_code_hash_changes_with_the_sources_that_train(tmp_path):
  assert records.code_hash() == records.code_hash()
  assert records.code_hash() != records.code_hash(("eval",))
  counts = records.code_hash(("eval", "scaling/count.py"))
  assert counts != records.code_hash(("eval",))


# ---- what a folder's report is on ------------------------------------------


def test_a_report_is_on_the_runs_of_the_file_with_all_their_seeds(
  two_swept, tmp_path
):
  root, d8 = two_swept, LADDER["d8"]
  launch.sweep({"d8": d8, "d16": LADDER["d16"]}, root, listed="ladder")
  # What `fmjax train ladder.py:d8 --run.…` leaves in the folder.
  shorter = override(d8, {"run.steps": 3})
  launch.sweep({"d8": shorter}, root)
  launch.sweep({"d8": override(d8, {"run.seed": 1})}, root)
  content = report([root], tmp_path)
  assert [r["name"] for r in content["rungs"]] == ["d8", "d16"]
  assert [r["steps"] for r in content["rungs"]] == [6, 6]
  assert sorted(content["rungs"][0]["seeds"]) == [0, 1]
  (note,) = content["notes"]
  assert "has such a run" in note
  # Without the list nobody knows what belongs together: it must be said.
  plan.list_path(root, "ladder").unlink()
  with pytest.raises(DataError, match="unequal steps"):
    report([root], tmp_path)
  runs, _ = find_runs([root])
  content = report(runs, tmp_path)
  assert sorted(r["steps"] for r in content["rungs"]) == [3, 6, 6]
  assert len({r["name"] for r in content["rungs"]}) == 3


def test_runs_of_one_name_that_differ_are_not_mixed(two_swept, tmp_path):
  changed = override(LADDER["d8"], {"optim.learning_rate": 2e-3})
  launch.execute(changed, name="d8", root=two_swept)
  with pytest.raises(DataError, match="differ by more than their seed"):
    report([two_swept], tmp_path)


# ---- a sweep among others --------------------------------------------------


def test_a_run_of_another_process_is_skipped_and_the_others_run(tmp_path):
  (entry,) = plan.plan({"d8": LADDER["d8"]}, tmp_path)
  entry.run_dir.mkdir(parents=True)
  records.write_json(entry.run_dir / "status.json", {"state": "running"})
  with (entry.run_dir / ".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    # A look takes no lock that keeps others out.
    assert run_state.state_of(entry.run_dir) == "running"
    with pytest.raises(run_state.BusyError, match="another process"):
      launch.execute(LADDER["d8"], name="d8", root=tmp_path)
    experiments = {name: LADDER[name] for name in ("d8", "d16")}
    rows = launch.sweep(experiments, tmp_path)
  assert [(row.action, row.state) for row in rows] == [
    ("skipped", "running"),
    ("trained", "done"),
  ]
  assert run_state.state_of(entry.run_dir) == "killed"


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyError("model")])
def test_any_failure_of_one_run_leaves_the_others(
  tmp_path, monkeypatch, failure
):
  def train(experiment, *args, **options):
    if experiment == LADDER["d8"]:
      raise failure
    return loop.train(experiment, *args, **options)

  monkeypatch.setattr(launch, "train", train)
  experiments = {name: LADDER[name] for name in ("d8", "d16")}
  rows = launch.sweep(experiments, tmp_path)
  assert [row.state for row in rows] == ["failed", "done"]
  assert str(failure).strip("'") in rows[0].error


def test_input_that_cannot_be_used_ends_a_sweep(tmp_path, monkeypatch):
  def train(*_, **__):
    raise DataError("the log is gone: bring it back")

  monkeypatch.setattr(launch, "train", train)
  with pytest.raises(DataError, match="bring it back"):
    launch.sweep(LADDER, tmp_path)


@pytest.mark.parametrize(
  "phase",
  [
    pytest.param("ensure_prepared", marks=pytest.mark.slow),
    pytest.param("baselines_of", marks=pytest.mark.slow),
    "train",
  ],
)
def test_sigterm_in_any_phase_keeps_what_is_done_and_skips_the_rest(
  tmp_path, monkeypatch, phase
):
  place = plan if phase == "ensure_prepared" else launch
  real = getattr(place, phase)
  calls = []

  def then_sigterm(*args, **options):
    result = real(*args, **options)
    if not calls:
      os.kill(os.getpid(), signal.SIGTERM)
    calls.append(result)
    return result

  monkeypatch.setattr(place, phase, then_sigterm)
  experiments = {name: LADDER[name] for name in ("d8", "d16")}
  first, second = launch.sweep(experiments, tmp_path)
  assert len(calls) == 1
  assert (second.action, second.state) == ("skipped", "new")
  # It was trained and is not measured yet; nothing is trained again for that.
  expected = (
    ("trained", "interrupted")
    if phase == "train"
    else (
      "skipped",
      "new",
    )
  )
  assert (first.action, first.state) == expected
  rows = launch.sweep(experiments, tmp_path)
  assert {row.state for row in rows} == {"done"}
  loss = [
    r for r in read_metrics(first.run_dir / "metrics.jsonl") if "loss" in r
  ]
  assert len(loss) == 6

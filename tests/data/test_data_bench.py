"""The benchmarks of the data: what they measure, and what they leave out."""

import json
import types

import numpy as np
import pytest

from experiments.bench import input_pipeline, prepare
from fmjax.config import DataConfig
from fmjax.data.windows import training_batches


def _run(seconds, *, events=3_000, memory=1):
  return {"events": events, "seconds": seconds, "peak_rss_bytes": memory}


def test_a_log_is_made_once(tmp_path):
  folder = prepare.make_log(3_000, tmp_path)
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  assert prepare.make_log(3_000, tmp_path) == folder
  assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
  assert [path.name for path in tmp_path.iterdir()] == ["log-3000"]


@pytest.mark.slow
def test_prepare_is_measured_in_a_process_of_its_own(tmp_path):
  log = prepare.make_log(3_000, tmp_path)
  run = prepare.measure(log, memory_limit="1GB")
  assert (run["events"], run["tokens"]) == (3_000, 3_000)
  assert (run["users"], run["items"]) == (30, 3)
  stages = ["clean", "tokenize", "catalog", "encode", "write", "finish"]
  assert list(run["stages_s"]) == stages
  assert sum(run["stages_s"].values()) == pytest.approx(run["seconds"])
  assert 50e6 < run["peak_rss_bytes"] < 2e9
  assert [path.name for path in tmp_path.iterdir()] == ["log-3000"]


def test_runs_of_one_length_count_by_their_median_and_largest_memory():
  runs = [_run(2.0, memory=3), _run(1.0, memory=5), _run(4.0)]
  found = prepare.summary([*runs, {"error": "killed"}])
  assert found["events_per_s"] == 1_500
  assert found["peak_rss_bytes"] == 5
  assert len(found["runs"]) == 4
  assert prepare.summary([{"error": "x"}]) == {"runs": [{"error": "x"}]}


def test_linearity_is_the_speed_at_the_largest_over_that_at_the_smallest():
  lengths = {1: _run(1.0), 20: _run(40.0, events=60_000, memory=7)}
  found = prepare.compare({n: prepare.summary([r]) for n, r in lengths.items()})
  assert found == {
    "events_per_s": 1_500,
    "peak_rss_bytes": 7,
    "linearity": 0.5,
  }


def test_a_peer_that_is_absent_is_null_and_said(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(prepare, "measure", lambda log, **limit: _run(1.0))
  arguments = ["--sizes", "0.003", "--rounds", "2", "--cache", str(tmp_path)]
  out = tmp_path / "out.json"
  arguments += ["--out", str(out)]
  prepare.main([*arguments, "--peer-python", str(tmp_path / "none")])
  found = json.loads(out.read_text())
  assert found["peer"] is None
  assert "none is missing" in found["peer_absent"]
  assert len(found["sizes"][0]["runs"]) == 2
  assert "the peer" not in capsys.readouterr().out


def test_a_peer_that_fails_is_not_asked_again(tmp_path, monkeypatch):
  def fail(log, **python):
    asked.append(log)
    return {"error": "killed"}

  asked = []
  monkeypatch.setattr(prepare, "measure", lambda log, **limit: _run(1.0))
  monkeypatch.setattr(prepare, "measure_peer", fail)
  (tmp_path / "python").write_text("")
  arguments = ["--sizes", "0.003", "--rounds", "2", "--cache", str(tmp_path)]
  arguments += ["--out", str(tmp_path / "out.json")]
  prepare.main([*arguments, "--peer-python", str(tmp_path / "python")])
  found = json.loads((tmp_path / "out.json").read_text())
  assert found["peer"] == [{"runs": [{"error": "killed"}]}]
  assert len(asked) == 1


def test_a_peer_that_dies_is_an_error_and_not_the_end(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\nexit 3\n")
  python.chmod(0o755)
  found = prepare.measure_peer(tmp_path, python=python)
  assert found == {
    "error": "experiments.bench.peer.rectools_prepare ended with status 3; what"
    " it said is above"
  }


def test_reading_counts_the_targets_of_the_batches_it_is_asked_for(
  prepared_of, monkeypatch
):
  events = [
    {"user_id": f"u{n % 9}", "item_id": f"i{n % 5}", "timestamp": 10**9 + n}
    for n in range(300)
  ]
  prepared = prepared_of(events)
  data = DataConfig(window=8, stride=8, rows=4)
  reading = input_pipeline.Reading(prepared, data)
  clock = types.SimpleNamespace(perf_counter=iter([0.0, 2.0]).__next__)
  monkeypatch.setattr(input_pipeline, "time", clock)
  rate = reading.tokens_per_s(3)
  dataset = training_batches(prepared, window=8, stride=8, rows=4, seed=0)
  skipped = input_pipeline._WARM_UP
  counted = [dataset[t] for t in range(skipped, skipped + 3)]
  assert rate == sum(np.sum(b.weight_bt > 0) for b in counted) / 2
  assert reading.facts["in_memory"]


def test_the_ratio_is_that_of_the_slowest_log():
  found = input_pipeline.summary(
    [10.0, 20.0, 30.0], {"a": [100.0, 80.0, 90.0], "b": [400.0, 400.0, 1.0]}
  )
  assert found["ratio"] == 4.5
  assert found["ratios"] == {"a": 4.5, "b": 20.0}
  assert found["step_tokens_per_s"] == 20

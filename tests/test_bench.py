"""Benchmarks keep their protocol and count what they say they count.

The peer is not installed where tests run: a stub stands in its place.
"""

import importlib
import json
import pathlib
import re
import sys

import pytest

from experiments.bench import __main__ as every
from experiments.bench import (
  attention,
  evaluation,
  gpu,
  protocol,
  record,
  scaling_fit,
  sides,
  time_to_quality,
  train_throughput,
)
from experiments.movielens_1m import sasrec_ce
from fmjax import mesh
from fmjax.config import (
  FusedAttention,
  LeaveLastOut,
  Synthetic,
  override,
)
from fmjax.data.prepare import prepare
from fmjax.data.windows import training_batches
from fmjax.scaling import records

BENCH = pathlib.Path(protocol.__file__).parent
LEG = {"cpu_s": 20.0, "tokens": 100, "steps": 1, "peak_rss_bytes": 8}


class Stub:
  """A worker whose legs take `seconds`, with one NDCG@10 after another."""

  def __init__(self, name, *, seconds, ndcg=(), asked=None):
    self.facts = {"name": name, "version": "1"}
    self.asked = [] if asked is None else asked
    self.closed = False
    self._seconds, self._ndcg = seconds, iter(ndcg)

  def ask(self, what):
    self.asked.append((self.facts["name"], what))
    if what == "train":
      return {**LEG, "seconds": self._seconds}
    return {"ndcg@10": next(self._ndcg), "users": 3, "seconds": 1.0}

  def close(self):
    self.closed = True


# ---- the protocol ----------------------------------------------------------


@pytest.mark.slow
def test_fmjax_trains_and_evaluates_as_asked(tmp_path):
  experiment = override(
    sasrec_ce(),
    {
      "data.source": Synthetic(events=3_000, users=150, items=60),
      "data.window": 16,
      "data.stride": 16,
      "data.rows": 4,
      "model.width": 8,
      "run.steps": 4,
      "run.log_every": 1,
    },
  )
  data = experiment.data
  prepared = prepare(data.source, tmp_path / "log", split=data.split)
  batches = training_batches(
    prepared, window=data.window, stride=data.stride, rows=data.rows, seed=0
  )
  targets = [int((batches[step].weight_bt > 0).sum()) for step in range(4)]
  with sides.start_fmjax(
    sys.executable, experiment, prepared, tmp_path / "run", leg=2
  ) as worker:
    assert worker.facts["name"] == "fmjax"
    assert worker.facts["catalog_items"] == prepared.spec.items - 1
    first, second = (worker.ask("train") for _ in range(2))
    measured = worker.ask("evaluate")
  assert [leg["tokens"] for leg in (first, second)] == [
    sum(targets[:2]),
    sum(targets[2:]),
  ]
  assert first["steps"] == second["steps"] == 2
  assert min(first["seconds"], second["seconds"]) > 0
  assert second["peak_rss_bytes"] > 2**26
  assert measured["users"] == len(prepared.index)
  assert 0 <= measured["ndcg@10"] <= 1


def test_a_worker_that_dies_is_named():
  with pytest.raises(RuntimeError, match=r"json\.tool ended with status [12]"):
    protocol.Worker(sys.executable, "json.tool", {"not": "a file"})


def test_memory_counts_this_process():
  assert protocol.peak_rss_bytes() > 2**20


# ---- the two sides ---------------------------------------------------------


def test_sides_take_turns_and_who_begins_alternates():
  asked = []
  peer, ours = (Stub(n, seconds=1, asked=asked) for n in ("peer", "fmjax"))
  pairs = sides.alternate(peer, ours, "train", pairs=3)
  order = ["peer", "fmjax", "fmjax", "peer", "peer", "fmjax"]
  assert [name for name, _ in asked] == order
  assert [set(pair) for pair in pairs] == [{"peer", "fmjax"}] * 3


def test_both_sides_have_the_same_targets(tmp_path):
  histories = {
    "long": [str(item) for item in range(250)],
    "short": [str(item) for item in range(5)],
  }
  of_peer, of_fmjax = train_throughput.same_targets(histories)
  files = sides.peer_files(of_peer, tmp_path)
  pairs = [line.split() for line in files.train.read_text().splitlines()]
  for user, length in {"long": 200, "short": 2}.items():
    inputs = [item for name, item in pairs if name == user]
    # The peer's first item is input only; fmjax holds its last two out.
    assert inputs[1:] == of_fmjax[user][:-2]
    assert len(inputs[1:]) == length
    assert of_peer[user][-2:] == histories[user][-2:]
  assert files.validation.read_text() == "long 248\nshort 3\n"


def test_without_the_peer_a_sentence_says_what_installs_it(tmp_path):
  files = sides.peer_files({}, tmp_path)
  with pytest.raises(SystemExit, match="make bench-peers"):
    sides.start_peer(tmp_path / "python", files, sides.PEER_MODEL, leg=1)


def test_the_peer_is_built_in_the_shape_of_ours():
  model, data = sasrec_ce().model, sasrec_ce().data
  peer = sides.PEER_MODEL
  assert (model.width, model.layers, model.heads, model.dropout) == (
    peer["n_factors"],
    peer["n_blocks"],
    peer["n_heads"],
    peer["dropout_rate"],
  )
  assert data.window == peer["session_max_len"]
  assert data.split == LeaveLastOut()


def test_every_pin_of_the_peer_is_exact():
  lines = (BENCH / "peer" / "requirements.txt").read_text().splitlines()
  pins = [line for line in lines if not line.startswith("#")]
  assert pins[0].startswith("torch==")
  assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


# ---- what is made of the answers -------------------------------------------


def test_throughput_is_a_ratio_of_medians_with_all_pairs_beside():
  pairs = [
    {
      "fmjax": {**LEG, "seconds": ours, "peak_rss_bytes": 4},
      "peer": {**LEG, "seconds": peer},
    }
    for ours, peer in [(1, 2), (1, 8), (2, 5)]
  ]
  found = train_throughput.summary(pairs)
  assert found["tokens_per_s"] == {"fmjax": 100, "peer": 20}
  assert found["ratio"] == 5
  assert found["pair_ratios"] == [2, 8, 2.5]
  assert found["median_of_pair_ratios"] == 2.5
  assert found["memory_ratio"] == 0.5


def test_throughput_of_a_loss_not_measured_is_null():
  found = train_throughput.result({"bce": {"ratio": 2.0, "memory_ratio": 1.0}})
  assert found["ratio_bce"] == 2.0
  assert found["ratio_full_softmax"] is None
  assert found["memory_ratio"] is None


def test_throughput_legs_end_with_a_logged_step():
  for loss in train_throughput.LOSSES.values():
    experiment = train_throughput.throughput_experiment(loss, steps=15, legs=3)
    assert experiment.run.steps == 45
    assert 15 % experiment.run.log_every == 0


def test_evaluation_is_a_ratio_of_median_seconds():
  pairs = [
    {"fmjax": {"seconds": a, "users": 3}, "peer": {"seconds": b, "users": 3}}
    for a, b in [(1, 4), (2, 4), (3, 12)]
  ]
  found = evaluation.summary(pairs)
  assert (found["fmjax_s"], found["peer_s"], found["ratio"]) == (2, 4, 0.5)


def run_race(ours, peer, tmp_path, *, until=float("inf")):
  written = []
  found = time_to_quality.race(
    time_to_quality.Runner(ours, threshold=0.17, epochs=3),
    time_to_quality.Runner(peer, threshold=0.17),
    until=until,
    pause_file=tmp_path / "absent",
    write=written.append,
  )
  return found, written


def test_the_peer_goes_on_alone_to_the_threshold(tmp_path):
  ours = Stub("fmjax", seconds=2.0, ndcg=[0.1, 0.18, 0.16])
  peer = Stub("peer", seconds=10.0, ndcg=[0.1, 0.12, 0.14, 0.16, 0.17])
  found, written = run_race(ours, peer, tmp_path)
  assert found["fmjax_s"] == 4
  assert found["peer_s"] == 50
  assert found["ratio"] == found["ratio_upper_bound"] == 4 / 50
  assert [len(found["curves"][side]) for side in ("fmjax", "peer")] == [3, 5]
  assert len(written) == 8
  assert ours.closed
  assert peer.closed


def test_a_peer_that_has_not_arrived_bounds_the_ratio():
  ours = time_to_quality.Runner(
    Stub("fmjax", seconds=2.0, ndcg=[0.17]), threshold=0.17, epochs=3
  )
  peer = time_to_quality.Runner(
    Stub("peer", seconds=10.0, ndcg=[0.1, 0.12]), threshold=0.17
  )
  for runner in (ours, peer, peer):
    runner.epoch()
  found = time_to_quality.summary(ours, peer)
  assert found["ratio"] is None
  assert found["peer_s"] is None
  assert found["ratio_upper_bound"] == 2 / 20


def test_no_epoch_begins_after_the_limit(tmp_path):
  stubs = [Stub(name, seconds=1.0) for name in ("fmjax", "peer")]
  found, written = run_race(*stubs, tmp_path, until=0)
  assert written == []
  assert found["ratio_upper_bound"] is None


# ---- records ---------------------------------------------------------------


def test_a_record_says_on_what_its_numbers_depend(tmp_path):
  path = tmp_path / "new" / "x.json"
  record.write(path, command="python -m x", result={"ratio": 2.0})
  written = json.loads(path.read_text())
  assert written["ratio"] == 2.0
  assert written["command"] == "python -m x"
  assert written["code_hash"] == records.code_hash()
  assert written["machine"]["cores"] > 0
  assert written["machine"]["memory_bytes"] > 2**28
  assert {"jax", "duckdb"} <= written["versions"].keys()
  with pytest.raises(ValueError, match="command"):
    record.write(path, command="", result={"command": ""})


def test_losses_measured_by_other_code_are_measured_again(tmp_path):
  path = tmp_path / "x.json"
  assert train_throughput.earlier(path) == {}
  losses = {"bce": {"ratio": 2.0, "memory_ratio": 1.0}}
  result = train_throughput.result(losses)
  record.write(path, command="", result=result)
  assert train_throughput.earlier(path) == losses
  changed = {**json.loads(path.read_text()), "code_hash": "other"}
  path.write_text(json.dumps(changed))
  assert train_throughput.earlier(path) == {}


def test_every_benchmark_is_run_by_make_and_opens_with_its_command():
  names = (*every.everywhere(), *every.WITH_GPU, *every.WITH_PEER)
  assert "fmjax_worker" not in names
  for name in names:
    module = importlib.import_module(f"experiments.bench.{name}")
    assert f"python -m experiments.bench.{name}" in (module.__doc__ or "")
    assert (module.__doc__ or "").splitlines()[0].endswith("?")


def test_attention_is_measured_with_what_is_asked_of_it(monkeypatch):
  whole = attention.forms()
  monkeypatch.setattr(
    attention, "forms", lambda: {n: whole[n] for n in ("full", "low_rank_2")}
  )
  with mesh.use(mesh.make_mesh()):
    row = attention.measure(8, rounds=1)
  us_per_token = {2: {"1024": 2.0, "8192": 3.0}}
  assert row["ms"].keys() == row["temp_bytes"].keys()
  assert min(row["ms"].values()) > 0
  found = attention.result([{**row, "window": 4_096}], us_per_token)
  assert found["cost_ratio_8192_1024"] == 1.5
  assert found["ranks"]["2"]["attention_speedup_4096"] == (
    row["ms"]["full"] / row["ms"]["low_rank_2"]
  )
  assert (found["block"], found["rank"]) == (32, 2)


def test_a_row_of_the_gpu_table_is_measured_on_any_device():
  tiny = override(
    gpu.experiment(64, dtype="float32", attention=FusedAttention()),
    {"data.window": 8, "data.stride": 8, "data.rows": 2, "model.layers": 1},
  )
  with mesh.use(mesh.make_mesh()):
    row = gpu.measure(tiny, peak_flop_s=1e12, steps=1)
  assert row["tokens_per_s"] == pytest.approx(16 / (row["step_ms"] / 1e3))
  assert 0 < row["mfu"] < 1
  assert 5 < row["loss"] < 11  # log of 3,416 items is 8.1


def test_the_gpu_table_names_every_combination_once():
  rows = [
    (of.model.width, of.model.dtype, of.model.attention, of.objective)
    for of in gpu.rows()
  ]
  assert len(rows) == len(set(rows)) == 22
  assert {width for width, *_ in rows} == set(gpu.WIDTHS)


def test_without_a_gpu_nothing_is_written(tmp_path):
  with pytest.raises(SystemExit, match="no GPU"):
    gpu.main(["--out", str(tmp_path / "gpu.json")])
  assert not list(tmp_path.iterdir())


def test_fits_are_timed_and_a_slow_one_fails(tmp_path, monkeypatch):
  monkeypatch.setattr(scaling_fit, "STARTS", 8)
  monkeypatch.setattr(scaling_fit, "DRAWS", 5)
  monkeypatch.setattr(scaling_fit.os, "sched_setaffinity", lambda *_: None)
  path = tmp_path / "x.json"
  words = ["--out", str(path), "--forms", "chinchilla", "power_offset"]
  scaling_fit.main([*words, "--points", "240", "--rounds", "1"])
  written = json.loads(path.read_text())
  assert [row["form"] for row in written["rows"]] == [
    "chinchilla",
    "power_offset",
  ]
  assert all(row["good"] for row in written["rows"])
  slow = {**written["rows"][0], "bootstrap_s": 61.0}
  (sentence,) = scaling_fit.too_slow([*written["rows"], slow])
  assert "bootstrap of 240 points took 61.0 s, more than 60" in sentence

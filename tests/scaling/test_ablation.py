"""Arms against a reference, on the same users, seeds averaged first."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from fmjax.config import (
  Completion,
  ConfigError,
  DataConfig,
  Experiment,
  RunTokens,
  Synthetic,
  override,
  to_dict,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.eval.baselines import baselines as rank_baselines
from fmjax.eval.compare import compare
from fmjax.eval.metrics import query_values, summary
from fmjax.eval.ranked import TOP, Ranked
from fmjax.scaling import measure, paired, records
from fmjax.scaling.reports import ablation
from fmjax.scaling.reports.arms import arms as named_arms
from fmjax.scaling.reports.arms import read_arms
from fmjax.scaling.sweep import plan

QUERIES = 400
SEEDS = 3


def answers(seed: int, *, skill: float = 0.0) -> Ranked:
  """The same queries always; ranks by seed, better where `skill` is high."""
  fixed = np.random.default_rng(0)
  user = np.arange(QUERIES, dtype=np.int32)
  train_count = fixed.choice([0, 3, 50], QUERIES).astype(np.int32)
  hard = fixed.exponential(20.0, QUERIES)
  noise = np.random.default_rng(seed + 1).exponential(5.0, QUERIES)
  rank = 1 + (np.exp(-skill) * (hard + noise)).astype(np.int32)
  return Ranked(
    user=user,
    history_length=user * 0 + 5,
    item=user + 1,
    time_s=user,
    rank=rank,
    nll=np.log(1.0 + rank).astype(np.float32),
    train_count=train_count,
    top10_nk=np.tile(np.arange(1, TOP + 1, dtype=np.int32), (QUERIES, 1)),
    catalog_items=1_000,
    split="test",
    targets="first",
    seen_filtered=True,
    data_checksum="d",
  )


def certain(skill: float) -> Ranked:
  """A baseline: the same every time."""
  return answers(-1, skill=skill)


def write_baselines(root, baselines: dict[str, Ranked]) -> None:
  """As a sweep leaves them."""
  folder = measure.baseline_dir("d", root=root)
  folder.mkdir(parents=True)
  for name, ranked in baselines.items():
    ranked.to_parquet(folder / f"{name}.parquet")
  known = {name: summary(ranked) for name, ranked in baselines.items()}
  records.write_json(folder / "summary.json", known)


BASELINES = {
  "popularity_7d_rolling": certain(0.3),
  "popularity_age_hour": certain(0.0),
  "oracle": certain(2.0),
}


def write_run(
  root, name: str, experiment: Experiment, ranked: Ranked, *, gate=None
) -> None:
  folder = root / name
  folder.mkdir(parents=True)
  run = {
    "name": name,
    "run_id": name,
    "config": to_dict(experiment),
    "seed": experiment.run.seed,
    "code_hash": "c",
    "data_checksum": ranked.data_checksum,
    "versions": {},
    "device": "one",
    "selected_step": 7,
    "trunk": name,
    "tokens": 100,
    "unique_tokens": 100,
    "epochs": 1.0,
    "users": QUERIES,
    "train_s": 1.0,
    "wall_s": 2.0,
    "params": {
      "item_tables": 20,
      "features": 5,
      "backbone": 10,
      "head": 0,
      "total": 35,
    },
    "flops": {"six_nd": 6e3, "model": 9e3, "xla": None},
    "item_bytes": {"total": 80},
    "catalog": {"items": 300, "targets": "first"},
    "validation": {"ndcg@10": 0.5, "nll": 1.0},
    "test": {"ndcg@10": 0.5, "nll": 1.0},
    "gate": gate,
  }
  records.write_json(folder / "result.json", run)
  status = {"state": "done", "run_id": name, "name": name}
  records.write_json(folder / "status.json", status)
  metrics = {"step": 7, "loss": 1.0, "tokens": 100}
  (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
  ranked.to_parquet(folder / "test.parquet")


def make_study(root):
  """Two arms on one data set, three seeds each."""
  base = Experiment()
  for arm, skill, width in (("gate", 1.0, 64), ("plain", 0.0, 32)):
    named = named_arms(
      "log", {arm: override(base, {"model.width": width})}, seeds=SEEDS
    )
    for name, experiment in named.items():
      seed = experiment.run.seed
      weights = {"first_days": [None, 0], "id_weight": [0.0, seed / 2]}
      write_run(
        root,
        name,
        experiment,
        answers(seed, skill=skill),
        gate=weights if arm == "gate" else None,
      )
  write_baselines(root, BASELINES)
  return root


@pytest.fixture
def study(tmp_path):
  return make_study(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """What a report says of each arm."""
  root = make_study(tmp_path_factory.mktemp("study"))
  content = ablation.report([root], root / "out", reference="plain")
  return content["arms"]["log"]


def test_arms_have_a_name_for_every_seed():
  named = named_arms("log", {"gate": Experiment()}, seeds=2)
  assert {name: e.run.seed for name, e in named.items()} == {
    "log-gate-s0": 0,
    "log-gate-s1": 1,
  }


def test_an_arm_is_compared_on_the_same_users_with_seeds_averaged(told):
  gate = told["gate"]
  runs = {
    skill: [answers(seed, skill=skill) for seed in range(SEEDS)]
    for skill in (0.0, 1.0)
  }
  expected = compare(runs[1.0], runs[0.0], metric="ndcg@10")
  found = gate["slices"]["all"]["to_reference"]["ndcg@10"]
  assert found["difference"] == pytest.approx(expected.difference)
  assert found["interval"] == pytest.approx(expected.interval)
  assert found["separates"]
  assert gate["seeds"] == [0, 1, 2]
  assert "to_reference" not in told["plain"]["slices"]["all"]


def test_slices_part_the_targets_by_what_was_known_of_them(told):
  queries = {
    name: found["queries"] for name, found in told["gate"]["slices"].items()
  }
  count = answers(0).train_count
  assert queries == {
    "all": QUERIES,
    "unseen": (count == 0).sum(),
    "cold": (count < paired.COLD).sum(),
    "warm": (count >= paired.COLD).sum(),
  }


def test_an_empty_slice_has_no_metric(tmp_path):
  ranked = answers(0)
  warm = ranked.where(ranked.train_count >= paired.COLD)
  write_run(tmp_path, "log-gate-s0", Experiment(), warm)
  write_baselines(tmp_path, {})
  content = ablation.report([tmp_path], tmp_path / "out", reference="gate")
  slices = content["arms"]["log"]["gate"]["slices"]
  assert slices["unseen"] == {"queries": 0}


def test_a_result_file_is_written_for_every_arm(study):
  folder = study / "results" / "ablate_gate"
  ablation.report(
    [study],
    study / "out",
    reference="plain",
    result=folder,
    command="again",
  )
  files = {path.name: path for path in folder.iterdir()}
  assert sorted(files) == ["log_gate.json", "log_plain.json"]
  gate = json.loads(files["log_gate.json"].read_text())
  assert gate["command"] == "again"
  assert gate["reference"] == "plain"
  assert gate["slices"]["warm"]["to_reference"]["nll"]["difference"] < 0
  assert set(gate["baselines"]) == set(BASELINES)


def test_an_unknown_reference_is_refused_with_the_nearest_arm(study):
  with pytest.raises(ConfigError, match="did you mean 'plain'"):
    ablation.report([study], study / "out", reference="plan")


def test_a_run_that_is_no_arm_is_refused_by_its_name(tmp_path):
  write_run(tmp_path, "d16", Experiment(), answers(0))
  with pytest.raises(DataError, match=r"'d16' is no arm .* data-arm-sSEED"):
    ablation.report([tmp_path], tmp_path / "out", reference="d16")


def test_seeds_of_an_arm_that_differ_by_more_are_refused(study):
  other = override(Experiment(), {"model.width": 16, "run.seed": 3})
  write_run(study, "log-gate-s3", other, answers(3))
  with pytest.raises(DataError, match="log-gate differ by more"):
    ablation.report([study], study / "out", reference="plain")


# ---- beside baselines and the oracle ---------------------------------------


@pytest.mark.parametrize("name", paired.SLICES)
def test_an_arm_is_compared_with_every_baseline_on_every_slice(told, name):
  found = told["gate"]["slices"][name]
  runs = [paired.part(answers(seed, skill=1.0), name) for seed in range(SEEDS)]
  for baseline, ranked in BASELINES.items():
    theirs = paired.part(ranked, name)
    expected = compare(runs, theirs, metric="ndcg@10")
    said = found["compare"][baseline]
    assert said["difference"] == pytest.approx(expected.difference)
    assert said["interval"] == pytest.approx(expected.interval)
    assert said["separates"] == expected.separates
    of_baseline = found["baselines"][baseline]
    assert of_baseline["ndcg@10"] == pytest.approx(expected.second)


def test_the_gap_closed_is_a_share_of_what_the_oracle_gains(told):
  gate = told["gate"]
  for name, key in (("all", "gap_closed"), ("cold", "gap_closed_cold")):
    mine = np.mean(
      [paired.part(answers(s, skill=1.0), name).nll for s in range(SEEDS)]
    )
    static, oracle = (
      paired.part(BASELINES[b], name).nll.mean()
      for b in ("popularity_age_hour", "oracle")
    )
    expected = (static - mine) / (static - oracle)
    assert gate[key] == pytest.approx(expected, rel=1e-4)
    low, high = gate[f"{key}_ci"]
    assert low < gate[key] < high


def test_the_oracle_closes_the_gap_and_the_static_baseline_none_of_it():
  static, oracle = BASELINES["popularity_age_hour"], BASELINES["oracle"]
  whole = paired.gap_closed([oracle], static=static, oracle=oracle)
  assert whole == {"gap_closed": 1.0, "gap_closed_ci": [1.0, 1.0]}
  none = paired.gap_closed([static], static=static, oracle=oracle)
  assert none["gap_closed"] == 0
  assert paired.gap_closed([static], static=static, oracle=static) == {}


def test_the_weights_of_a_gate_are_averaged_over_seeds(told):
  assert told["gate"]["gate"] == {
    "first_days": [None, 0],
    "id_weight": [0.0, 0.5],
    "id_weight_by_seed": [[0.0, 0.0], [0.0, 0.5], [0.0, 1.0]],
  }
  assert "gate" not in told["plain"]


def test_all_arms_go_to_one_file_with_the_records_beside(study):
  path = study / "results" / "gates.json"
  ablation.report(
    [study], study / "out", reference="plain", result=path, command="again"
  )
  written = json.loads(path.read_text())
  assert written["command"] == "again"
  assert written["reference"] == "plain"
  assert written["config"]["model"]["width"] == 32
  assert sorted(written["arms"]) == ["gate", "plain"]
  assert "to_reference" in written["arms"]["gate"]["slices"]["all"]
  runs = pq.read_table(path.with_suffix("") / "runs.parquet")
  assert runs.num_rows == 2 * SEEDS


def test_in_the_folder_of_its_data_a_result_is_named_by_the_arm(study):
  folder = study / "results" / "log"
  ablation.report([study], study / "out", reference="plain", result=folder)
  assert sorted(p.name for p in folder.iterdir()) == ["gate.json", "plain.json"]


# ---- arms that are asked other queries -------------------------------------


def test_granularities_are_compared_on_the_queries_that_both_have(tmp_path):
  base = Experiment()
  runs = override(base, {"data.granularity": RunTokens()})
  whole = answers(0)
  asked = whole.user % 4 > 0
  asked[1] = False
  # Another query of the same user is another query.
  other_item = np.where(whole.user == 2, whole.item + 500, whole.item)
  fewer = dataclasses.replace(
    answers(0, skill=1.0),
    item=other_item.astype(np.int32),
    history_length=whole.history_length - 1,
    train_count=whole.train_count * 0,
    data_checksum="of runs",
  ).where(asked)
  write_run(tmp_path, "log-reference-s0", base, whole)
  write_run(tmp_path, "log-runs-s0", runs, fewer)
  found, _ = read_arms([tmp_path])
  content = ablation.compare_arms(
    found["log"], reference="reference", baselines=BASELINES
  )
  told = content["runs"]
  shared = asked & (whole.user != 2)
  assert told["left_out_queries"] == {
    "runs": 1,
    "reference": QUERIES - shared.sum(),
  }
  all_ = told["slices"]["all"]
  assert all_["queries"] == shared.sum()
  expected = compare(
    answers(0, skill=1.0).where(shared), whole.where(shared), metric="nll"
  )
  assert all_["to_reference"]["nll"]["difference"] == pytest.approx(
    expected.difference
  )
  # What is cold is the reference's to say.
  cold = shared & (whole.train_count < paired.COLD)
  assert told["slices"]["cold"]["queries"] == cold.sum()
  assert content["reference"]["slices"]["all"]["queries"] == QUERIES


def test_arms_of_one_granularity_must_be_asked_the_same(study):
  write_run(
    study,
    "log-other-s0",
    override(Experiment(), {"model.width": 8}),
    answers(0).where(answers(0).user > 3),
  )
  with pytest.raises(ConfigError, match="answer different queries"):
    ablation.report([study], study / "out", reference="plain")


# ---- files that share a folder of runs -------------------------------------


def write_list(root, file, runs):
  records.write_json(plan.list_path(root, file), {"runs": runs})


def test_a_file_is_reported_on_among_the_runs_of_others(study):
  """Both files have the reference; each has an arm of its own."""
  for file, arms in (("one", ("plain", "gate")), ("two", ("plain", "wide"))):
    listed = [f"log-{arm}-s{seed}" for arm in arms for seed in range(SEEDS)]
    write_list(study, file, {name: name for name in listed})
  wide = override(Experiment(), {"model.width": 128})
  for name, experiment in named_arms("log", {"wide": wide}, seeds=2).items():
    write_run(study, name, experiment, answers(experiment.run.seed))
  content = ablation.report(
    [plan.list_path(study, "two")], study / "out", reference="plain"
  )
  assert set(content["arms"]["log"]) == {"plain", "wide"}
  assert content["notes"] == ["log-wide-s2 is left out: it has not begun"]
  both = ablation.report([study], study / "out", reference="plain")
  assert set(both["arms"]["log"]) == {"plain", "gate", "wide"}


def test_an_arm_is_called_as_the_file_calls_it_not_as_who_trained_it(study):
  listed = {f"log-base-s{seed}": f"log-plain-s{seed}" for seed in range(SEEDS)}
  write_list(study, "three", listed)
  content = ablation.report(
    [plan.list_path(study, "three")], study / "out", reference="base"
  )
  assert set(content["arms"]["log"]) == {"base"}


def test_a_file_that_nobody_swept_is_refused_by_its_list(study):
  with pytest.raises(DataError, match=r"three\.sweep\.json is absent: sweep"):
    ablation.report(
      [plan.list_path(study, "three")], study / "out", reference="plain"
    )


def test_an_arm_with_weights_is_also_told_by_its_own_measure(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("FMJAX_CACHE", raising=False)
  source = Synthetic(events=2_000, users=80, items=40)
  base = Experiment(data=DataConfig(source=source))
  changes = {"data.weighting": Completion(feature="completion")}
  prepared = ensure_prepared(base.data)
  ranked = rank_baselines(prepared, split="test")
  of_arm = {
    "plain": (base, ranked["popularity_all"]),
    "watched": (override(base, changes), ranked["cooccurrence"]),
  }
  root = tmp_path / "runs"
  for arm, (experiment, answered) in of_arm.items():
    for name, seeded in named_arms("log", {arm: experiment}, seeds=2).items():
      write_run(root, name, seeded, answered)
  arms = ablation.report([root], tmp_path / "out", reference="plain")["arms"]
  assert "weighted_to_reference" not in arms["log"]["plain"]
  told = arms["log"]["watched"]["weighted_to_reference"]["ndcg@10"]
  mine, theirs = ranked["cooccurrence"], ranked["popularity_all"]
  encoded = next(
    f for f in prepared.spec.features if f.feature.name == "completion"
  )
  weight = [
    prepared.history(user)["completion"][token] * encoded.std + encoded.mean
    for user, token in zip(mine.user, mine.history_length, strict=True)
  ]
  weight = np.nan_to_num(np.clip(weight, 0, 1))
  gain = query_values(mine, "ndcg@10") - query_values(theirs, "ndcg@10")
  assert told["difference"] == pytest.approx(
    np.average(gain, weights=weight), abs=1e-5
  )
  low, high = told["interval"]
  assert low < told["difference"] < high
  alike = arms["log"]["watched"]["slices"]["all"]["to_reference"]["ndcg@10"]
  assert told["difference"] != pytest.approx(alike["difference"], abs=1e-4)

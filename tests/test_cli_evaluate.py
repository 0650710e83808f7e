"""Asking runs again: of several seeds, without features, and for a head."""

import json
import shutil

import pytest

from fmjax.__main__ import main
from fmjax.config import (
  AsLogged,
  BidirectionalAttention,
  ItemOnly,
  Masked,
  SometimesNeutral,
  from_dict,
  override,
  to_dict,
)

EXPERIMENT = '''"""What does the surface decide?"""
from fmjax.config import (
  Auxiliary, DataConfig, Experiment, IdOnly, ItemsConfig, ModelConfig, NoTime,
  RunConfig, SometimesNeutral, Synthetic, override
)

def experiments():
  first = Experiment(
    data=DataConfig(
      source=Synthetic(events=800, users=50, items=30),
      window=8, stride=8, rows=4,
    ),
    model=ModelConfig(
      width=8, layers=1, heads=1, time=NoTime(),
      items=ItemsConfig(mixer=IdOnly()),
      request=SometimesNeutral(names=("surface",)),
      auxiliary=Auxiliary(targets=("genre",)),
    ),
    run=RunConfig(steps=2, evaluate_every=2, checkpoint_every=2, log_every=1),
  )
  return {
    "neutral": first,
    "again": override(first, {"run.seed": 1, "run.log_every": 2}),
    "wider": override(first, {"model.width": 16, "run.seed": 2}),
  }
'''
MASKED = {
  "model.features": ItemOnly(),
  "model.request": AsLogged(),
  "model.reading": Masked(),
  "model.attention": BidirectionalAttention(),
}
TOGETHER = {"model.request": SometimesNeutral(names=("surface", "device"))}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """A folder with two seeds of a run, another, and two that never began."""
  root = tmp_path_factory.mktemp("project")
  (root / "shown.py").write_text(EXPERIMENT)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    patch.delenv("FMJAX_CACHE", raising=False)
    assert main(["train", "shown.py"]) == 0
  (config,) = root.glob("runs/shown/neutral-*/config.json")
  shutil.copytree(config.parent, root / "runs" / "shown" / "twin-copied")
  # Whether a run can be asked is decided before its model is read.
  trained = from_dict(json.loads(config.read_text()))
  for name, changes in {"masked": MASKED, "together": TOGETHER}.items():
    place = root / "runs" / "shown" / f"{name}-untrained"
    place.mkdir()
    told = to_dict(override(trained, changes))
    (place / "config.json").write_text(json.dumps(told))
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


def test_a_run_is_asked_without_the_surface_next_to_as_logged(ask):
  told = ask("evaluate", "runs/shown/neutral", "--neutral", "surface")
  without = told["neutral"]
  assert without["names"] == ["surface"]
  assert without["test"].keys() == told["test"].keys()
  assert without["test"]["queries"] == told["test"]["queries"]
  assert without["test"]["nll"] != told["test"]["nll"]
  paired = without["to_told"]["nll"]
  assert paired["difference"] == pytest.approx(
    without["test"]["nll"] - told["test"]["nll"], abs=1e-6
  )
  assert paired["interval"][0] <= paired["difference"] <= paired["interval"][1]
  assert "neutral" not in ask("evaluate", "runs/shown/neutral")


def test_seeds_are_averaged_and_their_result_can_be_committed(ask, project):
  question = ("--neutral", "surface", "--slices")
  one, other = (
    ask("evaluate", f"runs/shown/{name}", *question)
    for name in ("neutral", "again")
  )
  path = project / "results" / "neutral" / "shown.json"
  both = ask(
    *("evaluate", "runs/shown/neutral", "runs/shown/again", *question),
    *("--result", str(path)),
  )
  for read in (
    lambda told: told["test"],
    lambda told: told["neutral"]["test"],
    lambda told: told["slices"]["history"]["5-19"],
  ):
    means, (a, b) = read(both), map(read, (one, other))
    assert a["nll"] != b["nll"]
    for metric in ("nll", "ndcg@10", "coverage@10"):
      assert means[metric] == pytest.approx((a[metric] + b[metric]) / 2)
      low, high = means[f"{metric}_ci"]
      assert low <= means[metric] <= high
    assert means["queries"] == a["queries"]
  lift = "popularity_lift@10"
  assert both["test"][lift] == pytest.approx(
    (one["test"][lift] + other["test"][lift]) / 2
  )
  assert both["baselines"] == one["baselines"]
  written = json.loads(path.read_text())
  for key in ("test", "neutral", "slices", "selected_steps"):
    assert written["asked"][key] == both[key]
  assert written["baselines"] == both["baselines"]
  assert written["test"]["nll"] == pytest.approx(one["test"]["nll"])
  assert written["seeds"] == [0, 1]
  assert written["command"].startswith(
    "fmjax evaluate runs/shown/neutral runs/shown/again --neutral surface"
  )


def test_a_head_of_several_seeds_can_be_committed(ask, project):
  path = project / "results" / "heads" / "shown.json"
  told = ask(
    *("evaluate", "runs/shown/neutral", "runs/shown/again", "--head", "genre"),
    *("--split", "validation", "--result", str(path), "--command", "make it"),
  )
  written = json.loads(path.read_text())
  assert written["command"] == "make it"
  assert written["asked"]["split"] == "validation"
  assert written["asked"]["model"] == told["model"]
  assert written["asked"]["compare"] == told["compare"]
  assert set(written["baselines"]) == {"marginal", "history"}
  assert len(told["runs"]) == len(written["run_ids"]) == 2


@pytest.mark.parametrize(
  "words,expected",
  [
    (
      ["masked", "--targets", "all"],
      "would show a query what comes after it; ask --targets first",
    ),
    (
      ["neutral", "--neutral", "surface", "--targets", "all"],
      "would change the history",
    ),
    (["neutral", "--neutral", "surfase"], "did you mean 'surface'?"),
    (["neutral", "--neutral", "completion"], "known only after the action"),
    (
      ["neutral", "--neutral", "surface,device"],
      "model.request=SometimesNeutral(names=('surface', 'device')",
    ),
    (
      ["together", "--neutral", "surface"],
      "were neutral together; ask --neutral surface,device",
    ),
    (["masked", "--neutral", "surface"], "does not embed; use AllFeatures()"),
    (["neutral", "runs/shown/wider"], "differ by more than their seed"),
    (["neutral", "runs/shown/together"], "is not finished but new"),
    (["neutral", "runs/shown/twin"], "have the same seed 0: leave one out"),
    (["masked", "--result", "results/x/y.json"], "is not finished but new"),
    (
      ["neutral", "--result", "results/x/a-b.json"],
      "in lower case, digits and _, not a-b.json",
    ),
    (["neutral", "--command", "x"], "give --result PATH, too"),
  ],
)
def test_what_a_run_cannot_answer_is_one_sentence(ask, words, expected):
  told = ask("evaluate", f"runs/shown/{words[0]}", *words[1:], code=2)
  assert expected in told["error"]
  assert "\n" not in told["error"]

"""What a trained run's heads are worth, through the command line."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.__main__ import main
from fmjax.config import (
  Auxiliary,
  DataConfig,
  Experiment,
  HierarchicalItems,
  IdOnly,
  ItemsConfig,
  ModelConfig,
  MultiToken,
  NoTime,
  OptimConfig,
  PostActionOnly,
  RunConfig,
  Synthetic,
)
from fmjax.data.decoded import histories
from fmjax.data.prepare import ensure_prepared
from fmjax.data.windows import evaluation_batches
from fmjax.eval.fields import head_of
from fmjax.eval.heads import evaluate_head
from fmjax.train.loop import (
  SELECTION_METRIC,
  load_selected,
  make_model,
  train,
)

EXPERIMENT = Experiment(
  data=DataConfig(
    source=Synthetic(events=2_000, users=80, items=40),
    window=16,
    stride=16,
    rows=8,
  ),
  model=ModelConfig(
    width=8,
    layers=1,
    heads=1,
    features=PostActionOnly(),
    time=NoTime(),
    items=ItemsConfig(mixer=IdOnly()),
    horizons=MultiToken(horizons=2),
    auxiliary=Auxiliary(targets=("action", "completion", "genre")),
    hierarchy=HierarchicalItems(attribute="language"),
  ),
  optim=OptimConfig(learning_rate=0.02),
  run=RunConfig(steps=3, evaluate_every=3, checkpoint_every=3, log_every=1),
)


class Selected:
  """Stands for a measurement: the last step is selected."""

  name, period = "selected", 3

  def __call__(self, model, step):
    del model
    return {SELECTION_METRIC: float(step)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """A folder with a trained run."""
  root = tmp_path_factory.mktemp("project")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    patch.delenv("FMJAX_CACHE", raising=False)
    prepared = ensure_prepared(EXPERIMENT.data)
    train(EXPERIMENT, prepared, root / "run", evaluators=[Selected()])
  return root


@pytest.fixture
def ask(project, monkeypatch, capsys):
  monkeypatch.chdir(project)
  monkeypatch.delenv("FMJAX_CACHE", raising=False)

  def run(*words: str, code: int = 0):
    assert main(["evaluate", "run", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])

  return run


class Trained:
  """The run's model, what it says of every query, and the data."""

  def __init__(self):
    data = EXPERIMENT.data
    self.prepared = ensure_prepared(data)
    batches = evaluation_batches(
      self.prepared,
      split="test",
      targets="first",
      window=data.window,
      rows=data.rows,
    )
    self.said: list[tuple[int, int, dict[str, np.ndarray]]] = []
    with mesh.use(mesh.make_mesh()):
      self.model, _ = load_selected(
        EXPERIMENT, self.prepared, pathlib.Path("run")
      )
      say = jax.jit(lambda model, batch: model.fields(model.encode(batch)))
      for index in range(len(batches)):
        batch = batches[index]
        found = jax.tree.map(np.asarray, say(self.model, batch))
        for n in np.flatnonzero(batch.weight_bt.reshape(-1) > 0):
          user, token = (
            int(a.reshape(-1)[n]) for a in (batch.user_bt, batch.index_bt)
          )
          self.said.append((user, token, {k: v[n] for k, v in found.items()}))

  def values(self, user: int, token: int, name: str):
    """{class: part} of a token by the field, or a number."""
    history = self.prepared.history(user)
    if name == "completion":
      return float(history[name][token])
    if name == "action":
      found = {
        int(code) - 2: count
        for code, count in zip(
          history["action"][token], history["action_count"][token], strict=True
        )
        if code >= 2
      }
    else:
      code = self.prepared.catalog.metadata[name][history["item"][token]]
      if name == "language":
        return {max(int(code) - 1, 0): 1.0}
      found = {int(one) - 2: 1.0 for one in code if one >= 2}
    return {i: part / sum(found.values()) for i, part in found.items()}

  def training(self, name: str):
    """Values of every training target."""
    for user, end in enumerate(self.prepared.index.train_end):
      target = self.prepared.history(user)["target"]
      for token in np.flatnonzero(target[:end]):
        yield self.values(user, int(token), name)


@pytest.fixture(scope="module")
def trained(project):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(project)
    patch.delenv("FMJAX_CACHE", raising=False)
    return Trained()


def written_out(trained: Trained, name: str):
  """{method: (nll, accuracy)} over the queries whose value is known."""
  size = len(trained.said[0][2][name])
  count_i = np.ones(size)
  for values in trained.training(name):
    for i, part in values.items():
      count_i[i] += part
  marginal_i = count_i / count_i.sum()
  sums: dict[str, list[tuple[float, bool]]] = {
    "model": [],
    "marginal": [],
    "history": [],
  }
  for user, token, said in trained.said:
    values = trained.values(user, token, name)
    if not values:
      continue
    target = trained.prepared.history(user)["target"]
    own_i = np.zeros(size)
    for before in np.flatnonzero(target[:token]):
      for i, part in trained.values(user, int(before), name).items():
        own_i[i] += part
    kinds = max((own_i > 0).sum(), 1)
    history_i = (own_i + kinds * marginal_i) / (own_i.sum() + kinds)
    for method, p_i in {
      "model": np.exp(said[name]),
      "marginal": marginal_i,
      "history": history_i,
    }.items():
      nll = -sum(part * math.log(p_i[i]) for i, part in values.items())
      sums[method].append((nll, int(p_i.argmax()) in values))
  return {method: np.mean(found, axis=0) for method, found in sums.items()}


@pytest.mark.parametrize("name", ["action", "language"])
def test_classes_are_measured_beside_their_marginal_and_history(
  ask, trained, name
):
  found = ask("--head", name)
  methods = {"model": found["model"], **found["baselines"]}
  for method, (nll, accuracy) in written_out(trained, name).items():
    got = methods[method]
    assert got["nll"] == pytest.approx(nll, rel=1e-5)
    assert got["accuracy"] == pytest.approx(accuracy)
    low, high = got["nll_ci"]
    assert low <= got["nll"] <= high
  assert found["queries"] + found["unknown"] == len(trained.said)
  paired = found["compare"]["history"]["nll"]
  difference = found["model"]["nll"] - methods["history"]["nll"]
  assert paired["difference"] == pytest.approx(difference)
  assert paired["interval"][0] <= difference <= paired["interval"][1]


def test_a_number_is_measured_beside_its_mean(ask, trained):
  found = ask("--head", "completion")
  numbers = [x for x in trained.training("completion") if not math.isnan(x)]
  errors = np.array(
    [
      (value - said["completion"], value - np.mean(numbers))
      for user, token, said in trained.said
      if not math.isnan(value := trained.values(user, token, "completion"))
    ]
  )
  model, marginal = np.sqrt((errors**2).mean(axis=0))
  assert found["model"]["rmse"] == pytest.approx(model, rel=1e-5)
  assert found["baselines"]["marginal"]["rmse"] == pytest.approx(
    marginal, rel=1e-5
  )
  assert found["queries"] == len(errors)
  assert found["compare"]["marginal"]["rmse"]["difference"] == pytest.approx(
    model - marginal, abs=1e-6
  )


@pytest.mark.parametrize(
  "name,metric,power",
  [("action", "nll", 1), ("genre", "accuracy", 1), ("completion", "rmse", 2)],
)
def test_seeds_of_a_head_are_averaged(trained, name, metric, power):
  def ask(*models):
    with mesh.use(mesh.make_mesh()):
      return evaluate_head(
        models, trained.prepared, EXPERIMENT.data, name, split="test"
      )

  with mesh.use(mesh.make_mesh()):
    untrained = make_model(EXPERIMENT, trained.prepared)
  seeds = [trained.model, untrained]
  one, other = (ask(model)["model"][metric] for model in seeds)
  both = ask(*seeds)
  assert one != other
  mean = ((one**power + other**power) / 2) ** (1 / power)
  assert both["model"][metric] == pytest.approx(mean)
  marginal = both["baselines"]["marginal"][metric]
  assert both["compare"]["marginal"][metric]["difference"] == pytest.approx(
    mean - marginal, abs=1e-9
  )


def test_an_unknown_head_is_told_those_that_the_run_has(ask):
  error = ask("--head", "genree", code=2)["error"]
  assert "action, completion, genre, language" in error
  assert "did you mean 'genre'" in error


@pytest.mark.parametrize("other", [["--slices"], ["--neutral", "surface"]])
def test_what_is_of_ranked_items_does_not_go_with_a_head(ask, other):
  error = ask("--head", "genre", *other, code=2)["error"]
  assert other[0] in error
  assert "leave one out" in error


def test_training_moves_every_head_from_zero(trained):
  for part in ("horizons", "auxiliary", "hierarchy"):
    leaves = jax.tree.leaves(nnx.state(getattr(trained.model, part), nnx.Param))
    assert leaves
    for leaf in leaves:
      assert np.abs(np.asarray(leaf)).max() > 0, part


@pytest.mark.parametrize("name", ["action", "language"])
def test_no_token_has_no_classes(trained, name):
  """A chunk of queries whose users have no history asks for none."""
  field = head_of(trained.model, name)
  none = np.zeros(0, np.int64)
  class_nw, part_nw = field.classes(
    histories(trained.prepared), trained.prepared.catalog, none, none
  )
  assert class_nw.shape == part_nw.shape
  assert len(class_nw) == 0

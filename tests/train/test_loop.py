import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmjax import mesh
from fmjax.config import (
  ChronologicalLast,
  Completion,
  ConfigError,
  RecencyWeighted,
  SampledSoftmax,
  override,
  to_dict,
)
from fmjax.eval.evaluate import ValidationEvaluator
from fmjax.train.checkpoint import Checkpoints
from fmjax.train.log import MetricsLog, read_metrics
from fmjax.train.loop import RunError, load_selected, make_model, train
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import make_state


class At:
  """An evaluator that does something at one step."""

  name = "at"
  period = 1

  def __init__(self, step, act):
    self._step, self._act = step, act

  def __call__(self, model, step):
    if step == self._step:
      self._act()
    return {"at/step": float(step)}


def stop():
  os.kill(os.getpid(), signal.SIGTERM)


def crash():
  raise KeyboardInterrupt


def latest(experiment, prepared, run_dir, *, data=1, model=1):
  """The latest state as NumPy arrays by path, and its step."""
  with mesh.use(mesh.make_mesh(data=data, model=model)):
    optimizer = make_optimizer(
      experiment.optim, total_steps=experiment.run.steps
    )
    like = make_state(make_model(experiment, prepared), optimizer)
    checkpoints = Checkpoints(run_dir)
    state, _ = checkpoints.restore(like, config=experiment)
    checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in leaves}


def assert_bit_equal(left, right):
  assert left.keys() == right.keys()
  for name in left:
    np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def losses(run_dir):
  records = read_metrics(run_dir / "metrics.jsonl")
  return {r["step"]: r["loss"] for r in records if "loss" in r}


@pytest.fixture(scope="module")
def uninterrupted(experiment, prepared, tmp_path_factory):
  """A run of all parts."""
  run_dir = tmp_path_factory.mktemp("uninterrupted")
  outcome = train(experiment, prepared, run_dir)
  assert outcome.state == "done"
  assert outcome.step == 8
  return run_dir


@pytest.fixture(scope="module")
def small_whole(small, prepared, tmp_path_factory):
  """A run of few parts: what happens around steps does not depend on them."""
  run_dir = tmp_path_factory.mktemp("small_whole")
  assert train(small, prepared, run_dir).state == "done"
  return run_dir


# The golden run does, too.
@pytest.mark.slow
def test_training_lowers_the_loss(small, prepared, tmp_path):
  longer = override(
    small,
    {
      "run.steps": 60,
      "run.checkpoint_every": 60,
      "optim.learning_rate": 2e-2,
    },
  )
  train(longer, prepared, tmp_path)
  curve = losses(tmp_path)
  assert list(curve) == list(range(1, 61))
  assert np.mean([curve[s] for s in range(51, 61)]) < curve[1] - 0.2


def test_a_run_stopped_by_sigterm_resumes_to_the_same_bits(
  experiment, prepared, uninterrupted, tmp_path
):
  before = signal.getsignal(signal.SIGTERM)
  # It arrives while step 3 is measured: the next step is the last.
  outcome = train(experiment, prepared, tmp_path, evaluators=[At(3, stop)])
  assert (outcome.state, outcome.step) == ("interrupted", 4)
  assert signal.getsignal(signal.SIGTERM) == before
  outcome = train(experiment, prepared, tmp_path)
  assert (outcome.state, outcome.step) == ("done", 8)
  assert_bit_equal(
    latest(experiment, prepared, tmp_path),
    latest(experiment, prepared, uninterrupted),
  )
  assert losses(tmp_path) == losses(uninterrupted)


def test_a_run_that_died_resumes_from_its_last_checkpoint_to_the_same_bits(
  small, prepared, small_whole, tmp_path
):
  with pytest.raises(KeyboardInterrupt):
    train(small, prepared, tmp_path, evaluators=[At(5, crash)])
  outcome = train(small, prepared, tmp_path)
  assert outcome.tokens > 0
  assert_bit_equal(
    latest(small, prepared, tmp_path),
    latest(small, prepared, small_whole),
  )
  assert losses(tmp_path) == losses(small_whole)


@pytest.mark.parametrize(
  "recency, same_steps",
  [
    pytest.param(
      RecencyWeighted(half_life_days=5),
      0,
      marks=pytest.mark.slow,
      id="weighted",
    ),
    # The last four of eight steps; what is learned in them follows.
    pytest.param(ChronologicalLast(share=0.5), 4, id="ordered"),
  ],
)
def test_recency_enters_training_and_survives_a_stop(
  small, prepared, small_whole, tmp_path, recency, same_steps
):
  recent = override(small, {"data.recency": recency})
  train(recent, prepared, tmp_path / "whole")
  train(recent, prepared, tmp_path / "halves", evaluators=[At(5, stop)])
  outcome = train(recent, prepared, tmp_path / "halves")
  assert (outcome.state, outcome.step) == ("done", 8)
  assert_bit_equal(
    latest(recent, prepared, tmp_path / "halves"),
    latest(recent, prepared, tmp_path / "whole"),
  )
  plain, found = losses(small_whole), losses(tmp_path / "whole")
  for step in plain:
    assert (found[step] == plain[step]) == (step <= same_steps)


@pytest.mark.slow
def test_a_run_killed_at_a_random_point_resumes_to_the_same_bits(
  experiment, prepared, tmp_path
):
  longer = override(experiment, {"run.steps": 300})
  config = tmp_path / "config.json"
  config.write_text(json.dumps(to_dict(longer)))
  program = (
    "import json, pathlib, sys\n"
    "from fmjax.config import from_dict\n"
    "from fmjax.data.store import open_prepared\n"
    "from fmjax.train.loop import train\n"
    "config, data, out = map(pathlib.Path, sys.argv[1:])\n"
    "train(from_dict(json.loads(config.read_text())), open_prepared(data), out)"
  )
  arguments = [str(config), str(prepared.path), str(tmp_path / "killed")]
  rng = np.random.default_rng()  # another point every time the test runs
  for _ in range(3):
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    time.sleep(rng.uniform(5, 15))
    process.kill()
    process.wait()
  subprocess.run([sys.executable, "-c", program, *arguments], check=True)
  train(longer, prepared, tmp_path / "whole")
  assert_bit_equal(
    latest(longer, prepared, tmp_path / "killed"),
    latest(longer, prepared, tmp_path / "whole"),
  )


@pytest.mark.slow
def test_a_state_restored_on_another_mesh_is_bit_equal_and_trains_alike(
  small, prepared, small_whole, tmp_path
):
  wide = override(small, {"run.mesh_data": 4, "run.mesh_model": 2})
  train(wide, prepared, tmp_path / "both", evaluators=[At(4, stop)])
  on_eight = latest(wide, prepared, tmp_path / "both", data=4, model=2)
  on_one = latest(small, prepared, tmp_path / "both")
  assert_bit_equal(on_eight, on_one)
  train(small, prepared, tmp_path / "both")
  ours, theirs = losses(tmp_path / "both"), losses(small_whole)
  for step in range(1, 9):
    assert ours[step] == pytest.approx(theirs[step], rel=1e-5)


def test_a_checkpoint_of_another_configuration_is_refused(
  small, prepared, small_whole
):
  other = override(small, {"optim.learning_rate": 0.5})
  with pytest.raises(ConfigError, match="another optim configuration"):
    train(other, prepared, small_whole)


@pytest.mark.parametrize(
  "change,reason",
  [
    ({"objective": SampledSoftmax()}, "negatives=128 exceeds the 60 items"),
    (
      {"data.weighting": Completion(feature="completon")},
      "did you mean 'completion'",
    ),
  ],
  ids=["negatives", "weighting"],
)
def test_what_the_data_cannot_give_is_refused_before_the_first_step(
  small, prepared, tmp_path, change, reason
):
  with pytest.raises(ConfigError, match=reason):
    train(override(small, change), prepared, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_naming_step_and_batch(
  small, prepared, tmp_path
):
  wild = override(
    small, {"optim.learning_rate": 1e38, "optim.schedule.warmup": 0.0}
  )
  with pytest.raises(RunError, match=r"at step (\d+).*batch-\1.npz") as error:
    train(wild, prepared, tmp_path)
  step = int(str(error.value).split("at step ")[1].split()[0])
  with np.load(tmp_path / f"batch-{step}.npz") as batch:
    assert batch["item_bt"].shape == (8, 16)
    assert "previous.item" in batch
  assert all(np.isfinite(loss) for loss in losses(tmp_path).values())


def test_what_a_checkpoint_calls_selected_is_on_disk_before_it(
  tmp_path, small, prepared, monkeypatch
):
  """Or a run killed between the two would go on without its best model."""
  told = []

  def tell(what):
    does = getattr(ocp.CheckpointManager, what)

    def tells(manager, *args, **kwargs):
      done = does(manager, *args, **kwargs)
      told.append(f"{what} {manager.directory.name}")
      return done

    monkeypatch.setattr(ocp.CheckpointManager, what, tells)

  with mesh.use(mesh.make_mesh()):
    optimizer = make_optimizer(small.optim, total_steps=1)
    state = make_state(make_model(small, prepared), optimizer)
  checkpoints = Checkpoints(tmp_path)
  tell("save")
  tell("wait_until_finished")
  checkpoints.save_selected(state.model, step=1, metrics={})
  checkpoints.save(state, config=small, facts={})
  chosen = told.index("save selected")
  saved = told.index("save checkpoints")
  assert "wait_until_finished selected" in told[chosen:saved]
  checkpoints.close()


def test_the_selected_model_is_the_one_validation_chose(
  small, prepared, data, tmp_path
):
  evaluator = ValidationEvaluator(prepared, data, period=4)
  outcome = train(small, prepared, tmp_path, evaluators=[evaluator])
  records = read_metrics(tmp_path / "metrics.jsonl")
  curve = {
    r["step"]: r["validation/ndcg@10"]
    for r in records
    if "validation/ndcg@10" in r
  }
  assert set(curve) == {4, 8}
  assert outcome.selected_step == max(curve, key=curve.__getitem__)
  with mesh.use(mesh.make_mesh()):
    model, step = load_selected(small, prepared, tmp_path)
    assert step == outcome.selected_step
    again = evaluator(model, step)
  assert again["validation/ndcg@10"] == curve[step]


def test_the_metrics_log_drops_what_came_after_the_checkpoint(tmp_path):
  log = MetricsLog(tmp_path, from_step=0)
  for step in (1, 2, 3):
    log.write(step, loss=1.0 / step)
  log.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "lo')  # killed here
  log = MetricsLog(tmp_path, from_step=2)
  log.write(3, loss=0.25)
  log.close()
  records = read_metrics(tmp_path / "metrics.jsonl")
  assert records == [
    {"step": 1, "loss": 1.0},
    {"step": 2, "loss": 0.5},
    {"step": 3, "loss": 0.25},
  ]


def test_tensorboard_reads_what_the_run_wrote(uninterrupted):
  from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
  )

  events = EventAccumulator(str(uninterrupted / "tensorboard"))
  events.Reload()
  written = {
    event.step: event.tensor_proto.float_val[0]
    for event in events.Tensors("loss")
  }
  assert written == pytest.approx(losses(uninterrupted))

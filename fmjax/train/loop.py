"""The training loop: effects at the edge of a pure step."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Collection, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  EqualWeights,
  Experiment,
  HierarchicalItems,
  to_dict,
  validate,
)
from fmjax.data import windows
from fmjax.data.batch import Batch
from fmjax.data.store import Prepared
from fmjax.data.weighting import weighed_by
from fmjax.model.auxiliary import outcomes, targets_of
from fmjax.model.hierarchy import attribute_field
from fmjax.model.recommender import Recommender
from fmjax.model.request import make_request
from fmjax.train.checkpoint import BRANCHES, Branches, Checkpoints
from fmjax.train.item_loss import check_negatives
from fmjax.train.log import MetricsLog, TrainingProgress, copy_metrics
from fmjax.train.optimizer import (
  make_optimizer,
  make_schedule,
  rate_factors,
)
from fmjax.train.state import make_state
from fmjax.train.step import make_step
from fmjax.train.stop import Stop, on_sigterm

SELECTION_METRIC = "validation/ndcg@10"


class RunError(RuntimeError):
  """A run that failed; one sentence says where and why (exit code 4)."""


class Evaluator(Protocol):
  """Something measured every `period` steps and after the last one."""

  name: str
  period: int

  def __call__(self, model: Recommender, step: int) -> dict[str, float]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """How `train` ended.

  Attributes:
    state: "done" or "interrupted" (by SIGTERM; resumes where it stopped).
    step: steps taken.
    selected_step: the step with the best validation metric.
    tokens: training targets seen, padding and context excluded.
    train_s: seconds in training steps, evaluation and saving excluded.
    wall_s: seconds in all, over every resumption; what was lost to a kill after
      the last checkpoint is not counted.
  """

  state: str
  step: int
  selected_step: int | None
  tokens: int
  train_s: float
  wall_s: float


def check(experiment: Experiment, prepared: Prepared) -> None:
  """Refuses what the data cannot give, without reading their events.

  Raises:
    ConfigError: more negatives than items; a field that is asked for is not
      there, or is not what is asked for.
  """
  model, spec = experiment.model, prepared.spec
  check_negatives(experiment.objective, items=spec.items - 1)
  targets_of(model.auxiliary, spec)
  make_request(model, spec)
  if isinstance(model.hierarchy, HierarchicalItems):
    attribute_field(model.hierarchy, spec)
  if not isinstance(experiment.data.weighting, EqualWeights):
    weighed_by(prepared, experiment.data.weighting)


def make_model(experiment: Experiment, prepared: Prepared) -> Recommender:
  """A fresh model; a mesh must be in scope."""
  return Recommender(
    experiment.model,
    prepared.spec,
    prepared.catalog,
    window=experiment.data.window,
    rngs=nnx.Rngs(params=experiment.run.seed),
  )


def load_selected(
  experiment: Experiment, prepared: Prepared, run_dir: pathlib.Path
) -> tuple[Recommender, int]:
  """The model of the selected step, and that step; a mesh must be in scope."""
  checkpoints = Checkpoints(run_dir)
  try:
    model = checkpoints.restore_selected(make_model(experiment, prepared))
    step = checkpoints.selected_step
    assert step is not None  # restore_selected raises without one
    return model, step
  finally:
    checkpoints.close()


def train(
  experiment: Experiment,
  prepared: Prepared,
  run_dir: pathlib.Path,
  *,
  evaluators: Sequence[Evaluator] = (),
  name: str = "train",
  branches: Collection[int] = (),
  trunk: pathlib.Path | None = None,
) -> Outcome:
  """Trains to `run.steps`, from the latest checkpoint if there is one.

  SIGTERM saves after the step under way and returns "interrupted".

  Runs that differ in length alone share a trunk (`config.trunk_identity`): a
  short one may begin with what the long one kept, and is the same to the bit as
  if it had trained from its first step.

  Args:
    experiment: the configuration.
    prepared: its data.
    run_dir: the run's directory.
    evaluators: measured while training; `SELECTION_METRIC`, where one reports
      it, selects the step whose model is kept.
    name: shown with the progress.
    branches: steps whose states are kept for shorter runs.
    trunk: directory of a longer run that may have kept the state with which
      this one begins.

  Raises:
    RunError: a loss, gradient or parameter is not finite; the batch is saved in
      `run_dir`.
    ConfigError: the checkpoint in `run_dir` is of another configuration, or the
      data lack what the configuration reads.
  """
  validate(experiment)
  check(experiment, prepared)
  run_dir.mkdir(parents=True, exist_ok=True)
  config_path = run_dir / "config.json"
  config_path.write_text(json.dumps(to_dict(experiment), indent=2) + "\n")
  run = experiment.run
  with mesh.use(mesh.make_mesh(data=run.mesh_data, model=run.mesh_model)):
    loop = _Loop(
      experiment, prepared, run_dir, evaluators, name, branches, trunk
    )
    try:
      with on_sigterm() as stop:
        return loop.run(stop)
    finally:
      loop.close()


class _Loop:
  """The parts of one run, and the order in which they act."""

  def __init__(
    self,
    experiment: Experiment,
    prepared: Prepared,
    run_dir: pathlib.Path,
    evaluators: Sequence[Evaluator],
    name: str,
    branches: Collection[int],
    trunk: pathlib.Path | None,
  ):
    data, run = experiment.data, experiment.run
    self.config, self.run_dir, self.evaluators = experiment, run_dir, evaluators
    self.mesh = jax.sharding.get_mesh()
    dataset = windows.training_batches(
      prepared,
      window=data.window,
      stride=data.stride,
      rows=data.rows,
      seed=run.seed,
      recency=data.recency,
      weighting=data.weighting,
      steps=run.steps,
      outcomes=outcomes(experiment.model.auxiliary, prepared.spec),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    optimizer = make_optimizer(
      experiment.optim,
      total_steps=run.steps,
      factors=rate_factors(
        experiment.model,
        lambda model: make_model(
          dataclasses.replace(experiment, model=model), prepared
        ),
      ),
    )
    self.schedule = jax.jit(
      make_schedule(experiment.optim, total_steps=run.steps)
    )
    self.step = make_step(experiment.objective, optimizer, seed=run.seed)
    self.state = make_state(make_model(experiment, prepared), optimizer)
    self.began = time.monotonic()
    self.totals = {"tokens": 0, "train_s": 0.0, "wall_s": 0.0, "best": -1.0}
    self.checkpoints = Checkpoints(run_dir)
    self.branches = frozenset(branches)
    self.kept = Branches(run_dir) if branches else None
    if self.checkpoints.latest_step is not None:
      self.state, self.totals = self.checkpoints.restore(
        self.state, config=experiment
      )
    elif trunk is not None:
      self.branch_off(trunk)
    self.start = int(self.state.step)
    self.batches = windows.batch_iterator(dataset, start=self.start)
    self.log = MetricsLog(run_dir, from_step=self.start)
    self.progress = TrainingProgress(name, start=self.start, steps=run.steps)
    self.pending: tuple[int, Batch, dict[str, jax.Array]] | None = None
    self.rate = _Rate()

  def branch_off(self, trunk: pathlib.Path) -> None:
    """Begins with what a longer run kept for this one, if it did."""
    if not (trunk / BRANCHES).is_dir():
      return
    kept = Branches(trunk)
    try:
      found = kept.restore(self.state, config=self.config)
    finally:
      kept.close()
    if found is not None:
      self.state, self.totals = found
      step = int(self.state.step)
      copy_metrics(trunk, self.run_dir, to_step=step)

  def run(self, stop: Stop) -> Outcome:
    run = self.config.run
    for step in range(self.start + 1, run.steps + 1):
      host_batch = next(self.batches)
      batch = mesh.shard_batch(host_batch, self.mesh)
      self.state, metrics = self.step(self.state, batch)
      # The device works on this step while the host reads the step before: to
      # read this one now would leave the device idle until the next is sent.
      self.settle()
      self.pending = (step, host_batch, metrics)
      due = [
        e for e in self.evaluators if step % e.period == 0 or step == run.steps
      ]
      stopping = stop.requested  # read once: it may change at any moment
      last = stopping or step == run.steps
      branch = step in self.branches
      if due or last or branch or step % run.checkpoint_every == 0:
        # Settle and check first: a state that is not finite is neither measured
        # nor saved, so the last checkpoint is always one to go on from.
        self.settle()
        self.check_parameters(step, host_batch)
        self.rate.pause()
        for evaluator in due:
          self.evaluate(evaluator, step)
        if branch:
          self.keep()
        self.save()
        self.rate.resume()
      if stopping and step < run.steps:
        return self.outcome("interrupted", step)
    return self.outcome("done", int(self.state.step))

  def settle(self) -> None:
    """Reads the pending step's metrics: checks, counts and logs them."""
    if self.pending is None:
      return
    step, host_batch, metrics = self.pending
    self.pending = None
    weight = float(metrics["weight"])
    loss = float(metrics["loss_total"]) / (weight or 1.0)
    grad_norm = float(metrics["grad_norm"])
    for what, value in {"loss": loss, "gradient's norm": grad_norm}.items():
      if not math.isfinite(value):
        raise RunError(
          self._non_finite(f"the {what} is {value}", step, host_batch)
        )
    targets = int(metrics["targets"])
    self.totals["tokens"] += targets
    self.totals["train_s"] += self.rate.step(targets)
    self.progress.update(step, loss=loss, tokens_per_s=self.rate.tokens_per_s)
    run = self.config.run
    if step % run.log_every == 0 or step == run.steps:
      self.log.write(
        step,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=self.learning_rate(step),
        tokens=self.totals["tokens"],
        tokens_per_s=self.rate.tokens_per_s,
        train_s=self.totals["train_s"],
      )

  def check_parameters(self, step: int, host_batch: Batch) -> None:
    """The loss of a step is of the parameters before its update."""
    if not bool(_all_finite(self.state.model)):
      reason = "the update made parameters that are not finite"
      raise RunError(self._non_finite(reason, step, host_batch))

  def evaluate(self, evaluator: Evaluator, step: int) -> None:
    metrics = evaluator(self.state.model, step)
    self.log.write(step, tokens=self.totals["tokens"], **metrics)
    value = metrics.get(SELECTION_METRIC)
    if value is not None and value > self.totals["best"]:
      self.totals["best"] = value
      self.checkpoints.save_selected(
        self.state.model, step=step, metrics=metrics
      )

  def learning_rate(self, step: int) -> float:
    return float(np.asarray(self.schedule(step - 1)))

  def save(self) -> None:
    self.checkpoints.save(self.state, config=self.config, facts=self.facts())

  def keep(self) -> None:
    """For a shorter run; on disk before this one is saved to go on from."""
    assert self.kept is not None  # there are branches
    self.kept.save(self.state, config=self.config, facts=self.facts())

  def facts(self) -> dict[str, float]:
    wall_s = self.wall_s()
    return {
      **self.totals,
      "wall_s": wall_s,
      "next_batch": int(self.state.step),
    }

  def outcome(self, state: str, step: int) -> Outcome:
    return Outcome(
      state=state,
      step=step,
      selected_step=self.checkpoints.selected_step,
      tokens=round(self.totals["tokens"]),
      train_s=self.totals["train_s"],
      wall_s=self.wall_s(),
    )

  def wall_s(self) -> float:
    return self.totals["wall_s"] + time.monotonic() - self.began

  def close(self) -> None:
    self.progress.close()
    self.log.close()
    self.checkpoints.close()
    if self.kept is not None:
      self.kept.close()

  def _non_finite(self, reason: str, step: int, batch: Batch) -> str:
    path = self.run_dir / f"batch-{step}.npz"
    arrays, _ = jax.tree_util.tree_flatten_with_path(batch)
    np.savez(
      path,
      **{
        jax.tree_util.keystr(key, simple=True, separator="."): array
        for key, array in arrays
      },
    )
    return (
      f"{reason} at step {step} (learning rate {self.learning_rate(step):.2g});"
      f" its batch is saved in {path}, the last finite state in"
      f" {self.run_dir / 'checkpoints'}; lower optim.learning_rate"
    )


@jax.jit
def _all_finite(model: Recommender) -> jax.Array:
  params = jax.tree.leaves(nnx.state(model, nnx.Param))
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in params]))


class _Rate:
  """Seconds and tokens of training steps, other work taken out."""

  _MEMORY = 0.9  # of the moving average of tokens/s

  def __init__(self):
    self.tokens_per_s = 0.0
    self._last = self._paused = time.monotonic()
    self._steps = 0

  def step(self, tokens: float) -> float:
    """Ends a step; returns its seconds."""
    now = time.monotonic()
    seconds, self._last = now - self._last, now
    self._steps += 1
    rate = tokens / max(seconds, 1e-9)
    # The first step compiles: its rate says nothing.
    if self._steps <= 2:
      self.tokens_per_s = rate
    else:
      old = self.tokens_per_s
      self.tokens_per_s = self._MEMORY * old + (1 - self._MEMORY) * rate
    return seconds

  def pause(self) -> None:
    self._paused = time.monotonic()

  def resume(self) -> None:
    self._last += time.monotonic() - self._paused

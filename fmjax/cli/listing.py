"""What the experiments of a file are, and what they will cost."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.cli.experiment_file import ExperimentFile
from fmjax.cli.terminal import Terminal
from fmjax.config import Experiment
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.data.windows import epoch_facts
from fmjax.model.reading import asked_share
from fmjax.scaling.count import parameters, step_flops
from fmjax.scaling.item_bytes import item_bytes

_PRODUCT = 2_048  # side of the matrices that time the device
_REPEATS = 5


def describe(file: ExperimentFile, terminal: Terminal) -> dict[str, Any]:
  """Parameters by part, tokens, FLOPs and the least time, by experiment."""
  rate = matrix_product_rate()
  entries = []
  for name, experiment in file.experiments.items():
    prepared = ensure_prepared(experiment.data)
    entries.append({"name": name, **cost(experiment, prepared, rate=rate)})
  terminal.show(file.question)
  terminal.table(
    (
      "experiment",
      "item tables",
      "features",
      "backbone",
      "head",
      "total",
      "tokens",
      "epochs",
      "FLOPs",
      "item MB a step",
      "≥ seconds",
    ),
    [
      (
        entry["name"],
        *entry["params"].values(),
        entry["tokens"],
        entry["epochs"],
        float(entry["flops"]),
        entry["item_bytes"] / 1e6,
        entry["least_s"],
      )
      for entry in entries
    ],
  )
  terminal.say(
    f"≥ seconds: at the {rate:.2g} FLOP/s of this device's matrix products"
  )
  return {
    "file": str(file.path),
    "question": file.question,
    "flops_per_s": rate,
    "experiments": entries,
  }


def cost(
  experiment: Experiment, prepared: Prepared, *, rate: float
) -> dict[str, Any]:
  """One experiment's counts; `rate` is in FLOP/s."""
  data, run = experiment.data, experiment.run
  facts = epoch_facts(
    prepared,
    window=data.window,
    stride=data.stride,
    seed=run.seed,
    weighting=data.weighting,
  )
  epochs = run.steps * data.rows / facts.rows
  flops = step_flops(
    experiment.model,
    prepared.spec,
    objective=experiment.objective,
    rows=data.rows,
    window=data.window,
  )
  return {
    "params": parameters(
      experiment.model, prepared.spec, window=data.window
    ).to_dict(),
    "tokens": round(epochs * facts.tokens * asked_share(experiment.model)),
    "epochs": epochs,
    "flops": run.steps * flops.model.total,
    "item_bytes": item_bytes(
      experiment.model,
      prepared.spec,
      objective=experiment.objective,
      rows=data.rows,
      window=data.window,
    ).total,
    "least_s": run.steps * flops.executed.total / rate,
  }


def matrix_product_rate() -> float:
  """FLOP/s of one float32 matrix product, the best of a few."""
  x_nd = jnp.ones((_PRODUCT, _PRODUCT))
  product = jax.jit(jnp.matmul)
  product(x_nd, x_nd).block_until_ready()
  best = float("inf")
  for _ in range(_REPEATS):
    start = time.perf_counter()
    product(x_nd, x_nd).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * _PRODUCT**3 / best

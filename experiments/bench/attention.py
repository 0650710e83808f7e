"""What do attention forms cost as histories get long, and a step with them?

  python -m experiments.bench.attention

One row of T = 512 … 8,192 positions, width 64, two heads, with a bias of time:
forward and gradient of one attention alone, and the temporary memory of the
compiled program, of `Full`, which stores its weights, of `Window` and of
`LowRank` with 2, 4 and 8 slots a block; and of `Full` and `Fused` without the
bias, which `Fused` cannot have. Then whole training steps of 8,192 tokens, in
rows of 1,024 and of 8,192, with each `LowRank`. Forms alternate, so that a
noisy machine is noisy to all of them. The process has malloc on huge pages, as
one that trains.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench import record
from experiments.bench.gpu import SPEC, full_rows
from experiments.bench.stopwatch import alternate
from fmjax import mesh
from fmjax.cli import process
from fmjax.config import (
  DataConfig,
  Experiment,
  FullSoftmax,
  LogBucketBias,
  LowRankAttention,
  ModelConfig,
  WindowAttention,
  override,
)
from fmjax.model.attention import Attention, Fused, make_attention
from fmjax.model.recommender import Recommender
from fmjax.scaling.abstract import empty_catalog
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import make_state
from fmjax.train.step import make_step

COMMAND = "python -m experiments.bench.attention"
WINDOWS = (512, 1_024, 2_048, 4_096, 8_192)
STEP_WINDOWS = (1_024, 8_192)
TOKENS = 8_192  # of a training step
LOW_RANK = LowRankAttention()
RANKS = (2, 4, 8)
MODEL = ModelConfig(
  width=64,
  layers=2,
  heads=2,
  dropout=0.0,
  relative_time=LogBucketBias(),
)


def low_rank(rank: int) -> ModelConfig:
  return override(MODEL, {"attention": override(LOW_RANK, {"rank": rank})})


def forms() -> dict[str, Attention]:
  """All that are compared; a mesh must be in scope."""
  found = {
    "full": make_attention(MODEL),
    "window": make_attention(override(MODEL, {"attention": WindowAttention()})),
  }
  for rank in RANKS:
    found[f"low_rank_{rank}"] = make_attention(low_rank(rank))
  plain = ModelConfig(dropout=0.0, width=MODEL.width, heads=MODEL.heads)
  return found | {"full, no bias": make_attention(plain), "fused": Fused()}


def compiled(form: Attention, *, window: int) -> tuple[Callable, int]:
  """(forward and gradient of one row, bytes of temporary memory)."""
  rng = np.random.default_rng(0)
  shape = 1, window, MODEL.heads, MODEL.width // MODEL.heads
  arrays = tuple(
    jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in "qkv"
  )
  batch = full_rows(DataConfig(rows=1, window=window, stride=window))
  # As between the layers of a model, what all of them share is there already.
  sight = jax.jit(form.prepare)(batch)
  definition, params = nnx.split(form)

  def total(arrays, params, sight):
    mixed_bthe = nnx.merge(definition, params)(
      *arrays, sight=sight, dropout_key=None
    )
    return jnp.sum(jnp.sin(mixed_bthe))

  gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
  program = gradient.lower(arrays, params, sight).compile()
  memory = program.memory_analysis()
  return (
    lambda: program(arrays, params, sight),
    int(memory.temp_size_in_bytes),
  )


def measure(window: int, *, rounds: int) -> dict[str, Any]:
  """Every form at one length."""
  made = {name: compiled(form, window=window) for name, form in forms().items()}
  seconds = alternate(
    {name: call for name, (call, _) in made.items()}, rounds=rounds
  )
  return {
    "window": window,
    "ms": {name: 1e3 * taken for name, taken in seconds.items()},
    "temp_bytes": {name: temp for name, (_, temp) in made.items()},
  }


def training_step(window: int, *, rank: int) -> Callable[[], Any]:
  """One step on `TOKENS` tokens in rows of `window`; it keeps its state."""
  data = DataConfig(rows=TOKENS // window, window=window, stride=window)
  of = Experiment(data=data, model=low_rank(rank), objective=FullSoftmax())
  model = Recommender(
    of.model,
    SPEC,
    empty_catalog(SPEC),
    window=window,
    rngs=nnx.Rngs(params=0),
  )
  optimizer = make_optimizer(of.optim, total_steps=1_000)
  states = [make_state(model, optimizer)]
  del model  # the step donates its arrays
  step = make_step(of.objective, optimizer, seed=0)
  batch = mesh.shard_batch(full_rows(data), jax.sharding.get_mesh())

  def call():
    state, metrics = step(states.pop(), batch)
    states.append(state)
    return metrics

  return call


def measure_steps(rank: int, *, rounds: int) -> dict[str, float]:
  """Microseconds a token, by the rows' length."""
  calls = {
    str(window): training_step(window, rank=rank) for window in STEP_WINDOWS
  }
  seconds = alternate(calls, rounds=rounds)
  return {name: 1e6 * taken / TOKENS for name, taken in seconds.items()}


def result(
  lengths: list[dict[str, Any]], us_per_token: dict[int, dict[str, float]]
) -> dict[str, Any]:
  """What the file says: of every rank, and first of the default one."""
  at = next(row for row in lengths if row["window"] == 4_096)
  ranks = {}
  for rank, costs in us_per_token.items():
    name = f"low_rank_{rank}"
    short, long = (costs[str(window)] for window in STEP_WINDOWS)
    ranks[rank] = {
      "attention_speedup_4096": at["ms"]["full"] / at["ms"][name],
      "memory_ratio_4096": at["temp_bytes"][name] / at["temp_bytes"]["full"],
      "cost_ratio_8192_1024": long / short,
      "step_us_per_token": costs,
    }
  return {
    "block": LOW_RANK.block,
    "rank": LOW_RANK.rank,
    **ranks[LOW_RANK.rank],
    "ranks": {str(rank): found for rank, found in ranks.items()},
    "shape": {"width": MODEL.width, "heads": MODEL.heads, "rows": 1},
    "lengths": lengths,
  }


def main(arguments: list[str] | None = None) -> None:
  process.use_huge_pages()
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--rounds", type=int, default=7)
  asked = parser.parse_args(arguments)
  lengths = []
  with mesh.use(mesh.make_mesh()):
    for window in WINDOWS:
      lengths.append(measure(window, rounds=asked.rounds))
      print(lengths[-1], file=sys.stderr)
    us_per_token = {}
    for rank in RANKS:
      us_per_token[rank] = measure_steps(rank, rounds=asked.rounds)
      print(f"rank {rank}: {us_per_token[rank]}", file=sys.stderr)
  found = result(lengths, us_per_token)
  print(found["ranks"], file=sys.stderr)
  record.write(
    asked.out, command=f"{COMMAND} --rounds {asked.rounds}", result=found
  )


if __name__ == "__main__":
  main()

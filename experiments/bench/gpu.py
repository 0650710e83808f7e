"""How fast does training go on a GPU, and by which attention?

  python -m experiments.bench.gpu

Real training steps at widths 64 to 1,024 (heads of width 64, four blocks of the
reference model, 64 rows of 512, a catalog of 3,416 items), in float32 and
bfloat16, with `FullAttention` and `FusedAttention`; at width 64 also the losses
on sampled negatives. Tokens per second, peak memory, and model FLOPs
utilization: the FLOPs that the model has to spend a second, as a share of what
one large bfloat16 product reaches on this device. Written after every row.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench import record
from fmjax import mesh
from fmjax.config import (
  BinaryCrossEntropy,
  DataConfig,
  Experiment,
  FullAttention,
  FullSoftmax,
  FusedAttention,
  ModelConfig,
  SampledSoftmax,
)
from fmjax.data.batch import Batch
from fmjax.data.schema import DataSpec
from fmjax.model.recommender import Recommender
from fmjax.scaling.abstract import empty_catalog
from fmjax.scaling.count import step_flops
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import make_state
from fmjax.train.step import make_step

COMMAND = "python -m experiments.bench.gpu"
WIDTHS = (64, 128, 256, 512, 1_024)
SPEC = DataSpec(items=3_417)
_HEAD_WIDTH = 64
_WARM_UP, _STEPS, _REPEATS = 3, 10, 5
_LARGE = 8_192


def rows() -> Iterator[Experiment]:
  """The reference objective at every width, then the others at the least."""
  for width in WIDTHS:
    for dtype in ("float32", "bfloat16"):
      for attention in (FullAttention(), FusedAttention()):
        yield experiment(width, dtype=dtype, attention=attention)
  for objective in (SampledSoftmax(), BinaryCrossEntropy()):
    yield experiment(WIDTHS[0], dtype="bfloat16", objective=objective)


def experiment(
  width: int,
  *,
  dtype: str,
  attention: FullAttention | FusedAttention | None = None,
  objective: FullSoftmax | SampledSoftmax | BinaryCrossEntropy | None = None,
) -> Experiment:
  return Experiment(
    data=DataConfig(window=512, stride=512, rows=64),
    model=ModelConfig(
      width=width,
      layers=4,
      heads=max(1, width // _HEAD_WIDTH),
      attention=attention or FullAttention(),
      dtype=dtype,
    ),
    objective=objective or FullSoftmax(chunk=4_096),
  )


def full_rows(data: DataConfig) -> Batch:
  """Rows of one segment each: no padding, every position a target."""
  shape = data.rows, data.window
  rng = np.random.default_rng(0)
  position_bt = np.broadcast_to(np.arange(data.window, dtype=np.int32), shape)
  item_bt = rng.integers(1, SPEC.items, shape).astype(np.int32)
  time_bt = np.full(shape, 1_400_000_000, np.int32) + position_bt
  return Batch(
    item_bt=item_bt,
    weight_bt=np.ones(shape, np.float32),
    segment_bt=np.ones(shape, np.int32),
    position_bt=position_bt,
    time_bt=time_bt,
    user_bt=np.zeros(shape, np.int32),
    index_bt=position_bt,
    request={},
    previous={"item": np.roll(item_bt, 1, axis=1), "time": time_bt - 1},
  )


def measure(
  of: Experiment, *, peak_flop_s: float, steps: int = _STEPS
) -> dict[str, Any]:
  """One row of the table; a mesh must be in scope."""
  data = of.data
  model = Recommender(
    of.model,
    SPEC,
    empty_catalog(SPEC),
    window=data.window,
    rngs=nnx.Rngs(params=0),
  )
  optimizer = make_optimizer(of.optim, total_steps=1_000)
  state = make_state(model, optimizer)
  del model  # the step donates its arrays
  step = make_step(of.objective, optimizer, seed=0)
  batch = mesh.shard_batch(full_rows(data), jax.sharding.get_mesh())
  for _ in range(_WARM_UP):
    state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  taken = []
  for _ in range(_REPEATS):
    began = time.perf_counter()
    for _ in range(steps):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    taken.append((time.perf_counter() - began) / steps)
  seconds = statistics.median(taken)
  flops = step_flops(
    of.model, SPEC, objective=of.objective, rows=data.rows, window=data.window
  )
  memory = jax.devices()[0].memory_stats() or {}
  return {
    "step_ms": 1e3 * seconds,
    "tokens_per_s": data.rows * data.window / seconds,
    "mfu": flops.model.total / seconds / peak_flop_s,
    # Of the process so far: rows only grow.
    "peak_bytes": memory.get("peak_bytes_in_use"),
    "loss": float(metrics["loss_total"] / metrics["weight"]),
  }


def peak_flop_s() -> float:
  """FLOP/s of one large bfloat16 product."""
  x = jnp.ones((_LARGE, _LARGE), jnp.bfloat16)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  taken = []
  for _ in range(_REPEATS):
    began = time.perf_counter()
    jax.block_until_ready([product(x, x) for _ in range(_STEPS)])
    taken.append((time.perf_counter() - began) / _STEPS)
  return 2 * _LARGE**3 / statistics.median(taken)


def main(arguments: list[str] | None = None) -> None:
  asked = record.parser(COMMAND, __doc__).parse_args(arguments)
  device = jax.devices()[0]
  if device.platform != "gpu":
    sys.exit(f"JAX sees no GPU but {device.device_kind}: nothing is measured")
  peak = peak_flop_s()
  found: list[dict[str, Any]] = []
  with mesh.use(mesh.make_mesh()):
    for of in rows():
      row: dict[str, Any] = {
        "width": of.model.width,
        "dtype": of.model.dtype,
        "attention": type(of.model.attention).__name__,
        "objective": type(of.objective).__name__,
      }
      try:
        row |= measure(of, peak_flop_s=peak)
      except jax.errors.JaxRuntimeError as error:
        row |= {"error": str(error).splitlines()[0][:200]}
      found.append(row)
      print(row, file=sys.stderr)
      record.write(
        asked.out,
        command=COMMAND,
        result={
          "device": device.device_kind,
          "peak_flop_s": peak,
          "rows": found,
        },
      )


if __name__ == "__main__":
  main()

"""What must a training step spend, what does it take, and what made it faster?

  python -m experiments.bench.floor

At the shape of `sasrec_ce` of `experiments.movielens_1m`: matrix-product FLOPs
and bytes of each part, and the least time that they take at the rate of a large
product; beside it the time in the profiler's trace, and the rates that products
of the step's own shapes reach alone. Then the step with every fast part
replaced by its plain twin (`twins.py`), and one change after the other made
again: all variants alternate in one process. Last, what bfloat16 does, and
remat with eight blocks. The measurement runs twice, without and with malloc on
huge pages, as the C library reads that setting at the start of a process.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import protocol, record, twins
from experiments.bench.stopwatch import alternate
from experiments.movielens_1m import sasrec_ce
from fmjax import mesh
from fmjax.config import (
  Experiment,
  NoRemat,
  RematBlocks,
  RematElementwise,
  override,
)
from fmjax.data import windows
from fmjax.data.batch import Batch
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.model import attention, dropout, items, recommender
from fmjax.model.attention import query_blocks
from fmjax.scaling.count import Flops, parameters, step_flops
from fmjax.train import item_loss
from fmjax.train import step as step_module
from fmjax.train.loop import make_model
from fmjax.train.optimizer import make_optimizer
from fmjax.train.state import TrainState, make_state

COMMAND = "python -m experiments.bench.floor"
SCOPES = ("optimizer", "loss", "feed_forward", "attention", "embed")
_BATCHES = 4
_REMAT_LAYERS = 8  # deep enough for it to matter
_TRACED_STEPS = 5

# In the order in which they were made; each is undone by its patch.
CHANGES: dict[str, Callable[[], Any]] = {
  "blocks of queries": lambda: mock.patch.object(
    attention.Full, "__call__", twins.dense_attention
  ),
  "hashed dropout": lambda: mock.patch.object(
    dropout, "dropout", twins.library_dropout
  ),
  "loss gradient in the forward pass": lambda: mock.patch.object(
    item_loss, "full_softmax", twins.checkpointed_softmax
  ),
  "two blocks compiled as one": lambda: mock.patch.object(
    recommender, "_UNROLL", 1
  ),
}
HUGE_PAGES = "huge pages"


class Variant:
  """A compiled training step with its own state."""

  def __init__(
    self, experiment: Experiment, prepared: Prepared, batches: list[Batch]
  ):
    optimizer = make_optimizer(experiment.optim, total_steps=1_000)
    model = make_model(experiment, prepared)
    self.state: TrainState = make_state(model, optimizer)
    self.batches, self.taken = batches, 0
    step = step_module.make_step(experiment.objective, optimizer, seed=0)
    self.compiled = step.lower(self.state, batches[0]).compile()

  def __call__(self) -> object:
    batch = self.batches[self.taken % len(self.batches)]
    self.taken += 1
    self.state, metrics = self.compiled(self.state, batch)
    return metrics


@contextlib.contextmanager
def without(changes: list[str]) -> Iterator[None]:
  with contextlib.ExitStack() as stack:
    for change in changes:
      stack.enter_context(CHANGES[change]())
    yield


def measure(*, rounds: int) -> dict[str, Any]:
  """Everything that one process can tell."""
  experiment = sasrec_ce()
  prepared = ensure_prepared(experiment.data)
  data = experiment.data
  dataset = windows.training_batches(
    prepared, window=data.window, stride=data.stride, rows=data.rows, seed=0
  )
  with mesh.use(mesh.make_mesh()):
    batches = [
      mesh.shard_batch(dataset[index], jax.sharding.get_mesh())
      for index in range(_BATCHES)
    ]

    def variant(changes: dict[str, Any]) -> Variant:
      return Variant(override(experiment, changes), prepared, batches)

    names = list(CHANGES)
    ladder = {}
    for made in range(len(names) + 1):
      with without(names[made:]):
        ladder["plain" if not made else names[made - 1]] = variant({})
    fast = ladder[names[-1]]
    remat = {
      type(choice).__name__: variant(
        {"model.remat": choice, "model.layers": _REMAT_LAYERS}
      )
      for choice in (NoRemat(), RematElementwise(), RematBlocks())
    }
    dtype = {
      name: variant({"model.dtype": name}) for name in ("float32", "bfloat16")
    }
    return {
      "tokens_per_step": float(
        np.mean([float((batch.weight_bt > 0).sum()) for batch in batches])
      ),
      "attention_pairs": seen(np.asarray(batches[0].segment_bt)),
      "changes": alternate(ladder, rounds=rounds),
      "remat": alternate(remat, rounds=rounds),
      "temp_bytes": {
        name: it.compiled.memory_analysis().temp_size_in_bytes
        for name, it in remat.items()
      },
      "dtype": alternate(dtype, rounds=rounds),
      "traced": traced(fast),
      "must": must(experiment, prepared),
      "peak": peak(experiment, prepared, rounds=rounds),
      "stream_gb_s": stream(rounds=rounds),
    }


def seen(segment_bt: np.ndarray) -> dict[str, float]:
  """Pairs of positions a row: all, computed, and what a kernel could leave out.

  A kernel that leaves out a block of keys where no query of the block of a row
  can see it would compute those "in visible blocks".
  """
  b, t = segment_bt.shape
  same_bts = segment_bt[:, :, None] == segment_bt[:, None, :]
  visible_bts = same_bts & np.tril(np.ones((t, t), bool))
  blocks = query_blocks(t)
  in_blocks = sum(
    (end - start)
    * (other_end - other_start)
    * visible_bts[:, start:end, other_start:other_end].any((1, 2)).sum()
    for start, end in blocks
    for other_start, other_end in blocks
  )
  return {
    "pairs": float(t * t),
    "computed": float(sum((end - start) * end for start, end in blocks)),
    "in_visible_blocks": float(in_blocks / b),
    "visible": float(visible_bts.sum() / b),
  }


def traced(step: Variant) -> dict[str, float]:
  """Milliseconds of a step by named scope, from the profiler's trace.

  A moment in which two operations run is shared between them; one in which none
  is on record (a thread's part of an operation, or waiting) is "rest".
  """
  scope = scopes(step.compiled.as_text())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(_TRACED_STEPS):
        jax.block_until_ready(step())
    (path,) = Path(folder).rglob("*.xplane.pb")
    profile = jax.profiler.ProfileData.from_file(str(path))
  moments = []
  whole_ns = 0.0
  for plane in profile.planes:
    for line in plane.lines:
      for event in line.events:
        if event.name in scope:
          name = scope[event.name]
          moments.append((event.start_ns, 1, name))
          moments.append((event.start_ns + event.duration_ns, -1, name))
        elif event.name == "ThunkExecutor::Execute (wait for completion)":
          whole_ns += event.duration_ns
  spent: dict[str, float] = dict.fromkeys((*SCOPES, "rest"), 0.0)
  active: dict[str, int] = {}
  before = 0.0
  for now, change, name in sorted(moments):
    running = sum(active.values())
    for other, count in active.items():
      spent[other] += (now - before) * count / running if running else 0.0
    active[name] = active.get(name, 0) + change
    before = now
  spent["rest"] += max(0.0, whole_ns - sum(spent.values()))
  return {name: ns / 1e6 / _TRACED_STEPS for name, ns in spent.items()}


def scopes(program: str) -> dict[str, str]:
  """The named scope of each operation of a compiled program's text."""
  found = {}
  pattern = r'%?([\w.\-]+) = .*?metadata=\{op_name="([^"]*)"'
  for name, path in re.findall(pattern, program):
    # Innermost first: a block's attention stands inside "blocks".
    inside = [s for s in SCOPES if re.search(rf"\b{s}\b", path)]
    found[name] = inside[0] if inside else "rest"
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Must:
  """What a part has to do: matrix-product FLOPs, bytes in and out once."""

  flops: int
  bytes: int


def must(experiment: Experiment, prepared: Prepared) -> dict[str, Any]:
  """The floor of each part.

  Bytes: a part reads its input and writes its output, forward and backward, and
  keeps in between what its gradient needs nowhere but in the caches; the
  optimizer reads parameter, gradient and two moments and writes three of them.
  """
  data, model = experiment.data, experiment.model
  flops: Flops = step_flops(
    model,
    prepared.spec,
    objective=experiment.objective,
    rows=data.rows,
    window=data.window,
  ).executed
  tokens = 4 * data.rows * data.window * model.width
  table = 4 * items.padded_rows(prepared.spec.items) * model.width
  total = parameters(model, prepared.spec, window=data.window).total
  parts = {
    "embed": Must(flops=flops.embedders, bytes=4 * tokens + 2 * table),
    "attention": Must(flops=flops.attention, bytes=4 * model.layers * tokens),
    "feed_forward": Must(
      flops=flops.feed_forward, bytes=4 * model.layers * tokens
    ),
    "loss": Must(flops=flops.head, bytes=2 * tokens + 2 * table),
    "optimizer": Must(flops=0, bytes=7 * 4 * total),
  }
  return {name: dataclasses.asdict(part) for name, part in parts.items()}


def peak(
  experiment: Experiment, prepared: Prepared, *, rounds: int
) -> list[dict[str, Any]]:
  """FLOP/s of single products: a large one, then those of the step."""
  data, model = experiment.data, experiment.model
  n, d, h = data.rows * data.window, model.width, model.heads
  start, end = query_blocks(data.window)[-1]
  v = items.padded_rows(prepared.spec.items)
  shapes: dict[str, list[tuple[int, ...]]] = {
    "large": [(2_048, 2_048), (2_048, 2_048)],
    "projection": [(n, d), (d, d)],
    "queries by keys": [
      (data.rows * h, end - start, d // h),
      (data.rows * h, d // h, end),
    ],
    "weights by values": [
      (data.rows * h, end - start, end),
      (data.rows * h, end, d // h),
    ],
    "logits of a chunk": [(256, d), (d, v)],
    "states' gradient of a chunk": [(256, v), (v, d)],
    "items' gradient of a chunk": [(d, 256), (256, v)],
  }
  rng = np.random.default_rng(0)
  product = jax.jit(jnp.matmul)
  found = []
  for what, (one, other) in shapes.items():
    arrays = [
      jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (one, other)
    ]
    # A small product is timed many at a time, or dispatch is what is timed.
    repeats = max(1, round(2e9 / (2 * np.prod(one) * other[-1])))

    def call(arrays=arrays, repeats=repeats):
      return [product(*arrays) for _ in range(repeats)]

    seconds = alternate({what: call}, rounds=rounds)[what]
    flops = 2 * float(np.prod(one)) * other[-1] * repeats
    found.append(
      {
        "what": what,
        "shapes": f"{list(one)} · {list(other)}",
        "gflop_s": flops / seconds / 1e9,
      }
    )
  return found


def stream(*, rounds: int) -> float:
  """GB/s of reading one large array and writing another."""
  x = jnp.ones(32 * 2**20, jnp.float32)
  double = jax.jit(lambda x: x * 2)
  seconds = alternate({"x": lambda: double(x)}, rounds=rounds)["x"]
  return 2 * x.nbytes / seconds / 1e9


def report(plain: dict[str, Any], huge: dict[str, Any]) -> dict[str, Any]:
  """The result, from the measurements without and with huge pages."""
  tokens = huge["tokens_per_step"]
  rates = {row["what"]: row["gflop_s"] for row in huge["peak"]}
  parts = []
  for name, part in huge["must"].items():
    least_s = part["flops"] / rates["large"] / 1e9
    least_s = max(least_s, part["bytes"] / huge["stream_gb_s"] / 1e9)
    measured_ms = huge["traced"][name]
    parts.append(
      {
        "part": name,
        **part,
        "least_ms": 1e3 * least_s,
        "measured_ms": measured_ms,
      }
    )
  rest = {"part": "rest", "flops": 0, "bytes": 0, "least_ms": 0.0}
  parts.append({**rest, "measured_ms": huge["traced"]["rest"]})
  last = list(CHANGES)[-1]
  changes = {**plain["changes"], HUGE_PAGES: huge["changes"][last]}
  experiment = sasrec_ce()
  return {
    "shape": {
      "rows": experiment.data.rows,
      "window": experiment.data.window,
      "width": experiment.model.width,
      "layers": experiment.model.layers,
      "heads": experiment.model.heads,
    },
    "tokens_per_step": tokens,
    "huge_pages": True,
    "peak": huge["peak"],
    "peak_gflop_s": rates["large"],
    "stream_gb_s": huge["stream_gb_s"],
    "parts": parts,
    "attention_pairs": huge["attention_pairs"],
    "least_ms": sum(part["least_ms"] for part in parts),
    "step_ms": 1e3 * changes[HUGE_PAGES],
    "changes": [
      {"change": name, "step_ms": 1e3 * s, "tokens_per_s": tokens / s}
      for name, s in changes.items()
    ],
    "remat": [
      {
        "remat": name,
        "layers": _REMAT_LAYERS,
        "step_ms": 1e3 * seconds,
        "temp_bytes": huge["temp_bytes"][name],
      }
      for name, seconds in huge["remat"].items()
    ],
    "dtype": [
      {"dtype": name, "step_ms": 1e3 * seconds}
      for name, seconds in huge["dtype"].items()
    ],
  }


def in_process(rounds: int, environment: dict[str, str]) -> dict[str, Any]:
  """`measure` in a process of its own."""
  kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  done = subprocess.run(
    [sys.executable, "-m", "experiments.bench.floor", "--measure", str(rounds)],
    env={**kept, **environment},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument(
    "--measure",
    type=int,
    metavar="ROUNDS",
    help="only measure, in this process, and print the numbers",
  )
  asked = parser.parse_args(arguments)
  if asked.measure:
    print(json.dumps(measure(rounds=asked.measure)))
    return
  plain = in_process(asked.rounds, {})
  huge = in_process(asked.rounds, protocol.ENVIRONMENT)
  result = report(plain, huge)
  record.write(asked.out, command=COMMAND, result=result)
  for change in result["changes"]:
    print(f"{change['change']}: {change['step_ms']:.0f} ms", file=sys.stderr)
  print(
    f"least {result['least_ms']:.0f} ms, taken {result['step_ms']:.0f} ms",
    file=sys.stderr,
  )


if __name__ == "__main__":
  main()

"""What does each part of a training step cost, and its plain twin?

  python -m experiments.bench.parts

Embedding, attention, dropout, feed-forward, losses and optimizer at the shape
of `sasrec_ce` of `experiments.movielens_1m`, forward and gradient, each alone:
a regression of the step shows here where it is. Fast form and twin alternate.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import record, twins
from experiments.bench.stopwatch import alternate
from experiments.movielens_1m import sasrec_ce
from fmjax import mesh
from fmjax.config import FullSoftmax
from fmjax.model import dropout
from fmjax.model.attention import Full, Sight, query_blocks
from fmjax.model.heads import ItemHead, pair_logits
from fmjax.train.loss import (
  binary_cross_entropy,
  full_softmax,
  sampled_softmax,
)
from fmjax.train.optimizer import make_optimizer

COMMAND = "python -m experiments.bench.parts"
ITEMS = 3_456  # rows of MovieLens-1M's table, padded
NEGATIVES = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """One part at one shape.

  Attributes:
    name: what is timed.
    fast: value and gradient, as the training step computes them.
    plain: the twin's; None where there is one form only.
    flops: of the fast form's matrix products, forward and gradient.
    bytes: of its operands and results, each moved once each way.
    about: what tells the two forms apart.
  """

  name: str
  fast: Callable[[], Any]
  plain: Callable[[], Any] | None
  flops: int
  bytes: int
  about: str


def parts() -> list[Part]:
  """All of them; a mesh must be in scope."""
  experiment = sasrec_ce()
  b, t = experiment.data.rows, experiment.data.window
  d, h = experiment.model.width, experiment.model.heads
  n, v, q, rate = b * t, ITEMS, NEGATIVES, experiment.model.dropout
  rng = np.random.default_rng(0)
  assert isinstance(experiment.objective, FullSoftmax)
  chunk = experiment.objective.chunk

  def normal(*shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  def rows(count: int) -> jax.Array:
    drawn = rng.integers(1, v, count).astype(np.int32)
    return jax.device_put(
      drawn, jax.NamedSharding(jax.sharding.get_mesh(), mesh.spec("tokens"))
    )

  def state() -> jax.Array:
    """As `encode` returns them: spread over the mesh."""
    return jax.sharding.reshard(normal(n, d), mesh.spec("tokens", None))

  x_nd, item_vd = state(), 0.02 * normal(v, d)
  qkv = tuple(normal(b, t, h, d // h) for _ in range(3))
  attention = Full(dropout=rate)
  up_df, down_fd = normal(d, d) / d**0.5, normal(d, d) / d**0.5
  # Arguments, not constants: what a program knows it may compute beforehand.
  data = {
    "key": jax.random.key(0),
    "direction_nd": state(),
    "direction_bthe": normal(b, t, h, d // h),
    "target_n": rows(n),
    "other_n": rows(n),
    "negative_q": jnp.asarray(rng.integers(1, v, q)),
    "segment_bt": jnp.asarray(np.sort(rng.integers(1, 3, (b, t)), axis=1)),
    "weight_bt": jnp.ones((b, t)),
    "at_day_bt": jnp.zeros((b, t), jnp.int32),
  }

  def gradient(function, *arrays) -> Callable[[], Any]:
    which = tuple(range(len(arrays)))
    compiled = jax.jit(jax.value_and_grad(function, argnums=which))
    return lambda: compiled(*arrays, data)

  def take(item_vd, rows_n):
    out = jax.P(*mesh.spec("tokens"), None)
    return item_vd.at[rows_n].get(out_sharding=out)

  def flat(array_bt):
    return array_bt.reshape(-1, out_sharding=mesh.spec("tokens"))

  def embed(item_vd, data):
    return jnp.sum(take(item_vd, data["target_n"]) * data["direction_nd"])

  def attend(form):
    def total(q_bthe, k_bshe, v_bshe, data):
      o_bthe = form(
        attention,
        q_bthe,
        k_bshe,
        v_bshe,
        sight=Sight(segment_bt=data["segment_bt"]),
        dropout_key=data["key"],
      )
      return jnp.sum(o_bthe * data["direction_bthe"])

    return gradient(total, *qkv)

  def drop(form):
    def total(x_nd, data):
      return jnp.sum(form(x_nd, rate, key=data["key"]) * data["direction_nd"])

    return gradient(total, x_nd)

  def feed_forward(x, up_df, down_fd, data):
    up = dropout.dropout(jax.nn.relu(x @ up_df), rate, key=data["key"])
    return jnp.sum(jnp.square(up @ down_fd))

  def head_of(item_vd) -> ItemHead:
    return ItemHead(item_dv=item_vd.T, mask_v=jnp.arange(v) > 0)

  def pairs(x_nd, item_vd, rows_n):
    return pair_logits(x_nd, take(item_vd, rows_n))

  def full(form):
    def total(x_nd, item_vd, data):
      return form(
        x_nd,
        head_of(item_vd),
        item_bt=data["target_n"].reshape(data["weight_bt"].shape),
        weight_bt=data["weight_bt"],
        at_day_bt=data["at_day_bt"],
        chunk=chunk,
      )

    return gradient(total, x_nd, item_vd)

  def sampled(x_nd, item_vd, data):
    negative_q = data["negative_q"]
    return sampled_softmax(
      x_nd,
      ItemHead(item_dv=item_vd[negative_q].T, mask_v=jnp.ones(q, bool)),
      negative_q=negative_q,
      log_count_q=jnp.full(q, np.log(q / v)),
      target_logit_n=pairs(x_nd, item_vd, data["target_n"]),
      target_n=data["target_n"],
      weight_n=flat(data["weight_bt"]),
      at_day_n=flat(data["at_day_bt"]),
    )

  def binary(x_nd, item_vd, data):
    return binary_cross_entropy(
      x_nd,
      item_vd,
      logits=pairs,
      draw=lambda other_n: other_n,
      draws=data["other_n"][None],
      target_logit_n=pairs(x_nd, item_vd, data["target_n"]),
      target_n=data["target_n"],
      weight_n=flat(data["weight_bt"]),
    )

  params = {"items": item_vd, "layers": normal(2, 6, d, d)}
  optimizer = make_optimizer(experiment.optim, total_steps=experiment.run.steps)
  moments = jax.jit(optimizer.init)(params)

  @jax.jit
  def update(params, moments):
    updates, moments = optimizer.update(params, moments, params)
    return optax.apply_updates(params, updates), moments

  pair_count = sum((end - start) * end for start, end in query_blocks(t))
  token_bytes, item_bytes = 4 * n * d, 4 * v * d
  softmax_flops = 3 * 2 * n * d * v
  return [
    Part(
      name="embedding",
      fast=gradient(embed, item_vd),
      plain=None,
      flops=0,
      bytes=2 * (token_bytes + item_bytes),
      about="gather forward, scatter-add backward",
    ),
    Part(
      name="attention",
      fast=attend(Full.__call__),
      plain=attend(twins.dense_attention),
      flops=3 * 2 * 2 * b * pair_count * d,
      bytes=8 * token_bytes,
      about="blocks of queries on one batch axis; every pair, heads between",
    ),
    Part(
      name="dropout",
      fast=drop(dropout.dropout),
      plain=drop(twins.library_dropout),
      flops=0,
      bytes=4 * token_bytes,
      about="hashed bits; jax.random.bits",
    ),
    Part(
      name="feed_forward",
      fast=gradient(feed_forward, x_nd, up_df, down_fd),
      plain=gradient(feed_forward, x_nd.reshape(b, t, d), up_df, down_fd),
      flops=3 * 2 * 2 * n * d * d,
      bytes=8 * token_bytes,
      about="tokens flat; rows by positions",
    ),
    Part(
      name="loss, full softmax",
      fast=full(full_softmax),
      plain=full(twins.checkpointed_softmax),
      flops=softmax_flops,
      bytes=2 * (token_bytes + item_bytes),
      about="gradient in the forward pass; logits made again by the backward",
    ),
    Part(
      name="loss, full softmax at once",
      fast=full(full_softmax),
      plain=full(twins.whole_softmax),
      flops=softmax_flops,
      bytes=2 * (token_bytes + item_bytes),
      about="in chunks; all logits in memory",
    ),
    Part(
      name="loss, 128 sampled negatives",
      fast=gradient(sampled, x_nd, item_vd),
      plain=None,
      flops=3 * 2 * n * d * q,
      bytes=4 * token_bytes + 2 * item_bytes,
      about="negatives shared by all tokens",
    ),
    Part(
      name="loss, binary cross-entropy",
      fast=gradient(binary, x_nd, item_vd),
      plain=None,
      flops=0,
      bytes=6 * token_bytes + 2 * item_bytes,
      about="one negative a token",
    ),
    Part(
      name="optimizer",
      fast=lambda: update(params, moments),
      plain=None,
      flops=0,
      bytes=4 * 7 * sum(x.size for x in params.values()),
      about="clipping and AdamW",
    ),
  ]


def measure(part: Part, *, rounds: int) -> dict[str, Any]:
  calls = {"fast": part.fast}
  if part.plain is not None:
    calls["plain"] = part.plain
  seconds = alternate(calls, rounds=rounds)
  plain_s = seconds.get("plain")
  fast_what, _, plain_what = part.about.partition("; ")
  return {
    "part": part.name,
    "direction": "forward and gradient",
    "fast_ms": 1e3 * seconds["fast"],
    "plain_ms": plain_s and 1e3 * plain_s,
    "ratio": plain_s and plain_s / seconds["fast"],
    "flops": part.flops,
    "bytes": part.bytes,
    "fast_what": fast_what,
    "plain_what": plain_what or None,
  }


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--rounds", type=int, default=21)
  asked = parser.parse_args(arguments)
  experiment = sasrec_ce()
  measured = []
  with mesh.use(mesh.make_mesh()):
    for part in parts():
      measured.append(measure(part, rounds=asked.rounds))
      last = measured[-1]
      plain = "" if last["ratio"] is None else f", twin × {last['ratio']:.1f}"
      print(f"{part.name}: {last['fast_ms']:.2f} ms{plain}", file=sys.stderr)
  shape = {
    "rows": experiment.data.rows,
    "window": experiment.data.window,
    "width": experiment.model.width,
    "heads": experiment.model.heads,
    "items": ITEMS,
  }
  record.write(
    asked.out, command=COMMAND, result={"shape": shape, "parts": measured}
  )


if __name__ == "__main__":
  main()

"""Attention on the positions just before: what lies further is never touched.

Queries are cut in chunks; each meets the keys of its own chunk and of a few
before, so the cost grows with positions times span.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax.data.batch import Array, Batch
from fmjax.model import dropout, time
from fmjax.model.time_bias import TimeBias

# Queries of a chunk. Smaller ones compute fewer pairs that no query sees,
# larger ones are fewer products.
_CHUNK = 32


def chunking(window: int, span: int) -> tuple[int, int]:
  """(positions of a chunk, chunks before it that its queries reach into)."""
  size = min(_CHUNK, window)
  return size, min(-(-(span - 1) // size), -(-window // size) - 1)


def cut(x: jax.Array, size: int, *, axis: int) -> jax.Array:
  """An axis of positions as two: chunks (zeros fill the last), positions."""
  x = _pad(x, axis, after=-x.shape[axis] % size)
  return x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])


def cut_behind(x: jax.Array, size: int, back: int, *, axis: int) -> jax.Array:
  """As `cut`, each chunk after the `back` before it; zeros before the row."""
  count = -(-x.shape[axis] // size)
  x = _pad(x, axis, before=back * size, after=-x.shape[axis] % size)
  starts = [i * size for i in range(back + 1)]
  parts = [
    jax.lax.slice_in_dim(x, start, start + count * size, axis=axis)
    for start in starts
  ]
  return jnp.concatenate([cut(p, size, axis=axis) for p in parts], axis + 1)


def join(x_bhjte: jax.Array, window: int) -> jax.Array:
  """Chunks side by side again: `cut` undone."""
  b, h, j, t, *e = x_bhjte.shape
  return x_bhjte.reshape(b, h, j * t, *e)[:, :, :window]


def _pad(
  x: jax.Array, axis: int, *, before: int = 0, after: int = 0
) -> jax.Array:
  if not before and not after:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (before, after)
  return jnp.pad(x, widths)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
  """What the queries of each chunk see, themselves included.

  Attributes:
    before_bjt: how many positions before itself a query sees.
    query_time_bjt: request times, seconds.
    key_time_bjs: times of the tokens that the keys hold.
  """

  before_bjt: jax.Array
  query_time_bjt: jax.Array
  key_time_bjs: jax.Array

  @classmethod
  def of(cls, before_bt: Array, batch: Batch, *, span: int) -> "Band":
    """Of queries that see `before_bt` < `span` positions before them."""
    size, back = chunking(before_bt.shape[1], span)
    return cls(
      before_bjt=cut(jnp.asarray(before_bt), size, axis=1),
      query_time_bjt=cut(jnp.asarray(batch.time_bt), size, axis=1),
      key_time_bjs=cut_behind(time.key_times(batch), size, back, axis=1),
    )

  def distance_ts(self) -> jax.Array:
    """Positions from key to query; < 0: the key comes later."""
    t, s = self.query_time_bjt.shape[2], self.key_time_bjs.shape[2]
    return jnp.arange(s - t, s)[:, None] - jnp.arange(s)[None, :]

  def seen_bjts(self) -> jax.Array:
    distance_ts = self.distance_ts()
    near_bjts = distance_ts[None, None] <= self.before_bjt[..., None]
    return near_bjts & (distance_ts >= 0)[None, None]

  def logits(
    self, q_bhte: jax.Array, k_bhse: jax.Array, time_bias: TimeBias | None
  ) -> jax.Array:
    """logits_bhjts of each chunk's queries on all its keys, float32."""
    size, keys = self.query_time_bjt.shape[2], self.key_time_bjs.shape[2]
    q_bhjte = cut(q_bhte, size, axis=2)
    k_bhjse = cut_behind(k_bhse, size, keys // size - 1, axis=2)
    logits_bhjts = jnp.einsum("bhjte,bhjse->bhjts", q_bhjte, k_bhjse)
    logits_bhjts = logits_bhjts.astype(jnp.float32) * q_bhte.shape[-1] ** -0.5
    if time_bias is None:
      return logits_bhjts
    return logits_bhjts + time_bias.of_times(
      self.query_time_bjt[:, None, :, :, None],
      self.key_time_bjs[:, None, :, None, :],
    )

  def mix(self, weights_bhjts: jax.Array, v_bhse: jax.Array) -> jax.Array:
    """o_bhte: the values of each chunk's keys, weighted."""
    size, keys = self.query_time_bjt.shape[2], self.key_time_bjs.shape[2]
    v_bhjse = cut_behind(v_bhse, size, keys // size - 1, axis=2)
    o_bhjte = jnp.einsum(
      "bhjts,bhjse->bhjte", weights_bhjts.astype(v_bhse.dtype), v_bhjse
    )
    return join(o_bhjte, v_bhse.shape[2])


class Window(nnx.Module):
  """Softmax attention of each position on itself and `span` - 1 before it."""

  def __init__(
    self, *, span: int, dropout: float, time_bias: TimeBias | None = None
  ):
    self.span = span
    self.dropout = dropout
    self.time_bias = time_bias

  def prepare(self, batch: Batch) -> Band:
    """What queries see, the same in every layer."""
    before_bt = jnp.minimum(batch.position_bt, self.span - 1)
    return Band.of(before_bt, batch, span=self.span)

  def __call__(
    self,
    q_bthe: jax.Array,
    k_bshe: jax.Array,
    v_bshe: jax.Array,
    *,
    sight: Band,
    dropout_key: jax.Array | None,
  ) -> jax.Array:
    """As `attention.Full`."""
    q_bhte, k_bhse, v_bhse = (
      jnp.swapaxes(x, 1, 2) for x in (q_bthe, k_bshe, v_bshe)
    )
    logits_bhjts = jnp.where(
      sight.seen_bjts()[:, None],
      sight.logits(q_bhte, k_bhse, self.time_bias),
      -jnp.inf,
    )
    weights_bhjts = jax.nn.softmax(logits_bhjts, axis=-1)
    weights_bhjts = dropout.dropout(
      weights_bhjts, self.dropout, key=dropout_key
    )
    return jnp.swapaxes(sight.mix(weights_bhjts, v_bhse), 1, 2)

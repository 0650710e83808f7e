"""Horizons: what a position predicts besides the next token.

Horizon 1 is the state itself and predicts token t; horizon k predicts token
t + k - 1. All of them ask one item table.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from fmjax import mesh
from fmjax.config import MultiToken
from fmjax.data.batch import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemTargets:
  """Items to predict, one for each state; n = b · t.

  Attributes:
    item_bt: int32; 0 where there is none.
    weight_bt: float32; 0 takes a target out.
    at_day_bt: day of the prediction, days since 1970 UTC.
  """

  item_bt: Array
  weight_bt: Array
  at_day_bt: Array


class Horizons(nnx.Module):
  """s + s · W_k for horizons k = 2, 3, …, from W = 0."""

  def __init__(self, config: MultiToken, *, width: int):
    self.weight = config.weight
    others = config.horizons - 1
    self.ahead_pdf = nnx.Param(jnp.zeros((others, width, width)))

  def __call__(
    self, states_nd: jax.Array, segment_bt: Array, targets: ItemTargets
  ) -> tuple[jax.Array, ItemTargets]:
    """States and targets of all horizons: those of a row follow one another.

    So they are one batch of longer rows, and one loss is taken of all of them.

    Args:
      states_nd: that predict the next token.
      segment_bt: no horizon reaches from one segment into another.
      targets: of horizon 1.
    """
    b, t = segment_bt.shape
    horizons = self.ahead_pdf.shape[0] + 1
    states_btd = jnp.reshape(
      states_nd, (b, t, -1), out_sharding=mesh.spec("rows", None, None)
    )
    ahead_bptf = jnp.einsum(
      "btd,pdf->bptf", states_btd, self.ahead_pdf[...].astype(states_nd.dtype)
    )
    states_bptd = jnp.concatenate(
      [states_btd[:, None], states_btd[:, None] + ahead_bptf], axis=1
    )

    def join(ahead: list[jax.Array]) -> jax.Array:
      """p arrays [b, t] → [b, p · t]."""
      return jnp.concatenate(ahead, axis=1)

    # Of the mean of the others, each horizon has its share.
    share = self.weight / (horizons - 1)
    item_bt, weight_bt = jnp.asarray(targets.item_bt), targets.weight_bt
    items, weights = [item_bt], [jnp.asarray(weight_bt)]
    for far in range(1, horizons):
      same_bt = later(segment_bt, far) == segment_bt
      items.append(later(item_bt, far) * same_bt)
      weights.append(later(weight_bt, far) * same_bt * share)
    states_nd = jnp.reshape(
      states_bptd,
      (b * horizons * t, states_nd.shape[1]),
      out_sharding=mesh.spec("tokens", None),
    )
    return states_nd, ItemTargets(
      item_bt=join(items),
      weight_bt=join(weights),
      at_day_bt=join([jnp.asarray(targets.at_day_bt)] * horizons),
    )


def later(array_bt: Array, far: int) -> jax.Array:
  """What lies `far` positions later in the row; 0 past its end."""
  array_bt = jnp.asarray(array_bt)
  return jnp.pad(array_bt[:, far:], [(0, 0), (0, far)])

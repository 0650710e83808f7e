"""What a position shows of its history, and what it is asked for."""

import dataclasses

import jax
import jax.numpy as jnp

from fmjax.config import Causal, Masked, ModelConfig
from fmjax.data.batch import Batch
from fmjax.model import dropout


@dataclasses.dataclass(frozen=True)
class InOrder:
  """Position t shows the token of t - 1 and is asked for that of t."""

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """Every target, in every step."""
    del key
    return batch

  def shown(self, batch: Batch) -> Batch:
    """As it is."""
    return batch


@dataclasses.dataclass(frozen=True)
class Cloze:
  """Position t shows the item of t, but where it is asked for it: BERT4Rec.

  What is asked for is hidden, and nothing else is: a target of weight 0 is
  shown. So evaluation hides its queries, and training what `ask` draws. A
  window to evaluate ends with its one query: what follows one is shown to it.
  """

  share: float

  def ask(self, batch: Batch, key: jax.Array) -> Batch:
    """A share of the targets, drawn for one training step."""
    weight_bt = jnp.asarray(batch.weight_bt)
    drawn_bt = dropout.draw(dropout.random_bits(key, weight_bt), self.share)
    weight_bt = jnp.where(drawn_bt, weight_bt, jnp.zeros_like(weight_bt))
    return dataclasses.replace(batch, weight_bt=weight_bt)

  def shown(self, batch: Batch) -> Batch:
    """The batch whose `previous` token is the position's own.

    At a hidden position there is none, as before the start of a history, so the
    learned start token stands there. The true `previous` would tell a position
    what its neighbor hides.
    """
    visible_bt = jnp.asarray(batch.weight_bt) == 0

    def own(values_bt: jax.Array) -> jax.Array:
      return jnp.where(visible_bt, values_bt, jnp.zeros_like(values_bt))

    item_bt, time_bt = jnp.asarray(batch.item_bt), jnp.asarray(batch.time_bt)
    return dataclasses.replace(
      batch,
      index_bt=visible_bt.astype(jnp.int32),
      previous={"item": own(item_bt), "time": own(time_bt)},
    )


def make_reading(config: ModelConfig) -> InOrder | Cloze:
  match config.reading:
    case Causal():
      return InOrder()
    case Masked(share=share):
      return Cloze(share)


def asked_share(config: ModelConfig) -> float:
  """Of the targets of a batch, those that a training step asks for."""
  match config.reading:
    case Causal():
      return 1.0
    case Masked(share=share):
      return share

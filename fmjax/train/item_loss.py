"""The configured loss of the items that states predict."""

from typing import Any

import jax
from flax import nnx

from fmjax.config import (
  BinaryCrossEntropy,
  ConfigError,
  FullSoftmax,
  GeneralizedBce,
  Objective,
  SampledSoftmax,
)
from fmjax.data.batch import Array
from fmjax.model.features import flatten
from fmjax.model.heads import pair_logits
from fmjax.model.recommender import Recommender
from fmjax.train.loss import (
  binary_cross_entropy,
  full_softmax,
  sampled_softmax,
)
from fmjax.train.proposal import draw


def item_loss(
  model: Recommender,
  states_nd: jax.Array,
  *,
  item_bt: Array,
  weight_bt: Array,
  at_day_bt: Array,
  objective: Objective,
  key: jax.Array,
) -> jax.Array:
  """Sum of the weighted losses of the items, in nats.

  Args:
    model: gives the logits.
    states_nd: that predict, in the model's dtype, n = b · t.
    item_bt: what is to be predicted.
    weight_bt: of each target; 0 takes it out.
    at_day_bt: day of each prediction, days since 1970 UTC.
    objective: which loss.
    key: of sampled negatives.
  """
  items = model.items
  target_n = flatten(item_bt)
  weight_n, at_day_n = flatten(weight_bt), flatten(at_day_bt)

  def logits(item_nd: jax.Array) -> jax.Array:
    return pair_logits(states_nd, item_nd.astype(model.dtype))

  match objective:
    case FullSoftmax(chunk=chunk):
      return full_softmax(
        states_nd,
        model.item_head(),
        item_bt=item_bt,
        weight_bt=weight_bt,
        at_day_bt=at_day_bt,
        chunk=chunk,
      )
    case SampledSoftmax(negatives=q, proposal=proposal, logq=logq):
      negative_q, log_count_q = draw(
        proposal, items, key, q, target_n=target_n, weight_n=weight_n
      )
      return sampled_softmax(
        states_nd,
        model.item_head(negative_q),
        negative_q=negative_q,
        log_count_q=logq * log_count_q,
        target_logit_n=logits(items.embed_candidates(target_n, at_day_n)),
        target_n=target_n,
        weight_n=weight_n,
        at_day_n=at_day_n,
      )
    case BinaryCrossEntropy(negatives=q):
      power = 1.0
    case GeneralizedBce(negatives=q, calibration=calibration):
      power = target_power(q, items=items.count, calibration=calibration)
  definition, trained, content = nnx.split(items, nnx.Param, ...)

  def pair(states_nd: jax.Array, trained: Any, rows_n: jax.Array) -> jax.Array:
    table = nnx.merge(definition, trained, content)
    item_nd = table.embed_candidates(rows_n, at_day_n)
    return pair_logits(states_nd, item_nd.astype(model.dtype))

  return binary_cross_entropy(
    states_nd,
    trained,
    logits=pair,
    draw=lambda key: items.sample(key, target_n.shape[0]),
    draws=jax.random.split(key, q),
    target_logit_n=pair(states_nd, trained, target_n),
    target_n=target_n,
    weight_n=weight_n,
    power=power,
  )


def target_power(negatives: int, *, items: int, calibration: float) -> float:
  """β of gBCE: the power of the target's probability.

  With α = negatives / (items - 1), the share of the others that is drawn, the
  paper's α · (t · (1 - 1/α) + 1/α) at calibration t is 1 - t · (1 - α).
  """
  return 1 - calibration * (1 - negatives / (items - 1))


def check_negatives(objective: Objective, *, items: int) -> None:
  """Refuses more negatives than there are items: FullSoftmax() has them all.

  Raises:
    ConfigError: it does.
  """
  match objective:
    case FullSoftmax():
      return
    case SampledSoftmax() | BinaryCrossEntropy() | GeneralizedBce():
      if objective.negatives > items:
        raise ConfigError(
          f"objective.negatives={objective.negatives} exceeds the {items:,}"
          " items of the catalog; use fewer, or FullSoftmax()"
        )

"""How important a training target is: a trailer is not a film.

A weight is a function of what happened at the target's own token. One of
importance 0 is no target: it has no loss and is not counted, but stays in the
context of later ones. Weights by recency multiply these.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from fmjax.config import (
  Completion,
  ConfigError,
  LogDuration,
  suggest,
)
from fmjax.data.batch import Batch
from fmjax.data.decoded import histories, token_values, training_targets
from fmjax.data.schema import DURATION, Encoded, Kind
from fmjax.data.store import Prepared

# Values are kept standardized in float32: a 0 comes back as a tiny number, and
# one that is rounded again as a 0. Durations are whole milliseconds anyway.
_DECIMALS = 5


def training_importance(
  prepared: Prepared, weighting: LogDuration | Completion
) -> np.ndarray:
  """Importance of all training targets, in order, before they are scaled.

  One pass over the log.

  Raises:
    ConfigError: the log cannot tell, none is important, or what is declared to
      be a share is mostly above 1.
  """
  raw = _logged(prepared, weighting, *training_targets(prepared))
  importance = _importance(weighting, raw)
  name = weighed_by(prepared, weighting).feature.name
  if not importance.any():
    missing = np.isnan(raw).mean() if len(raw) else 0.0
    raise ConfigError(
      f"data.weighting={weighting} makes every training target of"
      f" {prepared.schema.source} unimportant: {name} is missing in"
      f" {missing:.0%} of them and 0 in the others; use EqualWeights()"
    )
  middle = round(float(np.median(raw[importance > 0])), _DECIMALS)
  if isinstance(weighting, Completion) and middle > 1:
    raise ConfigError(
      f"data.weighting={weighting} needs a share, but half of the training"
      f" targets of {prepared.schema.source} have a {name} above {middle:.6g};"
      " declare the share that was played, or use LogDuration() of durations"
    )
  return importance


def importance_of(
  prepared: Prepared,
  weighting: LogDuration | Completion,
  user: np.ndarray,
  token: np.ndarray,
) -> np.ndarray:
  """Importance of some tokens as targets, float64 [n]; `user` rises.

  Raises:
    ConfigError: the log cannot tell.
  """
  return _importance(weighting, _logged(prepared, weighting, user, token))


def importance_weighing(
  prepared: Prepared, weighting: LogDuration | Completion
) -> Callable[[Batch], Batch]:
  """Multiplies the weight of targets by their importance.

  The mean factor over all training targets whose importance is not 0 is 1. Of a
  log that is read from disk the histories of a batch are read once more.

  Raises:
    ConfigError: the log cannot tell, or none is important.
  """
  importance = training_importance(prepared, weighting)
  scale = np.count_nonzero(importance) / importance.sum()
  encoded = weighed_by(prepared, weighting)
  log = histories(prepared)

  def weigh(batch: Batch) -> Batch:
    weight_bt = np.array(batch.weight_bt)
    asked = weight_bt > 0
    columns, first = log.read(np.asarray(batch.user_bt)[asked])
    row = first + np.asarray(batch.index_bt)[asked]
    values = columns[encoded.feature.name].take(row)
    weight_bt[asked] *= scale * _importance(weighting, _raw(values, encoded))
    return dataclasses.replace(batch, weight_bt=weight_bt)

  return weigh


def _importance(
  weighting: LogDuration | Completion, raw: np.ndarray
) -> np.ndarray:
  """Of raw values, NaN where they are missing: that weighs 0."""
  match weighting:
    case LogDuration(cap_s=cap_s):
      seconds = np.round(raw) / 1_000
      return np.nan_to_num(np.log1p(seconds.clip(0, cap_s)))
    case Completion():
      return np.nan_to_num(np.round(raw, _DECIMALS).clip(0, 1))


def _logged(
  prepared: Prepared,
  weighting: LogDuration | Completion,
  user: np.ndarray,
  token: np.ndarray,
) -> np.ndarray:
  """What `weighting` reads of some tokens, NaN where it is missing."""
  encoded = weighed_by(prepared, weighting)
  name = encoded.feature.name
  values = token_values(histories(prepared), user, token, column=name)
  return _raw(values, encoded)


def _raw(values: np.ndarray, encoded: Encoded) -> np.ndarray:
  """A numeric feature as logged, float64."""
  raw = values.astype(np.float64) * encoded.std + encoded.mean
  return np.expm1(raw) if encoded.feature.log else raw


def weighed_by(
  prepared: Prepared, weighting: LogDuration | Completion
) -> Encoded:
  """The feature that `weighting` reads.

  Raises:
    ConfigError: there is no such numeric feature.
  """
  match weighting:
    case LogDuration():
      name = DURATION.name
    case Completion(feature=name):
      pass
  numeric = {
    encoded.feature.name: encoded
    for encoded in prepared.spec.features
    if encoded.feature.kind == Kind.NUMERIC
  }
  if name not in numeric:
    raise ConfigError(
      f"data.weighting={weighting} reads {name!r}, which is no numeric feature"
      f" of {prepared.schema.source}" + suggest(name, list(numeric))
    )
  return numeric[name]

"""Items that training never learns: new to the model, though not to the log.

Their tokens weigh nothing as training targets and no count knows them: their
ids are masked, no baseline has met them, and evaluation has them among the
unseen. Prepared data are read as they are and looked at differently: nothing is
prepared twice.
"""

import copy
import dataclasses
import hashlib

import numpy as np

from fmjax.config import (
  ConfigError,
  HeldOutItems,
  NoHeldOut,
  content_hash,
  to_dict,
)
from fmjax.data.batch import Batch
from fmjax.data.store import Prepared


def hold_out(prepared: Prepared, choice: NoHeldOut | HeldOutItems) -> Prepared:
  """The same data, as training that never learns some items sees them.

  Its checksum is another: what was measured on one is not mixed with the other.

  Raises:
    ConfigError: nothing is left to learn.
  """
  match choice:
    case NoHeldOut():
      return prepared
    case HeldOutItems(share=share, seed=seed):
      held_v = drawn(prepared.catalog.item_ids, share=share, seed=seed)
  catalog = prepared.catalog
  if not np.any((catalog.train_count_v > 0) & ~held_v):
    raise ConfigError(
      f"data.held_out={choice} leaves no item with training events, of"
      f" {np.count_nonzero(catalog.train_count_v)}; lower share"
    )
  daily = catalog.daily
  seen = copy.copy(prepared)
  seen.held_out_v = held_v
  seen.catalog = dataclasses.replace(
    catalog,
    train_count_v=np.where(held_v, 0, catalog.train_count_v),
    # Days stay, so that the log is as long as it was.
    daily=dataclasses.replace(
      daily, events=np.where(held_v[daily.item], 0, daily.events)
    ),
  )
  seen.checksum = content_hash(
    {"data_checksum": prepared.checksum, "held_out": to_dict(choice)}
  )
  return seen


def drawn(item_ids: np.ndarray, *, share: float, seed: int) -> np.ndarray:
  """Which catalog rows are held out, bool [v]; an id's answer never changes."""
  held_v = np.array([_uniform(f"{seed} {name}") < share for name in item_ids])
  held_v[0] = False  # no item
  return held_v


def untargeted(batch: Batch, held_out_v: np.ndarray) -> Batch:
  """The batch without the targets that are held out."""
  kept_bt = ~held_out_v[np.asarray(batch.item_bt)]
  weight_bt = (batch.weight_bt * kept_bt).astype(np.float32)
  return dataclasses.replace(batch, weight_bt=weight_bt)


def _uniform(text: str) -> float:
  """In [0, 1), the same on every machine."""
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64

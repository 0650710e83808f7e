"""One batch: packed rows of windows, as model and evaluators read it."""

import dataclasses

import jax
import numpy as np

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """Rows b of T positions; a row packs one or more windows (segments).

  Position t asks for token t of a history, given the request-time features of t
  and everything of the tokens before t.

  Attributes:
    item_bt: int32, the item of token t: the target. 0 on padding.
    weight_bt: float32, weight of the target in loss and metrics; 0 for context,
      for actions that are no targets, and for padding.
    segment_bt: int32, 1, 2, … within a row; 0 on padding.
    position_bt: int32, position within the window, from 0.
    time_bt: int32, request time of token t, seconds since 1970 UTC.
    user_bt: int32, row of the user in the prepared data.
    index_bt: int32, index of token t in the user's whole history. Where it is 0
      there is no token before and `previous` holds zeros.
    request: request-time features of t by name: categorical int32 [b, t]
      (codes), bag int32 [b, t, w] (codes, 0 = none), numeric float32 [b, t]
      (standardized; NaN = missing), timestamp int32 [b, t] (seconds; 0 =
      missing), vector float32 [b, t, width].
    previous: of token t-1: "item" (int32 [b, t]), "time" (int32 [b, t], when it
      began, seconds) and the post-action features; for each bag also
      "<name>_count", float32 [b, t, w].
    outcome: post-action features of t itself, as in `previous`: what losses ask
      for, and no state may read. Empty unless asked for.
  """

  item_bt: Array
  weight_bt: Array
  segment_bt: Array
  position_bt: Array
  time_bt: Array
  user_bt: Array
  index_bt: Array
  request: dict[str, Array]
  previous: dict[str, Array]
  outcome: dict[str, Array] = dataclasses.field(default_factory=dict)

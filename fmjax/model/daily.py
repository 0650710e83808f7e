"""What a candidate looks like on a day: a few values of its age and counts.

A small network reads them together, since what a count is worth depends on the
age and on the counts before: ten views yesterday are a rise in a title of two
days and a fall in one of twenty. Its input is rounded to levels, so that most
candidates share their look with others: the network sees each look once.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmjax.config import CandidateAge, DynamicCounts, ItemsConfig
from fmjax.data.dynamic import NOT_SEEN, WINDOWS_DAYS, Dated
from fmjax.model import age
from fmjax.model.features import linear

VALUES = 4  # of a candidate on a day
HIDDEN = 16

# Where levels begin: every day of the first month, then ever fewer; and half an
# octave of counts.
_AGES_DAYS = np.array(
  [NOT_SEEN, *range(31), 42, 60, 90, 120, 180, 240, 365, 512, 1024]
)
_COUNTS = np.unique(
  [0, *(1 << k for k in range(31)), *(3 << k for k in range(29))]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looks:
  """How each candidate looks on each day.

  Attributes:
    look_yv: int32, row of `feature_lf`.
    feature_lf: float32, of each look.
  """

  look_yv: np.ndarray
  feature_lf: np.ndarray


def features_width(config: ItemsConfig) -> int:
  """Features of a look; 0: candidates look the same on every day."""
  width = 0
  if isinstance(config.age, CandidateAge):
    width += age.TERMS
  if isinstance(config.dynamics, DynamicCounts):
    width += len(WINDOWS_DAYS)
  return width


def looks(config: ItemsConfig, tables: Dated) -> Looks:
  """All that occur, of what the configuration reads."""
  columns = []  # (where levels begin, level_yv, features of the levels [f, l])
  if isinstance(config.age, CandidateAge):
    columns.append((_AGES_DAYS, tables.age_dv, age.terms(_AGES_DAYS)))
  if isinstance(config.dynamics, DynamicCounts):
    feature_1l = config.dynamics.strength * np.log1p(_COUNTS)[None]
    columns += [
      (_COUNTS, count_dv, feature_1l) for count_dv in tables.count_fdv
    ]
  code_yv = np.zeros(tables.age_dv.shape, np.int64)
  for begins, value_yv, _ in columns:
    level_yv = np.digitize(value_yv, begins) - 1
    code_yv = code_yv * len(begins) + level_yv
  code_l, look_yv = np.unique(code_yv, return_inverse=True)
  features = []
  for begins, _, feature_fl in reversed(columns):
    code_l, level_l = np.divmod(code_l, len(begins))
    features.append(feature_fl[:, level_l])
  return Looks(
    look_yv=look_yv.reshape(code_yv.shape).astype(np.int32),
    feature_lf=np.concatenate(features[::-1]).T.astype(np.float32),
  )


class LookEncoder(nnx.Module):
  """value = W₂ · gelu(W₁ · features + b), a look at a time."""

  def __init__(self, features: int, *, rngs: nnx.Rngs):
    self.hidden_fh = linear(features, HIDDEN, rngs=rngs)
    self.bias_h = nnx.Param(jnp.zeros(HIDDEN))
    self.value_hm = linear(HIDDEN, VALUES, rngs=rngs)

  def __call__(self, feature_lf: jax.Array) -> jax.Array:
    """value_lm of each look."""
    hidden_lh = jnp.einsum("lf,fh->lh", feature_lf, self.hidden_fh[...])
    hidden_lh = jax.nn.gelu(hidden_lh + self.bias_h[...][None])
    return jnp.einsum("lh,hm->lm", hidden_lh, self.value_hm[...])

"""Does a law fit as well with a parameter at the end of its range?

A covariance knows the optimum alone. Points over a short range may fit as well
without any floor, while the curvature at the optimum promises to know it: so
each parameter is moved to both of its ends, and the others are fitted again.

Axes: s refits, n points, k inputs, i internal parameters.
"""

import numpy as np
import scipy.stats

from fmjax.scaling.laws.descent import descend, objective
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.law import LEVEL, Points
from fmjax.scaling.laws.noise import ALL_SQUARES, deviance_unit

_STARTS = 6  # beside the optimum itself
_ITERATIONS = 150  # of each refit: an end is near by then, or far too bad
_SURE = 0.05  # half an interval, in logs: known so well, the ends are far
_SAME = 1e-12  # of the spread of log y: objectives without noise that are one


def open_ends(
  form: Form,
  theta_i: np.ndarray,
  data: Points,
  *,
  box: np.ndarray,
  delta: float,
  noise: float,
  covariance_ii: np.ndarray,
) -> dict[str, tuple[bool, bool]]:
  """Of each parameter with bounds of its own: do the points leave them open?

  (low, high): True where the fit at that end is not worse than the optimum by
  what a `LEVEL` interval allows. Parameters that the covariance knows to a few
  percent are not asked.
  """
  freedom = len(data) - len(theta_i)
  if freedom < 1:
    return {}
  reach = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)
  _, slope = form.natural(theta_i, shift_k=data.shift_k, shift_y=data.shift_y)
  owned = {}  # name: place among the internal parameters
  for number, name in enumerate(form.parameters):
    (moved,) = np.nonzero(slope[number])
    if not form.positive[number] or len(moved) > 1:
      continue
    variance = covariance_ii[moved[0], moved[0]]
    if not reach * np.sqrt(np.maximum(variance, 0)) < _SURE:
      owned[name] = int(moved[0])
  if not owned:
    return {}
  start_si = np.concatenate(
    [theta_i[None], form.starts(data.u_nk, _STARTS)[:_STARTS]]
  )
  tries = len(start_si)
  start_si = np.tile(start_si, (2 * len(owned), 1))
  boxes = np.repeat(box[:, None], len(start_si), axis=1)
  for turn, (place, side) in enumerate(
    (place, side) for place in owned.values() for side in (0, 1)
  ):
    held = slice(turn * tries, (turn + 1) * tries)
    boxes[:, held, place] = box[side, place]
  for each in (ALL_SQUARES, delta):
    start_si, objective_s = descend(
      form,
      start_si,
      data.u_nk,
      data.z_n[None],
      box=boxes,
      delta=each,
      iterations=_ITERATIONS,
    )
  at_ends = objective_s.reshape(len(owned), 2, tries).min(2)
  best = objective(form, theta_i[None], data.u_nk, data.z_n[None], delta)[0]
  limit = scipy.stats.f.ppf(LEVEL, 1, freedom)
  allowed = max(
    limit / 2 * deviance_unit(delta=delta, noise=noise),
    _SAME * float(data.z_n @ data.z_n),
  )
  return {
    name: (bool(low), bool(high))
    for name, (low, high) in zip(owned, at_ends - best <= allowed, strict=True)
  }

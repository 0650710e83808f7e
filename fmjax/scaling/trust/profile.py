"""Profile likelihood: how far a parameter moves before the fit must say so.

Every other parameter is refitted at each value of the one asked about. Where
the points do not bound it, the profile stays flat and the interval is open: a
covariance, which knows the optimum alone, would still give numbers.

Axes: s values of the parameter, n points, k inputs, i internal parameters.
"""

import dataclasses

import numpy as np
import scipy.stats

from fmjax.scaling.laws.descent import descend
from fmjax.scaling.laws.law import LEVEL, Fit
from fmjax.scaling.laws.noise import deviance_unit

_STEPS = 24  # values tried to each side, in each of two rounds
_NEAR, _FAR = 1e-2, 1e3  # standard errors: the nearest and the farthest tried
_GUESS = 0.1  # of a log: where there is no standard error to go by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """An interval of one parameter.

  Attributes:
    name: the parameter.
    value: at the optimum.
    low, high: ends of the interval; -inf or inf (0 for a positive parameter)
      where the profile never rises enough.
    level: of the interval.
    at_s: values tried, in order.
    deviance_s: by how much the fit is worse there; chi-square of one degree of
      freedom if the parameter has that value.
  """

  name: str
  value: float
  low: float
  high: float
  level: float
  at_s: np.ndarray
  deviance_s: np.ndarray


def profile(law: Fit, name: str, *, level: float = LEVEL) -> Profile:
  """The profile of a parameter of `law`, and its interval.

  The deviance is twice the rise of the objective, see `noise.deviance_unit`.
  Without noise, or without a point left to tell it, there is no interval:
  ValueError.
  """
  form = law.form
  if name not in form.parameters:
    raise ValueError(
      f"{form.name} has no parameter {name!r}: {', '.join(form.parameters)}"
    )
  if not law.noise > 0:
    raise ValueError(f"no noise is left about {form.name}: nothing to profile")
  place = form.parameters.index(name)
  search = _Search(law, place)
  error = law.log_errors()[name]
  unit = error if 0 < error < 10 else _GUESS
  freedom = law.points - len(law.theta_i)
  limit = scipy.stats.f.ppf(level, 1, freedom)
  trail = [(np.array([search.value]), np.array([0.0]))]
  ends = []
  for side in (-1.0, 1.0):
    steps_s = side * unit * np.geomspace(_NEAR, _FAR, _STEPS)
    at_s, deviance_s = search.deviance(search.value + steps_s)
    trail.append((at_s, deviance_s))
    crossed = np.flatnonzero(deviance_s >= limit)
    if not len(crossed):
      ends.append(side * np.inf)
      continue
    first = crossed[0]
    inner = at_s[first - 1] if first else search.value
    at_s, deviance_s = search.deviance(np.linspace(inner, at_s[first], _STEPS))
    trail.append((at_s, deviance_s))
    # The root of the deviance is nearly straight.
    ends.append(
      float(np.interp(limit**0.5, np.sqrt(np.maximum(deviance_s, 0)), at_s))
    )
  at_s, deviance_s = map(np.concatenate, zip(*trail, strict=True))
  order = np.argsort(at_s)
  outward = np.exp if form.positive[place] else np.asarray
  return Profile(
    name=name,
    value=float(outward(search.value)),
    low=float(outward(ends[0])),
    high=float(outward(ends[1])),
    level=level,
    at_s=outward(at_s[order]),
    deviance_s=deviance_s[order],
  )


class _Search:
  """Refits with one parameter held, in logs that are not centered.

  With shifts of 0 the internal parameters are those of the equation, so that
  each of them, amplitudes too, can be held.
  """

  def __init__(self, law: Fit, place: int):
    data = law.data
    self._law, self._place = law, place
    self._log_x_nk = data.u_nk + data.shift_k
    self._log_y_n = data.z_n + data.shift_y
    self._theta_i, slope = law.form.natural(
      law.theta_i, shift_k=data.shift_k, shift_y=data.shift_y
    )
    self.value = float(self._theta_i[place])
    # Those with bounds of their own keep them; amplitudes have none.
    self._box = np.array([[-np.inf], [np.inf]]) * np.ones(len(self._theta_i))
    for number, row in enumerate(slope):
      (moved,) = np.nonzero(row)
      if len(moved) == 1:
        offset = self._theta_i[number] - law.theta_i[moved[0]]
        self._box[:, number] = law.box[:, moved[0]] + offset
    self._unit = deviance_unit(delta=law.delta, noise=law.noise)

  def deviance(self, value_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, moved to where the parameter may lie, and theirs."""
    low, high = self._box[:, self._place]
    value_s = np.clip(value_s, low, high)
    box = np.repeat(self._box[:, None], len(value_s), axis=1)
    box[:, :, self._place] = value_s
    start_si = np.tile(self._theta_i, (len(value_s), 1))
    # Far from the optimum, others have to move, too: each value may start from
    # where its neighbor, nearer to the optimum, has ended.
    best_s = np.full(len(value_s), np.inf)
    for _ in range(3):
      found_si, objective_s = descend(
        self._law.form,
        start_si,
        self._log_x_nk,
        self._log_y_n[None],
        box=box,
        delta=self._law.delta,
      )
      better_s = objective_s < best_s
      best_s = np.where(better_s, objective_s, best_s)
      start_si = np.concatenate([found_si[:1], found_si[:-1]])
    return value_s, 2 * (best_s - self._law.objective) / self._unit

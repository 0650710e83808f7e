"""A fitted law, with what is known of its parameters.

Axes: n points, k inputs, i internal parameters.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from fmjax.scaling.laws.form import Form, columns

LEVEL = 0.9  # of every interval here
UNEXPLAINED = 0.5  # of the spread of log y: more is no fit
FLAT_GRADIENT = 1e-4  # of the largest possible gradient
# Range of an input: over less, an exponent is that of whatever else differs
# between the runs.
NARROW = np.log(1.25)
RARE = 0.02  # share of starts that found it: fewer is chance
_REACH = 50.0  # e^±50 says no more than "unknown"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
  """What a law goes through, in centered logs (see form.py).

  Attributes:
    u_nk: of the inputs.
    z_n: of y.
    shift_k: taken from the logs of the inputs.
    shift_y: taken from log y.
    x_names: of the inputs, for people.
    y_name: of y.
  """

  u_nk: np.ndarray
  z_n: np.ndarray
  shift_k: np.ndarray
  shift_y: float
  x_names: tuple[str, ...]
  y_name: str

  def __len__(self) -> int:
    return len(self.z_n)

  @property
  def x_nk(self) -> np.ndarray:
    return np.exp(self.u_nk + self.shift_k)

  @property
  def y_n(self) -> np.ndarray:
    return np.exp(self.z_n + self.shift_y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  """A law with its facts.

  Attributes:
    form: the law.
    theta_i: internal parameters, see form.py.
    box: their bounds, [2, i].
    covariance_ii: of `theta_i`; NaN where it cannot be known.
    data: the points.
    delta: of the Huber loss, in logs.
    noise: standard deviation of log y about the law; NaN where no point is left
      to tell it.
    objective: sum of Huber losses over log residuals.
    gradient_norm: largest projected derivative, as a share of the largest that
      so many points could give.
    starts: searches for the optimum.
    agreement: share of them that reached this objective.
    condition: condition number of the Jacobian with unit columns.
    at_bound: what sits on a bound, in words.
    open_ends: of each parameter with bounds of its own, whether the points
      leave the low and the high one open, see ends.py.
    fitter: "huber", or "varpro" for variable projection.
    unexplained: share of the spread of log y that the law leaves.
    vague: parameters that the points do not identify.
    warnings: everything a reader must know before using the law.
  """

  form: Form
  theta_i: np.ndarray
  box: np.ndarray
  covariance_ii: np.ndarray
  data: Points
  delta: float
  noise: float
  objective: float
  gradient_norm: float
  starts: int
  agreement: float
  condition: float
  unexplained: float
  at_bound: tuple[str, ...]
  open_ends: Mapping[str, tuple[bool, bool]]
  vague: tuple[str, ...]
  warnings: tuple[str, ...]
  fitter: str = "huber"

  @property
  def points(self) -> int:
    return len(self.data)

  @property
  def converged(self) -> bool:
    """The optimizer found a stationary point that more than one start finds."""
    return self.gradient_norm < FLAT_GRADIENT and self.agreement > RARE

  @property
  def narrow(self) -> tuple[str, ...]:
    """Names of inputs that hardly vary, though the law needs them to."""
    spans = np.ptp(self.data.u_nk, axis=0)
    return tuple(
      name
      for name, span, least in zip(
        self.data.x_names, spans, self.form.least_values, strict=True
      )
      if least > 1 and span < NARROW
    )

  @property
  def good(self) -> bool:
    """Converged, off the bounds, every parameter identified, and it fits."""
    return (
      self.converged
      and not (self.at_bound or self.vague or self.narrow)
      and self.points > len(self.theta_i)
      and self.unexplained <= UNEXPLAINED
    )

  @property
  def parameters(self) -> dict[str, float]:
    value_i, _ = self._natural()
    return natural_values(self.form, value_i)

  @property
  def standard_errors(self) -> dict[str, float]:
    """In the units of the parameters, by the delta method; NaN: unknown."""
    errors, parameters = self.log_errors(), self.parameters
    return {
      name: errors[name] * (parameters[name] if positive else 1.0)
      for name, positive in zip(
        self.form.parameters, self.form.positive, strict=True
      )
    }

  @property
  def intervals(self) -> dict[str, tuple[float, float]]:
    """`LEVEL` intervals by Student's t; multiplicative for positive ones."""
    reach, limits = self.quantile(), self.limits()
    parameters, errors = self.parameters, self.log_errors()
    result = {}
    for name, positive in zip(
      self.form.parameters, self.form.positive, strict=True
    ):
      value, error = parameters[name], errors[name]
      low, high = limits.get(name, (-np.inf, np.inf))
      if np.isnan(error) and not np.isnan(reach) and name in limits:
        # On a bound: all that may be said is where the fit looks for it.
        ends = (low, high)
      elif positive:
        factor = np.exp(np.minimum(reach * error, _REACH))
        ends = np.clip((value / factor, value * factor), low, high)
      else:
        ends = np.clip(
          (value - reach * error, value + reach * error), low, high
        )
      if not np.isnan(reach):
        open_low, open_high = self.open_ends.get(name, (False, False))
        ends = (low if open_low else ends[0], high if open_high else ends[1])
      result[name] = (float(ends[0]), float(ends[1]))
    return result

  def logs(self, x: Sequence[float] | np.ndarray) -> np.ndarray:
    """Centered logs of inputs, [n, k]; x is [n, k], or [n] for one input."""
    return np.log(columns(x)) - self.data.shift_k

  def predict(self, x: Sequence[float] | np.ndarray) -> np.ndarray:
    """The law at x, [n]; x is [n, k], or [n] for one input."""
    log_y_n = self.form.log_y(self.theta_i[None], self.logs(x))[0]
    return np.exp(log_y_n + self.data.shift_y)

  def predict_interval(
    self, x: Sequence[float] | np.ndarray, *, new_run: bool = False
  ) -> np.ndarray:
    """`LEVEL` interval of the law itself, or of one new run at x, [n, 2].

    A new run has noise of its own (its seed's and whatever else the points hold
    about the law), as large as that of the points.
    """
    jacobian_ni = self.form.jacobian(self.theta_i[None], self.logs(x))[0]
    variance_n = np.einsum(
      "ni,ij,nj->n", jacobian_ni, self.covariance_ii, jacobian_ni
    )
    variance_n = np.maximum(variance_n, 0)
    if new_run:
      variance_n = variance_n + self.noise**2
    reach_n = self.quantile() * np.sqrt(variance_n)
    factor_n = np.exp(np.minimum(reach_n, _REACH))
    y_n = self.predict(x)
    return np.stack([y_n / factor_n, y_n * factor_n], axis=-1)

  def residuals(self) -> np.ndarray:
    """Measured minus law, in logs, [n]."""
    return (
      self.data.z_n - self.form.log_y(self.theta_i[None], self.data.u_nk)[0]
    )

  def to_dict(self) -> dict[str, Any]:
    """JSON-ready; what is not known is null."""
    return {
      "form": self.form.name,
      "equation": self.form.equation,
      "fitter": self.fitter,
      "parameters": known(self.parameters),
      "objective": self.objective,
      "delta": self.delta,
      "standard_errors": known(self.standard_errors),
      "intervals": known(self.intervals),
      "level": LEVEL,
      "points": self.points,
      "noise": known({"": self.noise})[""],
      "converged": self.converged,
      "good": self.good,
      "gradient_norm": self.gradient_norm,
      "starts": self.starts,
      "agreement": self.agreement,
      "unexplained": self.unexplained,
      "condition": known({"": self.condition})[""],
      "at_bound": list(self.at_bound),
      "not_identified": list(self.vague),
      "warnings": list(self.warnings),
    }

  def limits(self) -> dict[str, tuple[float, float]]:
    """Where the fit looks for the parameters that it bounds themselves."""
    value_i, slope = self._natural()
    positive_i, limits = self.form.positive, {}
    for number, name in enumerate(self.form.parameters):
      (moved,) = np.nonzero(slope[number])
      # An amplitude at x = 1 depends on its exponent, too: it has no bound.
      if positive_i[number] and len(moved) == 1:
        offset = value_i[number] - self.theta_i[moved[0]]
        low, high = np.exp(self.box[:, moved[0]] + offset)
        limits[name] = (float(low), float(high))
    return limits

  def _natural(self):
    return self.form.natural(
      self.theta_i, shift_k=self.data.shift_k, shift_y=self.data.shift_y
    )

  def log_errors(self) -> dict[str, float]:
    """Standard errors; those of positive parameters are of their logs."""
    _, slope = self._natural()
    variance_i = np.einsum("ij,jk,ik->i", slope, self.covariance_ii, slope)
    error_i = np.sqrt(np.maximum(variance_i, 0))
    # A parameter on a bound has no error, and harms those alone that use it.
    unknown_i = np.isnan(np.diag(self.covariance_ii))
    if unknown_i.any() and not unknown_i.all():
      free = ~unknown_i
      variance_i = np.einsum(
        "ij,jk,ik->i",
        slope[:, free],
        self.covariance_ii[np.ix_(free, free)],
        slope[:, free],
      )
      touched_i = (slope[:, unknown_i] != 0).any(1)
      error_i = np.where(touched_i, np.nan, np.sqrt(np.maximum(variance_i, 0)))
    return dict(zip(self.form.parameters, error_i.tolist(), strict=True))

  def quantile(self) -> float:
    """Of Student's t, for `LEVEL`; NaN where no point is left."""
    freedom = self.points - len(self.theta_i)
    if freedom < 1:
      return float("nan")
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))


def natural_values(form: Form, value_i: np.ndarray) -> dict[str, float]:
  """Parameters by name, of numbers that are logs where they are positive."""
  # Beyond what a float holds lies only what is not identified.
  return {
    name: float(np.exp(np.clip(value, -700.0, 700.0)) if positive else value)
    for name, value, positive in zip(
      form.parameters, value_i, form.positive, strict=True
    )
  }


def known(values: Mapping[str, Any]) -> dict[str, Any]:
  """NaN and infinity become None, so that the JSON is valid."""

  def clean(value):
    if isinstance(value, (tuple, list)):
      return [clean(each) for each in value]
    return float(value) if np.isfinite(value) else None

  return {key: clean(value) for key, value in values.items()}

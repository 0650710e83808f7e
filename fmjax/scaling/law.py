"""A fitted law, with what is known of its parameters.

Axes: n points, i internal parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats

from fmjax.scaling import forms

LEVEL = 0.9  # of every interval here
UNEXPLAINED = 0.5  # of the spread of log y: more is no fit
FLAT_GRADIENT = 1e-4  # of the largest possible gradient
RARE = 0.02  # share of starts that found it: fewer is chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  """A law with its facts.

  Attributes:
    form: the law.
    theta_i: internal parameters, see forms.py.
    box: their bounds, [2, i].
    covariance_ii: of `theta_i`; NaN where it cannot be known.
    shift_x, shift_y: means of log x and log y.
    points: number of them.
    objective: sum of Huber losses over log residuals.
    gradient_norm: largest projected derivative, as a share of the largest that
      so many points could give.
    agreement: share of the starts that reached this objective.
    condition: condition number of the Jacobian with unit columns.
    at_bound: what sits on a bound, in words.
    unexplained: share of the spread of log y that the law leaves.
    vague: parameters that the points do not identify.
    warnings: everything a reader must know before using the law.
  """

  form: forms.Form
  theta_i: np.ndarray
  box: np.ndarray
  covariance_ii: np.ndarray
  shift_x: float
  shift_y: float
  points: int
  objective: float
  gradient_norm: float
  agreement: float
  condition: float
  unexplained: float
  at_bound: tuple[str, ...]
  vague: tuple[str, ...]
  warnings: tuple[str, ...]

  @property
  def converged(self) -> bool:
    """The optimizer found a stationary point that more than one start finds."""
    return self.gradient_norm < FLAT_GRADIENT and self.agreement > RARE

  @property
  def good(self) -> bool:
    """Converged, off the bounds, every parameter identified, and it fits."""
    return (
      self.converged
      and not (self.at_bound or self.vague)
      and self.points > len(self.theta_i)
      and self.unexplained <= UNEXPLAINED
    )

  @property
  def parameters(self) -> dict[str, float]:
    value_i, _ = self._natural()
    positive_i = np.array(self.form.positive)
    value_i = np.where(positive_i, np.exp(value_i * positive_i), value_i)
    return dict(zip(self.form.parameters, value_i.tolist(), strict=True))

  @property
  def standard_errors(self) -> dict[str, float]:
    """In the units of the parameters, by the delta method; NaN: unknown."""
    errors = self.log_errors()
    return {
      name: error * (self.parameters[name] if positive else 1.0)
      for (name, error), positive in zip(
        errors.items(), self.form.positive, strict=True
      )
    }

  @property
  def intervals(self) -> dict[str, tuple[float, float]]:
    """`LEVEL` intervals by Student's t; multiplicative for positive ones."""
    reach, limits = self.quantile(), self._limits()
    result = {}
    for name, positive in zip(
      self.form.parameters, self.form.positive, strict=True
    ):
      value, error = self.parameters[name], self.log_errors()[name]
      low, high = limits.get(name, (-np.inf, np.inf))
      if np.isnan(error) and not np.isnan(reach) and name in limits:
        # On a bound: all that may be said is where the fit looks for it.
        ends = (low, high)
      elif positive:
        # Beyond e^±50 the numbers say no more than "unknown".
        factor = np.exp(np.minimum(reach * error, 50.0))
        ends = np.clip((value / factor, value * factor), low, high)
      else:
        ends = np.clip(
          (value - reach * error, value + reach * error), low, high
        )
      result[name] = (float(ends[0]), float(ends[1]))
    return result

  def predict(self, x_n: np.ndarray) -> np.ndarray:
    u_n = np.log(np.asarray(x_n, float)) - self.shift_x
    return np.exp(self.form.log_y(self.theta_i[None], u_n)[0] + self.shift_y)

  def predict_interval(self, x_n: np.ndarray) -> np.ndarray:
    """`LEVEL` interval of the law itself (no noise of a new run), [n, 2]."""
    u_n = np.log(np.asarray(x_n, float)) - self.shift_x
    jacobian_ni = self.form.jacobian(self.theta_i[None], u_n)[0]
    variance_n = np.einsum(
      "ni,ij,nj->n", jacobian_ni, self.covariance_ii, jacobian_ni
    )
    reach_n = self.quantile() * np.sqrt(np.maximum(variance_n, 0))
    factor_n = np.exp(np.minimum(reach_n, 50.0))
    y_n = self.predict(x_n)
    return np.stack([y_n / factor_n, y_n * factor_n], axis=-1)

  def to_dict(self) -> dict[str, Any]:
    """JSON-ready; what is not known is null."""
    return {
      "form": self.form.name,
      "equation": self.form.equation,
      "parameters": self.parameters,
      "objective": self.objective,
      "standard_errors": known(self.standard_errors),
      "intervals": known(self.intervals),
      "level": LEVEL,
      "points": self.points,
      "converged": self.converged,
      "good": self.good,
      "gradient_norm": self.gradient_norm,
      "agreement": self.agreement,
      "unexplained": self.unexplained,
      "condition": known({"": self.condition})[""],
      "at_bound": list(self.at_bound),
      "not_identified": list(self.vague),
      "warnings": list(self.warnings),
    }

  def _limits(self) -> dict[str, tuple[float, float]]:
    """Where the fit looks for the parameters that have units of their own."""
    low_i, high_i = self.box
    limits = {}
    for number, name in enumerate(self.form.parameters):
      ends = low_i[number], high_i[number]
      match name:
        case "E" | "R_inf":
          limits[name] = tuple(float(np.exp(e + self.shift_y)) for e in ends)
        case "alpha" if self.form.positive[number]:
          limits[name] = tuple(float(np.exp(end)) for end in ends)
    return limits

  def _natural(self):
    return self.form.natural(
      self.theta_i, shift_x=self.shift_x, shift_y=self.shift_y
    )

  def log_errors(self) -> dict[str, float]:
    """Standard errors; those of positive parameters are of their logs."""
    _, slope = self._natural()
    variance_i = np.einsum("ij,jk,ik->i", slope, self.covariance_ii, slope)
    error_i = np.sqrt(np.maximum(variance_i, 0))
    return dict(zip(self.form.parameters, error_i.tolist(), strict=True))

  def quantile(self) -> float:
    freedom = self.points - len(self.theta_i)
    if freedom < 1:
      return float("nan")
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))


def known(values: Mapping[str, Any]) -> dict[str, Any]:
  """NaN and infinity become None, so that the JSON is valid."""

  def clean(value):
    if isinstance(value, (tuple, list)):
      return [clean(each) for each in value]
    return float(value) if np.isfinite(value) else None

  return {key: clean(value) for key, value in values.items()}

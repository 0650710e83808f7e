"""Fits of scaling laws that say how far they can be trusted.

The objective is the sum of Huber losses over log residuals (Hoffmann et al.
2022), delta = 1e-3 unless told otherwise. It is minimized in float64 from a
fixed grid of starts by iteratively reweighted, damped Gauss-Newton steps, all
starts at once; SciPy then polishes the best. A sum, never a mean: dividing by
the number of points lets an optimizer's tolerance stop it early.

Axes: s starts or draws, n points, i internal parameters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats

from fmjax.data import schema
from fmjax.scaling import forms
from fmjax.scaling.descent import descend, gradient, pinned, polish
from fmjax.scaling.law import FLAT_GRADIENT, RARE, UNEXPLAINED, Fit

_AGREE = 1e-6  # of the objective's scale: starts that found the same optimum
_ALL_SQUARES = 1e3  # a delta beyond every residual
_VAGUE = np.log(5.0)  # half an interval, in logs: known to a factor 5 only


def fit(
  x: Sequence[float] | np.ndarray,
  y: Sequence[float] | np.ndarray,
  *,
  form: forms.Form,
  delta: float = 1e-3,
  starts: int = 64,
  x_name: str = "x",
  y_name: str = "y",
) -> Fit:
  """The law of `form` through points (x, y).

  Raises:
    DataError: the points cannot carry the form; says why.
  """
  x_n, y_n = np.asarray(x, float), np.asarray(y, float)
  check_points(x_n, y_n, form=form, x_name=x_name, y_name=y_name)
  log_x_n, log_y_n = np.log(x_n), np.log(y_n)
  shift_x, shift_y = float(log_x_n.mean()), float(log_y_n.mean())
  u_n, z_n = log_x_n - shift_x, log_y_n - shift_y
  box = form.box(u_n, z_n)

  # Squares first: far from the points, the flat arms of the Huber loss hold
  # starts back that have missed the amplitude by decades.
  theta_si, _ = descend(
    form,
    form.starts(u_n, starts),
    u_n,
    z_n[None],
    box=box,
    delta=_ALL_SQUARES,
  )
  theta_si, objective_s = descend(
    form, theta_si, u_n, z_n[None], box=box, delta=delta
  )
  best = int(np.argmin(objective_s))
  theta_i, objective = polish(
    form, theta_si[best], u_n, z_n, box=box, delta=delta
  )
  tolerance = _AGREE * (objective + len(u_n) * delta**2)
  agreement = float(np.mean(objective_s <= objective + tolerance))

  gradient_i = gradient(form, theta_i, u_n, z_n, delta=delta)
  free_i = ~pinned(theta_i, gradient_i, box)
  reach_i = delta * np.abs(form.jacobian(theta_i[None], u_n)[0]).sum(0)
  gradient_norm = float(
    np.max(np.where(free_i, np.abs(gradient_i) / (reach_i + 1e-300), 0))
  )
  covariance_ii, condition = _covariance(
    form, theta_i, u_n, z_n, free_i=free_i, delta=delta
  )
  result = Fit(
    form=form,
    theta_i=theta_i,
    box=box,
    covariance_ii=covariance_ii,
    shift_x=shift_x,
    shift_y=shift_y,
    points=len(u_n),
    objective=objective,
    gradient_norm=gradient_norm,
    agreement=agreement,
    condition=condition,
    unexplained=float(
      np.abs(z_n - form.log_y(theta_i[None], u_n)[0]).sum()
      / np.abs(z_n - np.median(z_n)).sum()
    ),
    at_bound=tuple(form.at_bound(theta_i, box)),
    vague=(),
    warnings=(),
  )
  vague = _vague(result)
  result = dataclasses.replace(result, vague=vague)
  return dataclasses.replace(
    result, warnings=tuple(_warnings(result, u_n, x_name, y_name))
  )


def check_points(
  x_n: np.ndarray,
  y_n: np.ndarray,
  *,
  form: forms.Form,
  x_name: str,
  y_name: str,
) -> None:
  """Refuses points that no fit of `form` could use, in one sentence."""
  for name, value_n in ((x_name, x_n), (y_name, y_n)):
    bad = np.flatnonzero(~np.isfinite(value_n) | (value_n <= 0))
    if len(bad):
      raise schema.DataError(
        f"{name} is {value_n[bad[0]]:g} in row {bad[0] + 1}; a law in logs"
        " needs positive, finite numbers: leave such rows out of the table"
      )
  needed, have = len(form.parameters), len(x_n)
  if have < needed:
    raise schema.DataError(
      f"{have} rows cannot determine the {needed} parameters of"
      f" {form.equation} ({form.name}); give at least {needed + 1} rows"
    )
  distinct = len(np.unique(x_n))
  if distinct < needed:
    only = f", {x_n[0]:g}," if distinct == 1 else ""
    raise schema.DataError(
      f"{x_name} has {distinct} distinct value{'s' * (distinct > 1)}{only} in"
      f" {have} rows; {form.equation} needs at least {needed}"
    )
  if np.ptp(y_n) == 0:
    raise schema.DataError(
      f"{y_name} is {y_n[0]:g} in all {have} rows: there is no law to fit"
    )


def _covariance(form, theta_i, u_n, z_n, *, free_i, delta):
  """Of `theta_i`, and the Jacobian's condition number.

  The noise is read robustly: residuals are clipped at three times their scale
  (the median, leaving out the p - 1 smallest, which a fit of p parameters has
  made small itself) before they are squared. For normal noise of standard
  deviation s, a Huber fit has the variance of least squares times
  E[psi²] / E[psi']² / s² (Huber 1964), at most pi/2.
  """
  size, unknown = len(theta_i), np.full((len(theta_i),) * 2, np.nan)
  jacobian_ni = form.jacobian(theta_i[None], u_n)[0][:, free_i]
  norm_i = np.linalg.norm(jacobian_ni, axis=0)
  if not free_i.any() or not (norm_i > 0).all():
    return unknown, float("inf")
  condition = float(np.linalg.cond(jacobian_ni / norm_i))
  freedom = len(u_n) - size
  if freedom < 1 or not np.isfinite(condition) or condition > 1e12:
    return unknown, condition
  residual_n = np.sort(np.abs(z_n - form.log_y(theta_i[None], u_n)[0]))
  noise = np.median(residual_n[size - 1 :]) / scipy.stats.norm.ppf(0.75)
  noise = np.sqrt((np.minimum(residual_n, 3 * noise) ** 2).sum() / freedom)
  # Without noise k has no end; from 40 on the factor is 1 in every digit.
  k = min(delta / max(noise, 1e-300), 40.0)
  inside = scipy.special.erf(k / np.sqrt(2))
  square = (
    inside - 2 * k * scipy.stats.norm.pdf(k) + 2 * k**2 * scipy.stats.norm.sf(k)
  )
  # For k → 0 both vanish; the limit is pi/2.
  factor = square / inside**2 if k > 1e-4 else np.pi / 2
  scaled = jacobian_ni / norm_i
  inverse = np.linalg.inv(scaled.T @ scaled) / np.outer(norm_i, norm_i)
  unknown[np.ix_(free_i, free_i)] = noise**2 * factor * inverse
  return unknown, condition


def _vague(result: Fit) -> tuple[str, ...]:
  """Parameters known to no better than a factor 5, or not at all."""
  if result.points <= len(result.theta_i):
    return ()  # said in a sentence of its own
  vague = []
  for name, error in result.log_errors().items():
    if not result.quantile() * error <= _VAGUE:
      vague.append(name)
  # An amplitude at x = 1 is extrapolated over decades: a large factor there is
  # common and harms no prediction. It counts only with another one.
  return () if vague == ["A"] else tuple(vague)


def _warnings(result: Fit, u_n, x_name: str, y_name: str) -> list[str]:
  facts = []
  if result.gradient_norm >= FLAT_GRADIENT:
    facts.append(
      "did not converge: the gradient is"
      f" {result.gradient_norm:.1e} of its largest possible size"
    )
  if result.agreement <= RARE:
    facts.append("only one start in fifty or fewer found this optimum")
  facts.extend(result.at_bound)
  if result.vague:
    facts.append(
      f"not identified: {', '.join(result.vague)}; other values fit these"
      " points as well"
    )
  freedom = result.points - len(result.theta_i)
  if freedom == 0:
    facts.append(
      f"{result.points} points for as many parameters: the curve passes"
      " through every point and nothing is left to judge it by"
    )
  elif freedom < 3:
    facts.append(
      f"{result.points} points for {len(result.theta_i)} parameters leave"
      f" {freedom} to judge the form by"
    )
  decades = np.ptp(u_n) / np.log(10)
  if decades < 1:
    facts.append(f"{x_name} spans {decades:.2f} decades, less than one")
  if result.unexplained > UNEXPLAINED:
    facts.append(
      f"does not fit: {result.unexplained:.0%} of the spread of log {y_name} is"
      f" left unexplained; {y_name} may not be monotone in {x_name}"
    )
  return facts

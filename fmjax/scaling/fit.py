"""Fits of scaling laws that say how far they can be trusted.

The objective is the sum of Huber losses over log residuals (Hoffmann et al.
2022), delta = 1e-3 unless told otherwise. It is minimized in float64 from a
fixed set of starts by damped Gauss-Newton steps, all starts at once; SciPy then
polishes the best. A sum, never a mean: dividing by the number of points lets an
optimizer's tolerance stop it early.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmjax.scaling.laws.descent import descend, gradient, pinned, polish
from fmjax.scaling.laws.ends import open_ends
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.law import FLAT_GRADIENT, RARE, UNEXPLAINED, Fit, Points
from fmjax.scaling.laws.noise import ALL_SQUARES, huber_factors, noise_of
from fmjax.scaling.laws.points import check_points, gather

DELTA = 1e-3
STARTS = 200
_AGREE = 1e-6  # of the objective's scale: starts that found the same optimum
_VAGUE = np.log(5.0)  # half an interval, in logs: known to a factor 5 only
# Half an interval of an exponent that may have either sign, for which a factor
# means nothing where it is near zero: a decade of x then moves y by a quarter
# up or down, as much as the laws of recommenders promise of it.
_LOOSE = 0.1
# Singular values of the Jacobian, relative to the largest: below, the points
# say nothing of a direction. Noise-free data make no error of it, only this.
_BLIND = 1e-7
_TOUCHED = 1e-2  # share of such a direction that a parameter makes up


def fit(
  x: Sequence[float] | np.ndarray,
  y: Sequence[float] | np.ndarray,
  *,
  form: Form,
  delta: float = DELTA,
  starts: int = STARTS,
  x_name: str | Sequence[str] = "",
  y_name: str = "y",
) -> Fit:
  """The law of `form` through points (x, y).

  Args:
    x: the inputs in the order of `form.inputs`, [n, k]; [n] for one input.
    y: losses, or a metric, [n].
    form: the law.
    delta: of the Huber loss, in logs.
    starts: searches, about.
    x_name: of each input, for people; those of the form if not given.
    y_name: of y.

  Raises:
    DataError: the points cannot carry the form; says why.
  """
  data = gather(x, y, form=form, x_name=x_name, y_name=y_name)
  check_points(data, form=form)
  theta_si, objective_s = search(form, data, delta=delta, starts=starts)
  best = int(np.argmin(objective_s))
  box = form.box(data.u_nk, data.z_n)
  theta_i, objective = polish(
    form, theta_si[best], data.u_nk, data.z_n, box=box, delta=delta
  )
  tolerance = _AGREE * (objective + len(data) * delta**2)
  return assess(
    form,
    theta_i,
    data,
    delta=delta,
    objective=objective,
    gradient_i=gradient(form, theta_i, data.u_nk, data.z_n, delta=delta),
    starts=len(theta_si),
    agreement=float(np.mean(objective_s <= objective + tolerance)),
  )


def search(
  form: Form, data: Points, *, delta: float, starts: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where every start ends, and its objective; see `descend`."""
  box = form.box(data.u_nk, data.z_n)
  # Squares first: far from the points, the flat arms of the Huber loss hold
  # starts back that have missed the amplitude by decades.
  theta_si, _ = descend(
    form,
    form.starts(data.u_nk, starts),
    data.u_nk,
    data.z_n[None],
    box=box,
    delta=ALL_SQUARES,
  )
  return descend(
    form, theta_si, data.u_nk, data.z_n[None], box=box, delta=delta
  )


def assess(
  form: Form,
  theta_i: np.ndarray,
  data: Points,
  *,
  delta: float,
  objective: float,
  gradient_i: np.ndarray,
  starts: int,
  agreement: float,
  fitter: str = "huber",
) -> Fit:
  """An optimum, and the gradient there, with everything known of it."""
  box = form.box(data.u_nk, data.z_n)
  free_i = ~pinned(theta_i, gradient_i, box)
  jacobian_ni = form.jacobian(theta_i[None], data.u_nk)[0]
  residual_n = data.z_n - form.log_y(theta_i[None], data.u_nk)[0]
  # No residual counts for more than delta.
  most_n = np.minimum(delta, np.abs(data.z_n).max())
  reach_i = most_n * np.abs(jacobian_ni).sum(0)
  noise = noise_of(residual_n, parameters=len(theta_i))
  covariance_ii, condition, blind_i = _covariance(
    jacobian_ni, noise=noise, free_i=free_i, delta=delta
  )
  result = Fit(
    form=form,
    theta_i=theta_i,
    box=box,
    covariance_ii=covariance_ii,
    data=data,
    delta=delta,
    noise=noise,
    objective=objective,
    gradient_norm=float(
      np.max(np.where(free_i, np.abs(gradient_i) / (reach_i + 1e-300), 0))
    ),
    starts=starts,
    agreement=agreement,
    condition=condition,
    unexplained=float(
      np.abs(residual_n).sum() / np.abs(data.z_n - np.median(data.z_n)).sum()
    ),
    at_bound=tuple(form.at_bound(theta_i, box)),
    open_ends=open_ends(
      form,
      theta_i,
      data,
      box=box,
      delta=delta,
      noise=noise,
      covariance_ii=covariance_ii,
    ),
    vague=(),
    warnings=(),
    fitter=fitter,
  )
  result = dataclasses.replace(result, vague=_vague(result, blind_i))
  return dataclasses.replace(result, warnings=tuple(_warnings(result)))


def _covariance(jacobian_ni, *, noise, free_i, delta):
  """Of theta, the Jacobian's condition number, and parameters it is blind to.

  A Huber fit has the variance of least squares times E[psi²] / E[psi']² /
  noise² (Huber 1964), at most pi/2. A direction that the points do not show
  keeps a variance, a huge one, so that the others stay known.
  """
  size = jacobian_ni.shape[1]
  unknown, blind_i = np.full((size, size), np.nan), np.zeros(size, bool)
  norm_i = np.linalg.norm(jacobian_ni, axis=0)
  used_i = free_i & (norm_i > 0)
  blind_i |= free_i & ~used_i
  if not used_i.any():
    return unknown, float("inf"), blind_i
  scaled = jacobian_ni[:, used_i] / norm_i[used_i]
  _, singular, direction = np.linalg.svd(scaled, full_matrices=False)
  full_rank = len(singular) == used_i.sum() and singular[-1] > 0
  condition = float(singular[0] / singular[-1]) if full_rank else float("inf")
  if blind_i.any():
    condition = float("inf")
  dark = singular < _BLIND * singular[0]
  if dark.any():
    share_i = (direction[dark] ** 2).sum(0)
    blind_i[used_i] |= share_i > _TOUCHED
  if np.isnan(noise):
    return unknown, condition, blind_i
  square, inside = huber_factors(delta=delta, noise=noise)
  singular = np.maximum(singular, 1e-12 * singular[0])
  inverse = (direction.T / singular**2) @ direction
  unknown[np.ix_(used_i, used_i)] = (
    noise**2
    * (square / inside**2)
    * inverse
    / np.outer(norm_i[used_i], norm_i[used_i])
  )
  return unknown, condition, blind_i


def _vague(result: Fit, blind_i: np.ndarray) -> tuple[str, ...]:
  """Parameters known to no better than a factor 5, or not at all.

  One that may have either sign may instead be known to ± `_LOOSE`.
  """
  if result.points <= len(result.theta_i):
    return ()  # said in a sentence of its own
  _, slope = result.form.natural(
    result.theta_i,
    shift_k=result.data.shift_k,
    shift_y=result.data.shift_y,
  )
  blind = (slope[:, blind_i] != 0).any(1)
  vague, amplitudes = [], []
  parameters = result.parameters
  for number, (name, error) in enumerate(result.log_errors().items()):
    reach = result.quantile() * error
    if result.form.positive[number]:
      known = reach <= _VAGUE
    else:
      far = (1 - np.exp(-_VAGUE)) * abs(parameters[name])
      known = reach <= max(_LOOSE, far)
    if blind[number] or not known or any(result.open_ends.get(name, ())):
      vague.append(name)
    # Terms of other parameters: an amplitude at x = 1.
    if np.count_nonzero(slope[number]) > 1:
      amplitudes.append(name)
  # An amplitude at x = 1 is extrapolated over decades: a large factor there is
  # common and harms no prediction. It counts only with another one.
  if blind.any() or set(vague) - set(amplitudes):
    return tuple(vague)
  return ()


def _warnings(result: Fit) -> list[str]:
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
  data = result.data
  for name, decades, least in zip(
    data.x_names,
    np.ptp(data.u_nk, axis=0) / np.log(10),
    result.form.least_values,
    strict=True,
  ):
    if name in result.narrow:
      facts.append(
        f"{name} spans {decades:.2f} decades: over so little, no exponent of it"
        " can be told from whatever else differs between the runs"
      )
    elif decades < 1 and least > 1:
      facts.append(f"{name} spans {decades:.2f} decades, less than one")
  if result.unexplained > UNEXPLAINED:
    facts.append(
      f"does not fit: {result.unexplained:.0%} of the spread of log"
      f" {data.y_name} is left unexplained; it may not be monotone in"
      f" {' and '.join(data.x_names)}"
    )
  return facts

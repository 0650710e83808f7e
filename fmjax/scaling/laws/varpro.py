"""Variable projection: exponents are searched, everything linear is solved.

For given exponents E + A·N^(-alpha) + B·D^(-beta) is linear in E, A and B, and
non-negative least squares finds them exactly. What is left to search is a
problem of one or two dimensions (Golub and Pereyra 1973), whose Jacobian is
that of the exponents with the span of the linear terms projected out (Kaufman
1975). It minimizes squares of *relative* residuals, 1 - law/y, which for small
residuals are those of log y: no outlier is held down, so the fit is a check of
the Huber one where there are none, and shows what they do where there are.

Axes: s starts, n points, k inputs, t linear terms, q exponents, i internal
parameters (the terms' logs, then the exponents').
"""

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from fmjax.scaling.fit import STARTS, assess
from fmjax.scaling.laws.curves import PowerOffset
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.law import Fit, Points
from fmjax.scaling.laws.noise import ALL_SQUARES
from fmjax.scaling.laws.points import check_points, gather
from fmjax.scaling.laws.surfaces import Chinchilla, OverTraining

Separable = PowerOffset | Chinchilla | OverTraining
SEPARABLE = ("power_offset of a loss", "chinchilla", "over_training")
_AGREE = 1e-6  # of the objective's scale: starts that found the same optimum
_NONE = -690.0  # log of a term that is absent: the least that exp can hold
_TIGHT = 1e-15  # tolerances: the objective's size must not stop the search


def fit(
  x: Sequence[float] | np.ndarray,
  y: Sequence[float] | np.ndarray,
  *,
  form: Separable,
  starts: int = STARTS,
  x_name: str | Sequence[str] = "",
  y_name: str = "y",
) -> Fit:
  """The law of `form` by variable projection; see `fit.fit` for the arguments.

  Its `objective` is half the sum of squared relative residuals.
  """
  data = gather(x, y, form=form, x_name=x_name, y_name=y_name)
  check_points(data, form=form)
  box = form.box(data.u_nk, data.z_n)
  first = form.starts(data.u_nk, starts)[:, _linear(form) :]
  ends = box[:, _linear(form) :]
  found = [_search(form, data, start_q, ends) for start_q in first]
  objective_s = np.array([objective for _, objective in found])
  best = int(objective_s.argmin())
  theta_i = np.clip(_theta(form, data, found[best][0]), box[0], box[1])
  ratio_n = _ratio(form, data, theta_i)
  jacobian_ni = form.jacobian(theta_i[None], data.u_nk)[0]
  scale = _AGREE * (objective_s[best] + len(data) * np.finfo(float).eps)
  return assess(
    form,
    theta_i,
    data,
    delta=ALL_SQUARES,
    objective=float(objective_s[best]),
    gradient_i=-((1 - ratio_n) * ratio_n) @ jacobian_ni,
    starts=len(first),
    agreement=float(np.mean(objective_s <= objective_s[best] + scale)),
    fitter="varpro",
  )


def _linear(form: Form) -> int:
  """Number of linear terms: the exponents come after them."""
  return {"power_offset": 2, "chinchilla": 3, "over_training": 3}[form.name]


def _search(
  form: Form, data: Points, start_q: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, float]:
  """Logs of the best exponents from one start, and the objective."""
  linear = _linear(form)

  def residual_n(log_exponent_q):
    return 1 - _ratio(form, data, _theta(form, data, log_exponent_q))

  def jacobian_nq(log_exponent_q):
    theta_i = _theta(form, data, log_exponent_q)
    slope_ni = form.jacobian(theta_i[None], data.u_nk)[0]
    slope_ni = -slope_ni * _ratio(form, data, theta_i)[:, None]
    # Moving an exponent, the terms follow: what they can mend is no slope.
    present = theta_i[:linear] > _NONE
    orthogonal, _ = np.linalg.qr(_terms(form, data, log_exponent_q)[:, present])
    slope_nq = slope_ni[:, linear:]
    return slope_nq - orthogonal @ (orthogonal.T @ slope_nq)

  answer = scipy.optimize.least_squares(
    residual_n,
    np.clip(start_q, ends[0] + 1e-9, ends[1] - 1e-9),
    jac=jacobian_nq,  # pyright: ignore[reportArgumentType]
    bounds=(ends[0], ends[1]),
    ftol=_TIGHT,
    xtol=_TIGHT,
    gtol=_TIGHT,
    max_nfev=200,
  )
  return np.asarray(answer.x), float(answer.cost)


def _theta(form: Form, data: Points, log_exponent_q: np.ndarray) -> np.ndarray:
  """All internal parameters: the linear ones by non-negative least squares."""
  terms_nt = _terms(form, data, log_exponent_q)
  amplitude_t, _ = scipy.optimize.nnls(terms_nt, np.ones(len(data)))
  with np.errstate(divide="ignore"):
    log_t = np.maximum(np.log(amplitude_t), _NONE)
  return np.concatenate([log_t, log_exponent_q])


def _terms(form: Form, data: Points, log_exponent_q: np.ndarray) -> np.ndarray:
  """Each term of the law with amplitude 1, relative to y, [n, t]."""
  linear = _linear(form)
  # One term alone: the others' amplitudes are below every rounding.
  theta_ti = np.full((linear, linear + len(log_exponent_q)), _NONE)
  theta_ti[np.arange(linear), np.arange(linear)] = 0.0
  theta_ti[:, linear:] = log_exponent_q
  return np.exp(form.log_y(theta_ti, data.u_nk) - data.z_n).T


def _ratio(form: Form, data: Points, theta_i: np.ndarray) -> np.ndarray:
  """The law over y, [n]."""
  return np.exp(form.log_y(theta_i[None], data.u_nk)[0] - data.z_n)

"""Minimizes sums of Huber losses over log residuals, many starts at once.

Axes: s starts or draws, n points, i internal parameters.
"""

import numpy as np
import scipy.optimize

from fmjax.scaling import forms

_NOTHING = 1e-24  # an objective gained: below the rounding of residuals


def descend(
  form: forms.Form,
  theta_si: np.ndarray,
  u_n: np.ndarray,
  z_sn: np.ndarray,
  *,
  box: np.ndarray,
  delta: float,
  iterations: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
  """Minimizes from every start at once; returns parameters and objectives.

  A Huber loss is majorized by a weighted square (weight 1 inside delta,
  delta/|r| outside), so a damped Gauss-Newton step on the weighted squares
  never needs a second derivative. `z_sn` may differ from start to start: that
  is how a bootstrap refits all its draws in one call.
  """
  theta_si = np.clip(theta_si, box[0], box[1])
  z_sn = np.broadcast_to(z_sn, (len(theta_si), len(u_n)))
  objective_s = objective(form, theta_si, u_n, z_sn, delta)
  damping_s = np.full(len(theta_si), 1e-2)
  identity = np.eye(theta_si.shape[1])
  idle_s = np.zeros(len(theta_si), int)
  for _ in range(iterations):
    live_s = np.flatnonzero(idle_s < 8)
    if not len(live_s):
      break
    theta, z = theta_si[live_s], z_sn[live_s]
    residual = z - form.log_y(theta, u_n)
    # A start outside the law's domain has an infinite residual and no slope.
    residual = np.nan_to_num(residual, posinf=1e3, neginf=-1e3)
    weight = delta / np.maximum(np.abs(residual), delta)
    jacobian = form.jacobian(theta, u_n)
    weighted = jacobian * weight[..., None]
    slope = np.einsum("sni,sn->si", weighted, residual)
    fixed = pinned(theta, -slope, box)
    slope = np.where(fixed, 0, slope)
    hessian = np.einsum("sni,snj->sij", weighted, jacobian)
    keep = ~fixed[:, :, None] & ~fixed[:, None, :]
    hessian = np.where(keep, hessian, 0)
    scale = np.einsum("sii->si", hessian) + 1e-12
    scale = np.where(fixed, 1, scale) * damping_s[live_s, None]
    step = np.linalg.solve(
      hessian
      + identity * scale[:, None, :]
      + identity * np.where(fixed, 1.0, 0.0)[:, None, :],
      slope[..., None],
    )[..., 0]
    trial = np.clip(theta + step, box[0], box[1])
    value = objective(form, trial, u_n, z, delta)
    old = objective_s[live_s]
    better = value < old
    theta_si[live_s] = np.where(better[:, None], trial, theta)
    objective_s[live_s] = np.where(better, value, old)
    damping_s[live_s] = np.clip(
      np.where(better, damping_s[live_s] / 8, damping_s[live_s] * 6),
      1e-12,
      1e12,
    )
    gain = np.where(better, old - value, 0)
    idle_s[live_s] = np.where(
      gain > 1e-10 * old + _NOTHING, 0, idle_s[live_s] + 1
    )
  return theta_si, objective_s


def polish(form, theta_i, u_n, z_n, *, box, delta):
  """SciPy's bounded quasi-Newton from the best start, tolerances at zero."""

  def scaled(theta_i):
    # In units of delta²: the objective's size must not stop the optimizer.
    value = objective(form, theta_i[None], u_n, z_n[None], delta)[0]
    gradient_i = gradient(form, theta_i, u_n, z_n, delta=delta)
    return value / delta**2, gradient_i / delta**2

  before = scaled(theta_i)[0]
  answer = scipy.optimize.minimize(
    scaled,
    theta_i,
    jac=True,
    method="L-BFGS-B",
    bounds=box.T,
    options={"ftol": 0.0, "gtol": 1e-9, "maxiter": 2_000, "maxcor": 30},
  )
  if answer.fun < before:
    return np.asarray(answer.x), float(answer.fun * delta**2)
  return theta_i, float(before * delta**2)


def objective(form, theta_si, u_n, z_sn, delta) -> np.ndarray:
  size = np.abs(z_sn - form.log_y(theta_si, u_n))
  with np.errstate(over="ignore", invalid="ignore"):
    loss = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
  return loss.sum(-1)


def gradient(form, theta_i, u_n, z_n, *, delta) -> np.ndarray:
  residual_n = z_n - form.log_y(theta_i[None], u_n)[0]
  jacobian_ni = form.jacobian(theta_i[None], u_n)[0]
  return -np.clip(residual_n, -delta, delta) @ jacobian_ni


def pinned(theta, gradient, box) -> np.ndarray:
  """Parameters on a bound that descent would push beyond it."""
  return ((theta <= box[0]) & (gradient > 0)) | (
    (theta >= box[1]) & (gradient < 0)
  )

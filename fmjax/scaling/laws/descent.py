"""Minimizes sums of Huber losses over log residuals, many starts at once.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import numpy as np
import scipy.optimize

from fmjax.scaling.laws.form import Form

_NOTHING = 1e-24  # an objective gained: below the rounding of residuals
# Numbers of starts × points moved together: about 20 MB of arrays, which stay
# near the processor, however long the table.
AT_ONCE = 100_000
_PATIENCE = 8  # steps without a gain: the damping has grown a millionfold
_OUTSIDE = 1e3  # residual of a point outside a law's domain


def descend(
  form: Form,
  theta_si: np.ndarray,
  u_nk: np.ndarray,
  z_sn: np.ndarray,
  *,
  box: np.ndarray,
  delta: float,
  weight_sn: np.ndarray | None = None,
  iterations: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
  """Minimizes from every start at once; returns parameters and objectives.

  Levenberg-Marquardt steps on the Huber loss. Its curvature is 1 inside delta
  and 0 outside: with few residuals inside, such a Newton step is blind. The
  square that majorizes it has delta/|r| outside (iteratively reweighted
  squares): always a descent, but in ever smaller steps. Each start holds its
  own mixture of both and moves towards Newton's as long as that succeeds.

  Args:
    form: the law.
    theta_si: where to start.
    u_nk: centered logs of the inputs.
    z_sn: centered log y; may differ from start to start.
    box: bounds, [2, i], or of each start, [2, s, i].
    delta: of the Huber loss.
    weight_sn: how often each point counts, such as a bootstrap's draws.
    iterations: at most.
  """
  shape = (len(theta_si), len(u_nk))
  box = box if box.ndim == 3 else box[:, None]
  box = np.broadcast_to(box, (2, *theta_si.shape))
  z_sn = np.broadcast_to(z_sn, shape)
  weight_sn = np.broadcast_to(1.0 if weight_sn is None else weight_sn, shape)
  step = max(AT_ONCE // max(len(u_nk), 1), 1)
  batches = [slice(i, i + step) for i in range(0, len(theta_si), step)]
  parts = [
    _descend(
      form,
      theta_si[batch],
      u_nk,
      z_sn[batch],
      box=box[:, batch],
      delta=delta,
      weight_sn=weight_sn[batch],
      iterations=iterations,
    )
    for batch in batches
  ]
  found_si, objective_s = map(np.concatenate, zip(*parts, strict=True))
  return found_si, objective_s


def _descend(
  form, theta_si, u_nk, z_sn, *, box, delta, weight_sn, iterations
) -> tuple[np.ndarray, np.ndarray]:
  """A batch of starts; every array has as many rows."""
  low, high = box
  theta_si = np.clip(theta_si, low, high)
  residual_sn = residuals(form, theta_si, u_nk, z_sn)
  objective_s = _huber(residual_sn, weight_sn, delta)
  nothing_s = _NOTHING * weight_sn.mean(1)
  damping_s = np.full(len(theta_si), 1e-2)
  caution_s = np.ones(len(theta_si))  # 1: reweighted squares; 0: Newton
  idle_s = np.zeros(len(theta_si), int)
  for _ in range(iterations):
    live_s = np.flatnonzero(idle_s < _PATIENCE)
    if not len(live_s):
      break
    theta, residual, weight = (
      theta_si[live_s],
      residual_sn[live_s],
      weight_sn[live_s],
    )
    bounds = low[live_s], high[live_s]
    jacobian = form.jacobian(theta, u_nk)
    size = np.abs(residual)
    inside = size <= delta
    shrunk = delta / np.maximum(size, delta)
    slope = np.matmul(
      (weight * shrunk * residual)[:, None, :], jacobian
    )[:, 0]  # fmt: skip
    curvature = weight * np.where(inside, 1.0, caution_s[live_s, None] * shrunk)
    hessian = np.matmul(
      jacobian.swapaxes(1, 2), curvature[..., None] * jacobian
    )
    fixed = pinned(theta, -slope, bounds)
    step = _step(hessian, slope, fixed, damping_s[live_s])
    trial = np.clip(theta + step, *bounds)
    trial_residual = residuals(form, trial, u_nk, z_sn[live_s])
    value, old = _huber(trial_residual, weight, delta), objective_s[live_s]
    better = value < old
    theta_si[live_s] = np.where(better[:, None], trial, theta)
    residual_sn[live_s] = np.where(better[:, None], trial_residual, residual)
    objective_s[live_s] = np.where(better, value, old)
    damping_s[live_s] = np.clip(
      damping_s[live_s] * np.where(better, 1 / 8, 6.0), 1e-12, 1e12
    )
    caution_s[live_s] = np.clip(
      caution_s[live_s] * np.where(better, 1 / 4, 16.0), 1e-6, 1.0
    )
    gain = np.where(better, old - value, 0)
    idle_s[live_s] = np.where(
      gain > 1e-10 * old + nothing_s[live_s], 0, idle_s[live_s] + 1
    )
  return theta_si, objective_s


def polish(form, theta_i, u_nk, z_n, *, box, delta):
  """SciPy's bounded quasi-Newton from the best start, tolerances at zero."""

  def scaled(theta_i):
    # In units of delta²: the objective's size must not stop the optimizer.
    value = objective(form, theta_i[None], u_nk, z_n[None], delta)[0]
    gradient_i = gradient(form, theta_i, u_nk, z_n, delta=delta)
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


def objective(form, theta_si, u_nk, z_sn, delta) -> np.ndarray:
  """Sum of Huber losses, [s]."""
  residual_sn = residuals(form, theta_si, u_nk, z_sn)
  return _huber(residual_sn, np.ones(()), delta)


def residuals(form, theta_si, u_nk, z_sn) -> np.ndarray:
  """Measured minus law, in logs, [s, n]; finite everywhere."""
  residual_sn = z_sn - form.log_y(theta_si, u_nk)
  return np.nan_to_num(
    residual_sn, copy=False, nan=_OUTSIDE, posinf=_OUTSIDE, neginf=-_OUTSIDE
  )


def gradient(form, theta_i, u_nk, z_n, *, delta) -> np.ndarray:
  residual_n = residuals(form, theta_i[None], u_nk, z_n[None])[0]
  jacobian_ni = form.jacobian(theta_i[None], u_nk)[0]
  return -np.clip(residual_n, -delta, delta) @ jacobian_ni


def pinned(theta, gradient, box) -> np.ndarray:
  """Parameters on a bound that descent would push beyond it."""
  return ((theta <= box[0]) & (gradient > 0)) | (
    (theta >= box[1]) & (gradient < 0)
  )


def _huber(residual_sn, weight_sn, delta) -> np.ndarray:
  size = np.abs(residual_sn)
  # Inside delta the second factor is size itself: size²/2.
  near = np.minimum(size, delta)
  return (weight_sn * near * (size - near / 2)).sum(-1)


def _step(hessian, slope, fixed, damping_s):
  """Damped Newton steps that leave fixed parameters where they are."""
  identity = np.eye(slope.shape[1])
  slope = np.where(fixed, 0, slope)
  keep = ~fixed[:, :, None] & ~fixed[:, None, :]
  diagonal = np.einsum("sii->si", hessian)
  # What a parameter does not move has no curvature; no step is divided by it.
  least = 1e-12 * diagonal.max(1, keepdims=True) + 1e-30
  scale = np.where(fixed, 1, (diagonal + least) * damping_s[:, None])
  return np.linalg.solve(
    np.where(keep, hessian, 0) + identity * scale[:, None, :],
    slope[..., None],
  )[..., 0]

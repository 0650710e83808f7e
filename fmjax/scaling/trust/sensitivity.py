"""How far a law moves when a choice of the analyst is made otherwise.

On real data this moves exponents more than any resampling does: resampling
holds the analyst's choices fixed.

Axes: n points, k inputs, i internal parameters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.optimize

from fmjax.data import schema
from fmjax.scaling.fit import fit
from fmjax.scaling.laws.law import Fit, known, natural_values
from fmjax.scaling.laws.noise import ALL_SQUARES

DELTAS = (1e-4, 1e-3, 1e-2, 1e-1)
LEFT_OUT = (0.02, 0.05, 0.1)  # share of points, those with the largest residual


def sensitivity(
  law: Fit, *, definitions: Mapping[str, np.ndarray] | None = None
) -> list[dict[str, Any]]:
  """Rows of a table, JSON-ready: a choice, and the law that it leads to.

  Args:
    law: the fit as it was made; the first row.
    definitions: other definitions of the inputs, such as parameters with the
      item tables counted, each [n, k] in the order of the law's points.

  Returns:
    For each choice "choice", "parameters", "moved" (by how many standard errors
    of `law`, None if unknown), "good" and "points".
  """
  data = law.data
  rows = [_row("as fitted", law, law)]
  for delta in DELTAS:
    if delta != law.delta:
      rows.append(_row(f"Huber delta {delta:g}", law, _again(law, delta=delta)))
  rows.append(
    _row("squares of log residuals", law, _again(law, delta=ALL_SQUARES))
  )
  size_n = np.abs(law.residuals())
  for share in LEFT_OUT:
    count = round(share * len(data))
    if count and len(data) - count > len(law.theta_i):
      keep_n = np.sort(np.argsort(size_n)[: len(data) - count])
      try:
        other = _again(law, keep_n=keep_n)
      except schema.DataError:
        continue  # no size of an input may be left out that the form needs
      rows.append(_row(f"without the {count} largest residuals", law, other))
  rows.append(_squares_of_y(law))
  for name, x_nk in (definitions or {}).items():
    rows.append(_row(name, law, _again(law, x_nk=x_nk)))
  return rows


def _again(law: Fit, *, keep_n=None, x_nk=None, delta=None) -> Fit:
  data = law.data
  keep_n = np.arange(len(data)) if keep_n is None else keep_n
  return fit(
    (data.x_nk if x_nk is None else x_nk)[keep_n],
    data.y_n[keep_n],
    form=law.form,
    delta=law.delta if delta is None else delta,
    x_name=data.x_names,
    y_name=data.y_name,
  )


def _squares_of_y(law: Fit) -> dict[str, Any]:
  """Residuals of y itself: the large losses of small runs count for more."""
  data = law.data

  def residual_n(theta_i):
    log_y_n = law.form.log_y(theta_i[None], data.u_nk)[0]
    return np.exp(np.clip(log_y_n, -500, 500)) - np.exp(data.z_n)

  def jacobian_ni(theta_i):
    log_y_n = law.form.log_y(theta_i[None], data.u_nk)[0]
    slope_ni = law.form.jacobian(theta_i[None], data.u_nk)[0]
    return np.exp(np.clip(log_y_n, -500, 500))[:, None] * slope_ni

  inner = 1e-9 * (law.box[1] - law.box[0])
  answer = scipy.optimize.least_squares(
    residual_n,
    np.clip(law.theta_i, law.box[0] + inner, law.box[1] - inner),
    jac=jacobian_ni,  # pyright: ignore[reportArgumentType]
    bounds=(law.box[0], law.box[1]),
    x_scale="jac",
    ftol=1e-14,
    xtol=1e-14,
    gtol=1e-14,
  )
  value_i, _ = law.form.natural(
    answer.x, shift_k=data.shift_k, shift_y=data.shift_y
  )
  return {
    "choice": f"squares of {data.y_name} itself",
    **_moved(law, natural_values(law.form, value_i)),
    "good": bool(answer.success and not law.form.at_bound(answer.x, law.box)),
    "points": len(data),
  }


def _row(choice: str, law: Fit, other: Fit) -> dict[str, Any]:
  return {
    "choice": choice,
    **_moved(law, other.parameters),
    "good": other.good,
    "points": other.points,
  }


def _moved(law: Fit, parameters: Mapping[str, float]) -> dict[str, Any]:
  """By how many standard errors; without noise there are none."""
  errors, before = law.standard_errors, law.parameters
  moved = {
    name: (value - before[name]) / errors[name]
    if errors[name] > 0
    else float("nan")
    for name, value in parameters.items()
  }
  return {"parameters": known(parameters), "moved": known(moved)}

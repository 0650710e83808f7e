"""Points for a law, refused in one sentence where no fit could use them.

Axes: n points, k inputs.
"""

from collections.abc import Sequence

import numpy as np

from fmjax.data import schema
from fmjax.scaling.laws.form import Form, columns
from fmjax.scaling.laws.law import Points

# Of the smallest to the largest spread of standardized logs: below, one input
# is a power of the others to the last digits.
_COLLINEAR = 1e-6


def gather(
  x: Sequence[float] | np.ndarray,
  y: Sequence[float] | np.ndarray,
  *,
  form: Form,
  x_name: str | Sequence[str] = "",
  y_name: str = "y",
) -> Points:
  """Points in centered logs.

  Args:
    x: the inputs in the order of `form.inputs`, [n, k]; [n] for one input.
    y: [n].
    form: says how its inputs are centered.
    x_name: of each input, for people; those of the form if not given.
    y_name: of y.

  Raises:
    DataError: a number that has no logarithm.
  """
  x_nk, y_n = columns(x), np.asarray(y, float)
  names = (x_name,) if isinstance(x_name, str) and x_name else tuple(x_name)
  names = names or form.inputs
  if x_nk.shape != (len(y_n), len(form.inputs)):
    raise ValueError(
      f"{form.name} needs {' and '.join(form.inputs)} for each of {len(y_n)}"
      f" points, not an array of shape {x_nk.shape}"
    )
  for name, value_n in zip((*names, y_name), (*x_nk.T, y_n), strict=True):
    bad = np.flatnonzero(~np.isfinite(value_n) | (value_n <= 0))
    if len(bad):
      raise schema.DataError(
        f"{name} is {value_n[bad[0]]:g} in row {bad[0] + 1}; a law in logs"
        " needs positive, finite numbers: leave such rows out of the table"
      )
  if not len(y_n):
    raise schema.DataError(
      f"0 rows cannot determine the {len(form.parameters)} parameters of"
      f" {form.equation} ({form.name}); give at least"
      f" {len(form.parameters) + 1} rows"
    )
  log_x_nk, log_y_n = np.log(x_nk), np.log(y_n)
  shift_k, shift_y = form.shift(log_x_nk), float(log_y_n.mean())
  return Points(
    u_nk=log_x_nk - shift_k,
    z_n=log_y_n - shift_y,
    shift_k=shift_k,
    shift_y=shift_y,
    x_names=names,
    y_name=y_name,
  )


def check_points(data: Points, *, form: Form) -> None:
  """Refuses points that no fit of `form` could use, in one sentence."""
  needed, have = len(form.parameters), len(data)
  if have < needed:
    raise schema.DataError(
      f"{have} rows cannot determine the {needed} parameters of"
      f" {form.equation} ({form.name}); give at least {needed + 1} rows"
    )
  log_x_nk = data.u_nk + data.shift_k
  for name, log_n, least in zip(
    data.x_names, log_x_nk.T, form.least_values, strict=True
  ):
    distinct = len(np.unique(log_n))
    if distinct < least:
      only = f", {np.exp(log_n[0]):g}," if distinct == 1 else ""
      raise schema.DataError(
        f"{name} has {distinct} distinct value{'s' * (distinct > 1)}{only} in"
        f" {have} rows; {form.equation} needs at least {least}"
      )
  distinct = len(np.unique(log_x_nk, axis=0))
  if distinct < needed:
    raise schema.DataError(
      f"{have} rows hold {distinct} distinct points of"
      f" {' and '.join(data.x_names)}; {form.equation} needs at least {needed}"
    )
  if np.ptp(data.z_n) == 0:
    raise schema.DataError(
      f"{data.y_name} is {data.y_n[0]:g} in all {have} rows: there is no law to"
      " fit"
    )
  _refuse_collinear(data, form)


def _refuse_collinear(data: Points, form: Form) -> None:
  (varied_k,) = np.nonzero(np.ptp(data.u_nk, axis=0))
  if len(varied_k) < 2:
    return
  centered_nk = data.u_nk[:, varied_k]
  centered_nk = centered_nk - centered_nk.mean(0)
  spread_nk = centered_nk / np.linalg.norm(centered_nk, axis=0)
  _, singular, direction = np.linalg.svd(spread_nk, full_matrices=False)
  if singular[-1] > _COLLINEAR * singular[0]:
    return
  together = [
    data.x_names[place]
    for place, share in zip(varied_k, direction[-1], strict=True)
    if abs(share) > _COLLINEAR
  ]
  raise schema.DataError(
    f"{' and '.join(together)} are proportional to each other, or to a power,"
    f" in all {len(data)} rows: what each does to {data.y_name} is not"
    f" identified; add rows that vary one alone, or fit {together[0]} alone"
  )

"""Fits to columns of any CSV or Parquet table, for `fmjax fit`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fmjax import config as config_lib
from fmjax.data import schema
from fmjax.scaling import forms
from fmjax.scaling.fit import fit
from fmjax.scaling.law import known

RESPONSES = ("loss", "metric")
INPUTS = ("params", "tokens", "flops")


def fit_table(
  path: str | pathlib.Path,
  form: str,
  columns: Mapping[str, str],
  *,
  predict: Sequence[Mapping[str, float]] = (),
  delta: float = 1e-3,
) -> dict[str, Any]:
  """Fits a law to two columns of a CSV or Parquet file, for `fmjax fit`.

  Args:
    path: the table.
    form: a name in `forms.FORMS`.
    columns: the table's column for each role: one of "loss" (falls towards E)
      or "metric" (rises towards R_inf), and one of "params", "tokens", "flops".
    predict: points at which the law is wanted, {"params": 1e9}; none: those of
      the table.
    delta: of the Huber loss, in logs.

  Returns:
    `Fit.to_dict()` and "predictions": [{input, response, "interval"}].
  """
  response = _one_role(columns, RESPONSES)
  given = _one_role(columns, INPUTS)
  law = forms.form(form, rising=response == "metric")
  table = _read(pathlib.Path(path))
  x_n = _column(table, columns[given], path)
  y_n = _column(table, columns[response], path)
  result = fit(
    x_n,
    y_n,
    form=law,
    delta=delta,
    x_name=columns[given],
    y_name=columns[response],
  )
  for point in predict:
    if set(point) != {given}:
      raise config_lib.ConfigError(
        f"a prediction at {dict(point)} does not say {given} alone, on which"
        " the law was fitted"
      )
    if not point[given] > 0:
      raise config_lib.ConfigError(
        f"a prediction at {given}={point[given]:g} is outside a law in logs;"
        " give a positive number"
      )
  asked = [point[given] for point in predict]
  at_n = np.array(asked) if asked else np.unique(x_n)
  predictions = [
    {given: float(at), response: float(value), **known({"interval": reach})}
    for at, value, reach in zip(
      at_n,
      result.predict(at_n),
      result.predict_interval(at_n).tolist(),
      strict=True,
    )
  ]
  return {**result.to_dict(), "predictions": predictions}


def _one_role(columns: Mapping[str, str], roles: Sequence[str]) -> str:
  known = [*RESPONSES, *INPUTS]
  for role in columns:
    if role not in known:
      raise config_lib.ConfigError(
        f"--columns names an unknown role {role!r}"
        + config_lib.suggest(role, known)
      )
  given = [role for role in roles if role in columns]
  if len(given) != 1:
    raise config_lib.ConfigError(
      f"--columns gives {' and '.join(given) or 'none'} of"
      f" {', '.join(roles)}; exactly one is needed, as in"
      " loss=test_nll,params=backbone"
    )
  return given[0]


def _read(path: pathlib.Path) -> pa.Table:
  if not path.is_file():
    raise schema.DataError(f"there is no table at {path}")
  try:
    if path.suffix == ".parquet":
      return pyarrow.parquet.read_table(path)
    # Only what is empty is null: "nan" and "NA" are shown as they are.
    options = pyarrow.csv.ConvertOptions(null_values=[""])
    return pyarrow.csv.read_csv(path, convert_options=options)
  except (pa.ArrowInvalid, UnicodeDecodeError) as error:
    reason = str(error).splitlines()[0]
    raise schema.DataError(
      f"{path} is no {path.suffix or 'CSV'} table: {reason}"
    ) from None


def _column(table: pa.Table, name: str, path) -> np.ndarray:
  if name not in table.column_names:
    raise schema.DataError(
      f"{path} has no column {name!r}"
      + config_lib.suggest(name, table.column_names)
    )
  value_n = []
  for row, value in enumerate(table.column(name).to_pylist(), start=1):
    try:
      number = float(value)
    except (TypeError, ValueError):
      number = float("nan")
    if not np.isfinite(number):
      shown = "empty" if value is None else repr(value)
      raise schema.DataError(
        f"{name} is {shown} in row {row} of {path}; every row needs a number:"
        " leave such rows out of the table"
      )
    value_n.append(number)
  return np.array(value_n)

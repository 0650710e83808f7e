"""A law fitted to a table, with all that is known of it: `fmjax fit`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax import config as config_lib
from fmjax.scaling import forms, table
from fmjax.scaling.bootstrap import Refits, bootstrap
from fmjax.scaling.checklist import checklist
from fmjax.scaling.fit import DELTA, fit
from fmjax.scaling.law import Fit, known
from fmjax.scaling.sensitivity import sensitivity


def fit_table(
  path: str | pathlib.Path,
  form: str,
  columns: Mapping[str, str],
  *,
  predict: Sequence[Mapping[str, float]] = (),
  delta: float = DELTA,
  where: Mapping[str, str] | None = None,
  draws: int = 0,
  vary: bool = False,
) -> dict[str, Any]:
  """Fits a law to columns of a CSV or Parquet file.

  Args:
    path: the table.
    form: a name in `forms.FORMS`.
    columns: the table's column for each role, see `table.read`.
    predict: points at which the law is wanted, {"params": 1e9}; none: those of
      the table.
    delta: of the Huber loss, in logs.
    where: only rows with these values.
    draws: of the bootstrap, clustered by the column "cluster"; 0: none.
    vary: also fit under other choices, see `sensitivity`.

  Returns:
    `Fit.to_dict()`, "predictions": [{input..., response, "interval" of a new
    run, "law_interval"}], "checklist", and "bootstrap" and "sensitivity" where
    asked for.

  Raises:
    ConfigError: what is asked makes no fit.
    DataError: the table cannot carry it.
  """
  response = table.check_roles(columns)
  if not delta > 0:
    raise config_lib.ConfigError(f"--delta {delta:g} must be above 0")
  if draws < 0:
    raise config_lib.ConfigError(f"--bootstrap {draws} must not be below 0")
  inputs = [role for role in forms.INPUTS if role in columns]
  form_type = forms.form(form, rising=response == "metric", inputs=inputs)
  _check_predictions(predict, form_type.inputs)
  data = table.read(path, columns, where=where)
  order = [data.inputs.index(role) for role in form_type.inputs]
  law = fit(
    data.x_nk[:, order],
    data.y_n,
    form=form_type,
    delta=delta,
    x_name=[columns[role] for role in form_type.inputs],
    y_name=columns[response],
  )
  refits = (
    bootstrap(law, cluster=data.cluster_n, draws=draws) if draws else None
  )
  content = {
    **law.to_dict(),
    "columns": dict(columns),
    "predictions": _predictions(law, response, predict, refits),
    "checklist": checklist(law, clusters=_clusters(data), refits=refits),
  }
  if refits is not None:
    content["bootstrap"] = refits.to_dict()
  if vary:
    content["sensitivity"] = sensitivity(law)
  return content


def _check_predictions(
  points: Sequence[Mapping[str, float]], inputs: Sequence[str]
) -> None:
  for point in points:
    if set(point) != set(inputs):
      raise config_lib.ConfigError(
        f"a prediction at {_at(point)} does not say {' and '.join(inputs)}"
        f"{' alone' * (len(inputs) == 1)}, on which the law is fitted"
      )
    for role, value in point.items():
      if not 0 < value < np.inf:
        raise config_lib.ConfigError(
          f"a prediction at {role}={value:g} is outside a law in logs; give a"
          " positive number"
        )


def _at(point: Mapping[str, float]) -> str:
  return ",".join(f"{role}={value:g}" for role, value in point.items())


def _clusters(data: table.Columns) -> int | None:
  return None if data.cluster_n is None else len(np.unique(data.cluster_n))


def _predictions(
  law: Fit,
  response: str,
  asked: Sequence[Mapping[str, float]],
  refits: Refits | None,
) -> list[dict[str, Any]]:
  inputs = law.form.inputs
  x_nk = np.array([[point[role] for role in inputs] for point in asked])
  if not len(asked):
    x_nk = np.unique(law.data.x_nk, axis=0)
  facts = {
    "interval": law.predict_interval(x_nk, new_run=True),
    "law_interval": law.predict_interval(x_nk),
  }
  if refits is not None:
    facts["bootstrap_interval"] = refits.predict_interval(x_nk, new_run=True)
  return [
    {
      **dict(zip(inputs, at.tolist(), strict=True)),
      response: float(value),
      **known({name: ends[row].tolist() for name, ends in facts.items()}),
    }
    for row, (at, value) in enumerate(zip(x_nk, law.predict(x_nk), strict=True))
  ]

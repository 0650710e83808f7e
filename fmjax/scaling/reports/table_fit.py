"""A law fitted to a table, with all that is known of it: `fmjax fit`."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax import config as config_lib
from fmjax.scaling import forms
from fmjax.scaling.fit import DELTA, fit
from fmjax.scaling.laws import varpro
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.law import Fit, known
from fmjax.scaling.laws.noise import ALL_SQUARES
from fmjax.scaling.laws.surfaces import Chinchilla
from fmjax.scaling.reports import table
from fmjax.scaling.trust.allocation import (
  parametric,
  with_endless_data,
  with_unique_data,
)
from fmjax.scaling.trust.bootstrap import Refits, bootstrap
from fmjax.scaling.trust.checklist import checklist
from fmjax.scaling.trust.choice import leave_largest_out
from fmjax.scaling.trust.sensitivity import sensitivity

FITTERS = ("huber", "varpro")


def fit_table(
  path: str | pathlib.Path,
  form: str,
  columns: Mapping[str, str],
  *,
  predict: Sequence[Mapping[str, float]] = (),
  optimum: Sequence[Mapping[str, float]] = (),
  delta: float = DELTA,
  where: Mapping[str, str] | None = None,
  draws: int = 0,
  vary: bool = False,
  hold_out: int = 0,
  fitter: str = "huber",
) -> dict[str, Any]:
  """Fits a law to columns of a CSV or Parquet file.

  Args:
    path: the table.
    form: a name in `forms.FORMS`.
    columns: the table's column for each role, see `table.read`.
    predict: points at which the law is wanted, {"params": 1e9}; none: those of
      the table.
    optimum: budgets whose best run is wanted, {"compute": 1e20}; of
      data_constrained with the "unique" tokens that there are.
    delta: of the Huber loss, in logs.
    where: only rows with these values.
    draws: of the bootstrap, clustered by the column "cluster"; 0: none.
    vary: also fit under other choices, see `sensitivity`.
    hold_out: distinct sizes, the largest, that the law, the straight line and
      the parabola are asked for without having seen them; 0: none.
    fitter: one of `FITTERS`: Huber losses of log residuals, or squares of
      relative ones by variable projection.

  Returns:
    `Fit.to_dict()`, "predictions": [{input..., response, "interval" of a new
    run, "law_interval"}], "checklist", for chinchilla "allocation" (exponents
    of the best N and D over compute), and "optima", "bootstrap", "sensitivity"
    and "hold_out" (rows of a `Choice`, the best first) where asked for.

  Raises:
    ConfigError: what is asked makes no fit.
    DataError: the table cannot carry it.
  """
  response = table.check_roles(columns)
  if not 0 < delta <= ALL_SQUARES:
    raise config_lib.ConfigError(
      f"--delta {delta:g} must be above 0 and at most {ALL_SQUARES:g}, which"
      " is least squares already"
    )
  for option, value in (("--bootstrap", draws), ("--hold-out", hold_out)):
    if value < 0:
      raise config_lib.ConfigError(f"{option} {value} must not be below 0")
  inputs = [role for role in forms.INPUTS if role in columns]
  form_type = forms.form(form, rising=response == "metric", inputs=inputs)
  _check_fitter(fitter, form_type, delta)
  _check_predictions(predict, form_type.inputs)
  _check_optima(optimum, form_type)
  data = table.read(path, columns, where=where)
  order = [data.inputs.index(role) for role in form_type.inputs]
  x_name = [columns[role] for role in form_type.inputs]
  x_nk, y_name = data.x_nk[:, order], columns[response]
  if fitter == "varpro":
    assert isinstance(form_type, varpro.Separable)
    law = varpro.fit(
      x_nk, data.y_n, form=form_type, x_name=x_name, y_name=y_name
    )
  else:
    law = fit(
      x_nk,
      data.y_n,
      form=form_type,
      delta=delta,
      x_name=x_name,
      y_name=y_name,
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
  if isinstance(form_type, Chinchilla):
    content["allocation"] = parametric(law).to_dict()
  if optimum:
    content["optima"] = [_optimum(law, budget) for budget in optimum]
  if refits is not None:
    content["bootstrap"] = refits.to_dict()
  if vary:
    content["sensitivity"] = sensitivity(law)
  if hold_out:
    content["hold_out"] = _held_out(law, hold_out)
  return content


def _check_fitter(fitter: str, form: Form, delta: float) -> None:
  if fitter not in FITTERS:
    raise config_lib.ConfigError(
      f"unknown --fitter {fitter!r}" + config_lib.suggest(fitter, list(FITTERS))
    )
  if fitter != "varpro":
    return
  if not isinstance(form, varpro.Separable):
    raise config_lib.ConfigError(
      f"--fitter varpro fits {', '.join(varpro.SEPARABLE)}, not"
      f" {form.equation}; leave it out"
    )
  if delta != DELTA:
    raise config_lib.ConfigError(
      f"--delta {delta:g} is of the Huber loss, and --fitter varpro minimizes"
      " squares; leave one out"
    )


def _held_out(law: Fit, count: int) -> list[dict[str, Any]]:
  """Rows of a choice with the law and its nulls; what "largest" means in each.

  The Huber fitter refits them all, with the delta of the law: after variable
  projection, that of squares.
  """
  data = law.data
  choice = leave_largest_out(
    dict(zip(law.form.inputs, data.x_nk.T, strict=True)),
    data.y_n,
    forms=[law.form],
    count=count,
    delta=law.delta,
  )
  return [{**row, "largest": choice.size} for row in choice.rows()]


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


def _check_optima(budgets: Sequence[Mapping[str, float]], form: Form) -> None:
  wanted = {"Chinchilla": ["compute"], "DataConstrained": ["compute", "unique"]}
  named = wanted.get(type(form).__name__)
  for budget in budgets:
    if named is None:
      raise config_lib.ConfigError(
        f"--optimum weighs parameters against tokens, which {form.name} does"
        " not; fit chinchilla or data_constrained"
      )
    if sorted(budget) != named:
      raise config_lib.ConfigError(
        f"--optimum {_at(budget)} of {form.name} must say"
        f" {' and '.join(named)}, and nothing else"
      )
    for name, value in budget.items():
      if not 0 < value < np.inf:
        raise config_lib.ConfigError(
          f"--optimum {name}={value:g} must be positive and finite"
        )


def _optimum(law: Fit, budget: Mapping[str, float]) -> dict[str, float | None]:
  if "unique" in budget:
    found = with_unique_data(law.parameters, **budget)
  else:
    found = with_endless_data(law, **budget)
  return {**dataclasses.asdict(found), **budget}


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

"""The largest sizes of a grid, predicted by a law that has not seen them.

The sizes that the law is fitted to choose its form: each form is fitted without
their largest and asked for that. Axes: r runs, n sizes, k inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.scaling import fit
from fmjax.scaling.laws.law import Fit, known
from fmjax.scaling.laws.polynomial import Power
from fmjax.scaling.laws.surfaces import Chinchilla, OverTraining
from fmjax.scaling.rungs import Rung
from fmjax.scaling.trust import choice
from fmjax.scaling.trust.bootstrap import bootstrap

INPUTS = ("params", "tokens")
HELD_OUT = 2  # the largest sizes
GRID = 60  # sizes at which a curve is told
FORMS = (Chinchilla(), OverTraining())
_ENDLESS = 1e30  # parameters

Runs = Mapping[str, np.ndarray]


def foresee(rungs: Sequence[Rung], runs: Runs) -> dict[str, Any]:
  """The largest sizes, predicted at the most training from the others.

  An error is told as a share of how far the NLL drops from the last size that
  the law was fitted to.

  Args:
    rungs: of every size and length, from the smallest backbone.
    runs: their columns, a row a run.
  """
  sizes = np.unique(runs["params"])
  largest = sizes[-HELD_OUT:]
  most = runs["steps"].max()
  seen_r = ~np.isin(runs["params"], largest)
  x_rk = np.stack([runs[name] for name in INPUTS], axis=1)
  chosen = choose({name: of[seen_r] for name, of in runs.items()})

  def at(size: float) -> np.ndarray:
    return (runs["params"] == size) & (runs["steps"] == most)

  last = runs["nll"][at(sizes[-HELD_OUT - 1])].mean()
  laws = {
    form.name: fit.fit(x_rk[seen_r], runs["nll"][seen_r], form=form)
    for form in (*FORMS, Power(INPUTS))
  }
  law = laws[chosen["form"]]
  # Resampled by trunks: branches of one share its luck.
  refits = bootstrap(law, cluster=runs["trunk"][seen_r])
  told = []
  for size in largest:
    asked_r = at(size)
    measured = runs["nll"][asked_r].mean()
    predicted = {
      name: float(law.predict(x_rk[asked_r]).mean())
      for name, law in laws.items()
    }
    ends = refits.predict_interval(x_rk[asked_r], new_run=True)
    told.append(
      {
        "name": _rung_at(rungs, size, most).name,
        "params": float(size),
        "measured": float(measured),
        "predicted": predicted[chosen["form"]],
        "interval": list(known({"": ends.mean(axis=0).tolist()})[""]),
        "straight_line": predicted["power"],
        "by_form": predicted,
        "drop": float(last - measured),
      }
    )
  tokens = float(runs["tokens"][runs["steps"] == most].mean())
  size_n = np.geomspace(sizes[0], sizes[-1], GRID)
  at_nk = np.stack([size_n, np.full_like(size_n, tokens)], axis=1)
  return {
    "held_out": told,
    "held_out_form": chosen,
    "held_out_law": law.to_dict(),
    "held_out_curve": {
      "tokens": tokens,
      "params": size_n.tolist(),
      "nll": law.predict(at_nk).tolist(),
      "band": refits.predict_interval(at_nk).tolist(),
      "straight_line": laws["power"].predict(at_nk).tolist(),
      "limit": limit(law, tokens),
    },
    "holdout_error_over_drop": _errors(told, chosen["form"]),
    "straight_line_error_over_drop": _errors(told, "power"),
    "holdout_error_over_drop_by_form": {
      form.name: _errors(told, form.name) for form in FORMS
    },
  }


def choose(runs: Runs) -> dict[str, Any]:
  """The form that predicts the largest of these sizes best, unseen.

  By the validation NLL: the law itself is of the test NLL.

  Args:
    runs: those that a law is to be fitted to.

  Returns:
    "form": its name; "errors": of every form at the largest size, root mean
    square in logs, None where the others do not carry it.
  """
  tried = choice.leave_largest_out(
    {name: runs[name] for name in INPUTS},
    runs["validation"],
    forms=FORMS,
    count=1,
    size="params",
  )
  names = {form.name for form in FORMS}
  best = next(each for each in tried.ranked if each.form.name in names)
  return {
    "form": best.form.name,
    "equation": best.form.equation,
    "errors": {row["form"]: row["error"] for row in tried.rows()},
  }


def limit(law: Fit, tokens: float) -> float:
  """The NLL of endless parameters at that length."""
  return float(law.predict(np.array([[_ENDLESS, tokens]]))[0])


def _errors(told: Sequence[Mapping[str, Any]], form: str) -> list[float | None]:
  return [
    # Where a larger size is no better, there is no share of that.
    abs(each["by_form"][form] - each["measured"]) / each["drop"]
    if each["drop"] > 0
    else None
    for each in told
  ]


def _rung_at(rungs: Sequence[Rung], size: float, steps: int) -> Rung:
  return next(
    rung for rung in rungs if rung.backbone == size and rung.steps == steps
  )

"""The best size of a budget in a grid of sizes and lengths; C = 6·N·D."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax.data.schema import DataError
from fmjax.scaling.laws.law import Fit
from fmjax.scaling.rungs import Rung
from fmjax.scaling.trust import allocation

_BUDGETS = 16  # of compute, at which sizes are compared


def compare(law: Fit, rungs: Sequence[Rung]) -> dict[str, Any]:
  """The best size of a budget by three approaches; C = 6·N·D."""
  found, notes = [], []
  for attempt in (
    lambda: _envelope(rungs),
    lambda: _isoflop(rungs, "quadratic"),
    lambda: _isoflop(rungs, "akima"),
    lambda: allocation.parametric(law),
  ):
    try:
      found.append(attempt())
    except DataError as error:
      notes.append(str(error))
  return {
    **allocation.compare(found),
    "notes": notes,
    "isoflop": [
      {
        "compute": float(compute),
        "params": [row.params for row in rows],
        "nll": [row.nll for row in rows],
      }
      for compute, rows in _of_budgets(rungs).items()
    ],
  }


def _by_size(
  rungs: Sequence[Rung],
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
  """Compute and test NLL along the lengths of each size, seeds averaged."""
  found: dict[int, list[Rung]] = {}
  for rung in rungs:
    found.setdefault(rung.backbone, []).append(rung)
  return {
    size: (
      np.array([6 * size * rung.mean("tokens") for rung in by_length]),
      np.array([_nll(rung) for rung in by_length]),
    )
    for size, unsorted in found.items()
    for by_length in [sorted(unsorted, key=lambda rung: rung.steps)]
    if len(by_length) > 1
  }


def _nll(rung: Rung) -> float:
  return float(np.mean([result["test"]["nll"] for result in rung.results]))


def _envelope(rungs: Sequence[Rung]) -> allocation.Allocation:
  """Over the lengths of each size: each is the end of a run of its own."""
  curves = _by_size(rungs)
  compute, loss = zip(*curves.values(), strict=True)
  return allocation.envelope(compute, loss, list(curves))


def _isoflop(rungs: Sequence[Rung], curve: str) -> allocation.Allocation:
  table = [
    (compute, row.params, row.nll)
    for compute, rows in _of_budgets(rungs).items()
    for row in rows
  ]
  compute_n, params_n, loss_n = np.array(table).T
  return allocation.isoflop(compute_n, params_n, loss_n, curve=curve)


class _Row(NamedTuple):
  params: float
  nll: float


def _of_budgets(rungs: Sequence[Rung]) -> dict[float, list[_Row]]:
  """At budgets that several sizes span, read off each size's own lengths.

  Sizes were not trained to budgets: a size's loss at one is interpolated
  between its lengths, linearly in logs.
  """
  curves = _by_size(rungs)
  ends = np.log(np.concatenate([compute for compute, _ in curves.values()]))
  found = {}
  for budget in np.linspace(ends.min(), ends.max(), _BUDGETS + 2)[1:-1]:
    found[float(np.exp(budget))] = [
      _Row(
        params=float(size),
        nll=float(np.exp(np.interp(budget, np.log(compute), np.log(loss)))),
      )
      for size, (compute, loss) in curves.items()
      if np.log(compute[0]) <= budget <= np.log(compute[-1])
    ]
  return found

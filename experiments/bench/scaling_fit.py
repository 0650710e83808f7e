"""How long does a scaling law take to fit, and to refit a thousand times?

  python -m experiments.bench.scaling_fit

For each form and number of points: a fit from 200 starts with all that is said
of it, and a bootstrap of 1,000 draws, on one core. Points lie on a published
law, with noise of half a percent. `limits_s` is what the fit of 240 points and
its refits may take at most; the command fails where they take longer.
"""

import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

# Before NumPy is imported: its threads are counted once.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from experiments.bench import record
from fmjax.scaling import forms
from fmjax.scaling.fit import fit
from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.trust.bootstrap import bootstrap

COMMAND = "python -m experiments.bench.scaling_fit"
STARTS, DRAWS, NOISE = 200, 1_000, 0.005
LIMITED_POINTS = 240
LIMITS_S = {"fit": 10.0, "bootstrap": 60.0}
# Hoffmann et al. 2022, equation 10, and laws of its size.
_SURFACE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
_BREAK = {"a": 1.69, "b": 60.0, "c0": 0.1, "c1": 0.2, "d1": 1e9, "f1": 0.5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A law to draw points from."""

  inputs: tuple[str, ...]
  parameters: Mapping[str, float]


CASES = {
  "power_offset": Case(
    inputs=("params",), parameters={"E": 1.69, "A": 406.4, "alpha": 0.34}
  ),
  "broken_power_1": Case(inputs=("params",), parameters=_BREAK),
  "chinchilla": Case(inputs=("params", "tokens"), parameters=_SURFACE),
  "over_training": Case(
    inputs=("params", "tokens"),
    parameters={"E": 1.69, "a": 400.0, "b": 1_500.0, "eta": 0.17},
  ),
  "data_constrained": Case(
    inputs=("params", "tokens", "unique"),
    parameters={**_SURFACE, "R_D": 15.4, "R_N": 5.3},
  ),
}
_RANGES = {
  "params": (4e7, 1.6e10),
  "tokens": (2e9, 5e11),
  "unique": (1e9, 1e11),
}


def measure(name: str, points: int, *, rounds: int) -> dict[str, object]:
  """Median seconds of a fit and of its bootstrap, and what the fit found."""
  case = CASES[name]
  form = forms.form(name, inputs=case.inputs)
  generator = np.random.default_rng(0)
  low, high = np.log([_RANGES[role] for role in case.inputs]).T
  x_nk = np.exp(generator.uniform(low, high, size=(points, len(low))))
  y_n = evaluate(form, case.parameters, x_nk)
  y_n = y_n * np.exp(NOISE * generator.normal(size=points))
  law = fit(x_nk, y_n, form=form, starts=STARTS)
  return {
    "form": name,
    "points": points,
    "fit_s": _median_s(
      lambda: fit(x_nk, y_n, form=form, starts=STARTS), rounds=rounds
    ),
    "bootstrap_s": _median_s(
      lambda: bootstrap(law, draws=DRAWS), rounds=rounds
    ),
    "agreement": law.agreement,
    "gradient_norm": law.gradient_norm,
    "good": law.good,
  }


def _median_s(call: Callable[[], object], *, rounds: int) -> float:
  taken = []
  for _ in range(rounds):
    began = time.perf_counter()
    call()
    taken.append(time.perf_counter() - began)
  return statistics.median(taken)


def too_slow(rows: list[dict[str, object]]) -> list[str]:
  """What takes longer than its limit, in words."""
  return [
    f"{row['form']}: {what} of {row['points']} points took"
    f" {row[f'{what}_s']:.1f} s, more than {limit:g}"
    for row in rows
    if row["points"] == LIMITED_POINTS
    for what, limit in LIMITS_S.items()
    if row[f"{what}_s"] > limit
  ]


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--points", type=int, nargs="+", default=[60, 240, 960])
  parser.add_argument("--forms", nargs="+", choices=CASES, default=list(CASES))
  parser.add_argument("--rounds", type=int, default=3)
  asked = parser.parse_args(arguments)
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  rows = []
  for name in asked.forms:
    for points in asked.points:
      row = measure(name, points, rounds=asked.rounds)
      rows.append(row)
      print(
        f"{name}, {points} points: fit {row['fit_s']:.2f} s,"
        f" {DRAWS:,} refits {row['bootstrap_s']:.2f} s",
        file=sys.stderr,
      )
  command = (
    f"{COMMAND} --points {' '.join(map(str, asked.points))}"
    f" --forms {' '.join(asked.forms)} --rounds {asked.rounds}"
  )
  found = {
    "starts": STARTS,
    "draws": DRAWS,
    "noise": NOISE,
    "cores": 1,
    "limits_s": LIMITS_S,
    "rows": rows,
  }
  record.write(asked.out, command=command, result=found)
  if slow := too_slow(rows):
    sys.exit("; ".join(slow))


if __name__ == "__main__":
  main()

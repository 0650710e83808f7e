"""How to spend compute: the best N and D for a budget, told in three ways.

Hoffmann et al. 2022 (arXiv 2203.15556), section 3: 1, the envelope of training
curves; 2, the minimum of each isoFLOP curve; 3, the optimum of a law fitted to
all points. They should agree; where 2 and 3 do not, one of them is biased (a
parabola is, the more the wider its budgets are sampled), or the law is wrong.

C = 6·N·D throughout. Axes: n points, b budgets, r runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.interpolate
import scipy.optimize

from fmjax.data import schema
from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.laws.law import Fit
from fmjax.scaling.laws.repeated import DataConstrained
from fmjax.scaling.laws.surfaces import FLOPS_PER_TOKEN_PARAMETER, Chinchilla

AGREE = 0.05  # of exponents: approaches 2 and 3 further apart get a warning
_SAME_BUDGET = 0.05  # of log compute: points of one isoFLOP curve
_LEAST = 3  # points of a curve: a parabola has as many parameters
_STEPS = 400  # of compute, along an envelope
_GRID = 2_000  # sizes tried where the optimum has no closed form
# Beyond the unconstrained optimum, decades of N that are searched.
_DECADES = 6.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
  """N* = exp(log_params)·C^params_exponent, and so D*.

  Attributes:
    approach: which of the three, in words.
    compute_b: budgets that it was read from, in FLOPs; empty for approach 3.
    params_b: the best N of each.
    params_exponent: a in N* ~ C^a.
    log_params: log N* at C = 1.
    warnings: what a reader must know before using it.
  """

  approach: str
  compute_b: np.ndarray
  params_b: np.ndarray
  params_exponent: float
  log_params: float
  warnings: tuple[str, ...] = ()

  @property
  def tokens_exponent(self) -> float:
    """b in D* ~ C^b; a + b = 1 as C = 6·N·D."""
    return 1.0 - self.params_exponent

  def params(self, compute: float) -> float:
    """The best N for a budget in FLOPs."""
    return float(
      np.exp(self.log_params + self.params_exponent * np.log(compute))
    )

  def tokens(self, compute: float) -> float:
    """The best D for a budget in FLOPs."""
    return compute / (FLOPS_PER_TOKEN_PARAMETER * self.params(compute))

  def to_dict(self) -> dict[str, Any]:
    return {
      "approach": self.approach,
      "params_exponent": self.params_exponent,
      "tokens_exponent": self.tokens_exponent,
      "log_params": self.log_params,
      "compute": self.compute_b.tolist(),
      "params": self.params_b.tolist(),
      "warnings": list(self.warnings),
    }


def envelope(
  compute: Sequence[np.ndarray],
  loss: Sequence[np.ndarray],
  params: Sequence[float],
) -> Allocation:
  """Approach 1: at each compute, the size of the run that is best there.

  Args:
    compute: FLOPs along each run, rising.
    loss: of each run at these.
    params: size of each run.

  Raises:
    DataError: no run of a middle size is ever the best.
  """
  params_r = np.asarray(params, float)
  order = np.argsort(params_r)
  logs = [np.log(compute[run]) for run in order]
  low = min(log_n[0] for log_n in logs)
  high = max(log_n[-1] for log_n in logs)
  grid_b = np.linspace(low, high, _STEPS)
  loss_rb = np.stack(
    [
      np.interp(grid_b, log_n, loss[run], left=np.inf, right=np.inf)
      for run, log_n in zip(order, logs, strict=True)
    ]
  )
  alive_rb = np.isfinite(loss_rb)
  best_b = loss_rb.argmin(0)
  # Where the best run is the smallest or the largest that got so far, a still
  # smaller or larger one may be better: the optimum is not seen.
  first_b = alive_rb.argmax(0)
  last_b = len(params_r) - 1 - alive_rb[::-1].argmax(0)
  seen_b = alive_rb.any(0) & (best_b > first_b) & (best_b < last_b)
  if len(np.unique(best_b[seen_b])) < 2:
    raise schema.DataError(
      f"on the envelope of {len(params_r)} runs the best size is seen to change"
      " nowhere between the smallest and the largest run; add sizes, or longer"
      " runs"
    )
  return _line(
    "1: envelope",
    np.exp(grid_b[seen_b]),
    params_r[order][best_b[seen_b]],
  )


def isoflop(
  compute: np.ndarray,
  params: np.ndarray,
  loss: np.ndarray,
  *,
  curve: str = "quadratic",
) -> Allocation:
  """Approach 2: the lowest point of loss over log N at each budget.

  Args:
    compute: FLOPs of each run; those of one budget differ by less than 5 %.
    params: N of each run.
    loss: of each run.
    curve: through the points of a budget: a least-squares "quadratic", or
      "akima", which passes through them (Akima 1970).

  Raises:
    DataError: fewer than two budgets show a minimum.
  """
  if curve not in ("quadratic", "akima"):
    raise ValueError(f"curve={curve!r} is neither 'quadratic' nor 'akima'")
  compute_n, params_n, loss_n = (
    np.asarray(value, float) for value in (compute, params, loss)
  )
  lowest = _parabola if curve == "quadratic" else _akima
  budgets, best, few, endless = [], [], [], []
  for budget_n in _budgets(compute_n):
    budget = float(np.exp(np.log(compute_n[budget_n]).mean()))
    size, mean = _mean_by_size(params_n[budget_n], loss_n[budget_n])
    if len(size) < _LEAST:
      few.append(f"{budget:.3g}")
      continue
    log_best = lowest(np.log(size), mean)
    if log_best is None:
      endless.append(f"{budget:.3g}")
      continue
    budgets.append(budget)
    best.append(np.exp(log_best))
  facts = [
    f"budgets left out, as {why}: {', '.join(left)} FLOPs"
    for why, left in (
      (f"fewer than {_LEAST} sizes have them", few),
      (
        "the loss has no minimum between the smallest and the largest size",
        endless,
      ),
    )
    if left
  ]
  if len(budgets) < 2:
    raise schema.DataError(
      f"{len(budgets)} of the budgets show a minimum of loss over size; two are"
      " needed at least: add smaller or larger sizes to each budget"
    )
  return _line(
    f"2: isoFLOP, {curve}", np.array(budgets), np.array(best), tuple(facts)
  )


def parametric(law: Fit) -> Allocation:
  """Approach 3: where the law E + A·N^(-alpha) + B·D^(-beta) is lowest.

  N* = G·(C/6)^(beta/(alpha + beta)), G = (alpha·A/(beta·B))^(1/(alpha + beta)).
  """
  if not isinstance(law.form, Chinchilla):
    raise ValueError(
      f"{law.form.name} has no closed form of its optimum; fit chinchilla"
    )
  exponent, log_params = chinchilla_optimum(law.parameters)
  return Allocation(
    approach="3: parametric",
    compute_b=np.empty(0),
    params_b=np.empty(0),
    params_exponent=exponent,
    log_params=log_params,
    warnings=()
    if law.good
    else ("the law is no good fit; so is its optimum not", *law.warnings),
  )


def chinchilla_optimum(parameters: Mapping[str, float]) -> tuple[float, float]:
  """Exponent of N* in compute, and log N* at one FLOP; see `parametric`."""
  alpha, beta = parameters["alpha"], parameters["beta"]
  total = alpha + beta
  log_ratio = np.log(alpha * parameters["A"]) - np.log(beta * parameters["B"])
  exponent = beta / total
  log_six = np.log(FLOPS_PER_TOKEN_PARAMETER)
  return exponent, float(log_ratio / total - exponent * log_six)


def disagreement(second: Allocation, third: Allocation) -> list[str]:
  """A sentence where the exponents of two approaches are too far apart."""
  gap = abs(second.params_exponent - third.params_exponent)
  if gap <= AGREE:
    return []
  return [
    f"the best size grows as C^{second.params_exponent:.3f} by approach"
    f" {second.approach}, as C^{third.params_exponent:.3f} by approach"
    f" {third.approach}: {gap:.3f} apart, more than {AGREE:g}; trust neither"
    " beyond the points"
  ]


def compare(allocations: Sequence[Allocation]) -> dict[str, Any]:
  """All approaches side by side, JSON-ready, with where they disagree."""
  third = [each for each in allocations if each.approach.startswith("3")]
  return {
    "approaches": [each.to_dict() for each in allocations],
    "warnings": [
      fact
      for each in allocations
      if each.approach.startswith("2")
      for other in third
      for fact in disagreement(each, other)
    ],
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
  """The best run for a budget.

  Attributes:
    compute: the budget, in FLOPs.
    params: N.
    tokens: D, seen.
    loss: of the law there.
    epochs: D over the unique tokens, below 1 where not all are seen; None where
      they do not end.
  """

  compute: float
  params: float
  tokens: float
  loss: float
  epochs: float | None = None


def with_endless_data(law: Fit, *, compute: float) -> Optimum:
  """The lowest loss of E + A·N^(-alpha) + B·D^(-beta) at a budget."""
  best = parametric(law)
  params, tokens = best.params(compute), best.tokens(compute)
  return Optimum(
    compute=compute,
    params=params,
    tokens=tokens,
    loss=float(law.predict(np.array([[params, tokens]]))[0]),
  )


def with_unique_data(
  parameters: Mapping[str, float], *, compute: float, unique: float
) -> Optimum:
  """The lowest loss of a data-constrained law at a budget.

  Args:
    parameters: of `DataConstrained`.
    compute: the budget, in FLOPs.
    unique: tokens that there are.

  The law has a kink where parameters become excessive, so the lowest of a fine
  grid is found first and refined between its neighbors.
  """
  form = DataConstrained()

  def loss_n(log_params_n):
    params_n = np.exp(np.atleast_1d(log_params_n))
    tokens_n = compute / (FLOPS_PER_TOKEN_PARAMETER * params_n)
    return evaluate(
      form,
      parameters,
      np.stack([params_n, tokens_n, np.full_like(params_n, unique)], axis=1),
    )

  exponent, log_params = chinchilla_optimum(parameters)
  middle = log_params + exponent * np.log(compute)
  reach = _DECADES * np.log(10)
  grid_n = np.linspace(middle - reach, middle + reach, _GRID)
  best = int(np.clip(loss_n(grid_n).argmin(), 1, _GRID - 2))
  answer = scipy.optimize.minimize_scalar(
    lambda log_params: float(loss_n(log_params)[0]),
    bounds=(grid_n[best - 1], grid_n[best + 1]),
    method="bounded",
    options={"xatol": 1e-12},
  )
  params = float(np.exp(answer.x))
  tokens = compute / (FLOPS_PER_TOKEN_PARAMETER * params)
  return Optimum(
    compute=compute,
    params=params,
    tokens=tokens,
    loss=float(answer.fun),
    epochs=tokens / unique,
  )


def _line(
  approach: str,
  compute_b: np.ndarray,
  params_b: np.ndarray,
  warnings: tuple[str, ...] = (),
) -> Allocation:
  """A power law through the best sizes."""
  middle = np.log(compute_b).mean()
  exponent, height = np.polyfit(np.log(compute_b) - middle, np.log(params_b), 1)
  return Allocation(
    approach=approach,
    compute_b=compute_b,
    params_b=params_b,
    params_exponent=float(exponent),
    log_params=float(height - exponent * middle),
    warnings=warnings,
  )


def _budgets(compute_n: np.ndarray) -> list[np.ndarray]:
  """Places of the points of each budget."""
  order = np.argsort(compute_n)
  jumps = np.diff(np.log(compute_n[order])) > _SAME_BUDGET
  return np.split(order, np.flatnonzero(jumps) + 1)


def _mean_by_size(params_n, loss_n):
  """Seeds of one size are one point."""
  size, place_n = np.unique(params_n, return_inverse=True)
  return size, np.bincount(place_n, loss_n) / np.bincount(place_n)


def _parabola(log_size: np.ndarray, loss: np.ndarray) -> float | None:
  middle = log_size.mean()
  curvature, slope, _ = np.polyfit(log_size - middle, loss, 2)
  if curvature <= 0:
    return None
  best = float(middle - slope / (2 * curvature))
  return best if log_size[0] < best < log_size[-1] else None


def _akima(log_size: np.ndarray, loss: np.ndarray) -> float | None:
  curve = scipy.interpolate.Akima1DInterpolator(log_size, loss)
  level = curve.derivative().roots(extrapolate=False)
  # A stretch without slope is returned as NaN beside its beginning.
  level = level[np.isfinite(level)]
  if not len(level):
    return None
  best = float(level[curve(level).argmin()])
  # A curve that is lower still at its end has not shown its minimum.
  return best if curve(best) < min(loss[0], loss[-1]) else None

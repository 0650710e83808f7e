"""Which law to believe: the one that predicts the largest points unseen.

A law is fitted without the largest points and asked for them. Goodness on the
points that it was fitted to is no reason: a parabola fits anything, and then
turns.

Axes: n points, k inputs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from fmjax.data import schema
from fmjax.scaling.fit import DELTA, STARTS, fit
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.law import Fit, known
from fmjax.scaling.laws.polynomial import Power, Quadratic

_LUCK = 0.95  # an error that noise alone would stay below so often


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
  """A law that has not seen the largest points.

  Attributes:
    form: the law's.
    law: fitted to the others; None if they could not carry it.
    error: root mean square of log residuals at the largest points.
    residual_n: log measured minus log predicted, each of them.
    refused: why it is not to be believed; empty if it may be.
  """

  form: Form
  law: Fit | None
  error: float
  residual_n: np.ndarray
  refused: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """Laws, the best first.

  Attributes:
    ranked: by their error at the largest points.
    size: what "largest" means.
    held_out: places of the largest points.
  """

  ranked: tuple[HeldOut, ...]
  size: str
  held_out: np.ndarray

  @property
  def best(self) -> HeldOut | None:
    """The first that is not refused; the nulls are never refused."""
    return next((each for each in self.ranked if not each.refused), None)

  def rows(self) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [
      {
        "form": each.form.name,
        **known({"error": each.error}),
        "good": bool(each.law and each.law.good),
        "refused": each.refused,
        **known({"residuals": each.residual_n.tolist()}),
      }
      for each in self.ranked
    ]


def leave_largest_out(
  x: Mapping[str, np.ndarray],
  y: np.ndarray,
  *,
  forms: Sequence[Form],
  count: int = 2,
  size: str = "",
  delta: float = DELTA,
  starts: int = STARTS,
) -> Choice:
  """Ranks laws by their error at the largest points, which they have not seen.

  The straight line in logs and the parabola take part, asked for or not: a law
  that predicts no better than one of them says nothing that they do not.

  Args:
    x: the inputs by role, each [n].
    y: losses or a metric, [n].
    forms: the candidates.
    count: distinct sizes that are left out, the largest.
    size: the input that orders the points; "": by compute, the FLOPs or the
      product of the parameters and the tokens, or else by the first input.
    delta: of the Huber loss, in logs.
    starts: of each fit.

  Raises:
    DataError: nothing is left to fit.
  """
  y_n = np.asarray(y, float)
  size, size_n = _sizes(x, size)
  largest = np.unique(size_n)[-count:]
  out_n = size_n >= largest[0]
  if out_n.all():
    raise schema.DataError(
      f"{size} has {len(largest)} distinct values: without the {count} largest"
      " no point is left"
    )
  tried: dict[tuple[str, bool | None], Form] = {}
  varied = [role for role in x if np.ptp(np.asarray(x[role])[~out_n]) > 0]
  for form in (*nulls(varied or tuple(x)), *forms):
    tried[form.name, form.rises] = form
  results = []
  for form in tried.values():
    x_nk = np.stack([np.asarray(x[role], float) for role in form.inputs], 1)
    try:
      law = fit(
        x_nk[~out_n], y_n[~out_n], form=form, delta=delta, starts=starts
      )
    except schema.DataError as error:
      results.append(
        HeldOut(
          form=form,
          law=None,
          error=float("inf"),
          residual_n=np.full(out_n.sum(), np.nan),
          refused=f"not fitted: {error}",
        )
      )
      continue
    residual_n = np.log(y_n[out_n]) - np.log(law.predict(x_nk[out_n]))
    error = float(np.sqrt(np.mean(residual_n**2)))
    results.append(
      HeldOut(
        form=form,
        law=law,
        error=error if np.isfinite(error) else float("inf"),
        residual_n=residual_n,
        refused="",
      )
    )
  ranked = sorted(_refuse(results), key=lambda each: each.error)
  return Choice(ranked=tuple(ranked), size=size, held_out=np.flatnonzero(out_n))


def nulls(inputs: Sequence[str]) -> tuple[Form, ...]:
  """The straight line in logs and the parabola, of these inputs, which vary.

  Of three inputs the parabola has two, the first: with ten parameters it would
  be no null.
  """
  return Power(tuple(inputs)), Quadratic(tuple(inputs[:2]))


def _refuse(results: Sequence[HeldOut]) -> list[HeldOut]:
  """Marks the laws that a null predicts better than, by more than noise."""
  null = min(filter(_is_null, results), key=lambda each: each.error)
  noises = [each.law.noise for each in results if each.law is not None]
  # Where no point is left to tell it, none of a difference is laid to noise.
  noise = min((each for each in noises if np.isfinite(each)), default=0.0)
  points = len(null.residual_n)
  # Of so many points of noise alone.
  luck = noise * np.sqrt(scipy.stats.chi2.ppf(_LUCK, points) / points)
  return [
    each
    if _is_null(each) or each.refused or each.error <= max(null.error, luck)
    else dataclasses.replace(
      each,
      refused=f"predicts the largest points worse ({each.error:.2%}) than"
      f" {null.form.name} does ({null.error:.2%}), by more than noise",
    )
    for each in results
  ]


def _is_null(each: HeldOut) -> bool:
  return isinstance(each.form, Power | Quadratic)


def _sizes(x: Mapping[str, np.ndarray], size: str) -> tuple[str, np.ndarray]:
  if size:
    if size not in x:
      raise ValueError(f"size={size!r} is no input; known: {', '.join(x)}")
    return size, np.asarray(x[size], float)
  if "flops" in x or len(x) == 1:
    role = "flops" if "flops" in x else next(iter(x))
    return role, np.asarray(x[role], float)
  if {"params", "tokens"} <= x.keys():
    return "compute", np.asarray(x["params"], float) * np.asarray(x["tokens"])
  role = next(iter(x))
  return role, np.asarray(x[role], float)

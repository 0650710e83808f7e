"""How far a law through a few rungs can be trusted.

What is resampled are the test users, the same ones for every rung: rungs are
compared on the same people, so most of what makes a set of users easy or hard
moves all rungs together and cancels in differences. Where a rung ran with
several seeds, its seeds are resampled as well.

With four or five rungs and three parameters this is nearly all that can be said
honestly. Residuals are useless there: one degree of freedom is left, and a
bootstrap of residuals that the fit has made small would praise the fit. So the
band holds the noise of the test users (and seeds), *not* the doubt whether the
form is right, nor, with one seed a rung, the luck of each run; and it is drawn
between the smallest and the largest rung, beyond only where there are rungs
that the law has not seen.

Axes: s draws, n rungs, u users.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmjax.eval.metrics import DRAWS, by_user, query_values, resamples
from fmjax.eval.ranked import Ranked
from fmjax.scaling.laws.descent import descend
from fmjax.scaling.laws.law import LEVEL, Fit

# Of a draw's own starts: the law through the points themselves, and these many
# of the form's grid, for draws whose best law lies elsewhere.
_STARTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """A metric of every rung, measured and resampled.

  Attributes:
    metric: its name.
    value_n: measured on all users, mean over seeds.
    draw_sn: on resampled users and seeds; row s of all rungs is one draw.
  """

  metric: str
  value_n: np.ndarray
  draw_sn: np.ndarray

  def interval_n(self, level: float = 0.95) -> np.ndarray:
    """Of each rung's metric, [n, 2]."""
    return _interval(self.draw_sn, level)

  def improvement(self) -> "Samples":
    """Relative to rung 0 of the same draw; positive is better."""
    sign = -1.0 if self.metric == "nll" else 1.0
    # There is no ratio to 0: few users of a weak rung may all have missed.
    draw_sn = self.draw_sn[self.draw_sn[:, 0] > 0]
    return Samples(
      metric=self.metric,
      value_n=sign * (self.value_n / self.value_n[0] - 1),
      draw_sn=sign * (draw_sn / draw_sn[:, :1] - 1),
    )

  @property
  def positive_sn(self) -> np.ndarray:
    """The draws in which no rung has a metric of 0, which has no logarithm."""
    return self.draw_sn[(self.draw_sn > 0).all(axis=1)]

  def difference(self, rung: int, other: int) -> np.ndarray:
    """95 % interval of value[rung] - value[other], paired, [2]."""
    gap_s1 = self.draw_sn[:, rung : rung + 1] - self.draw_sn[:, [other]]
    return _interval(gap_s1, 0.95)[0]


def sample(
  rungs: Sequence[Sequence[Ranked]],
  metric: str,
  *,
  draws: int = DRAWS,
  seed: int = 0,
) -> Samples:
  """Bootstrap of a metric over users (and seeds), paired across rungs.

  Args:
    rungs: for each rung, the answers of its seeds to the same queries.
    metric: a mean over queries, see `eval.metrics.MEANS`.
    draws: resamples.
    seed: of the resampling.
  """
  reference = rungs[0][0]
  weight_u = by_user(reference.user, np.ones(len(reference.user)))
  total_nu = [
    np.stack([by_user(run.user, query_values(run, metric)) for run in runs])
    for runs in rungs
  ]
  value_n = np.array([total.sum(1).mean() for total in total_nu])
  generator = np.random.default_rng(seed + 1)
  draw_sn = np.empty((draws, len(rungs)))
  for draw, count_u in enumerate(
    resamples(len(weight_u), draws=draws, seed=seed)
  ):
    for rung, total in enumerate(total_nu):
      chosen = generator.integers(len(total), size=len(total))
      draw_sn[draw, rung] = (total @ count_u)[chosen].mean()
    draw_sn[draw] /= count_u @ weight_u
  return Samples(
    metric=metric, value_n=value_n / weight_u.sum(), draw_sn=draw_sn
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
  """A law and where its refits lie, on a grid of x.

  Attributes:
    x: the grid, from the smallest to the largest rung.
    y: the law.
    low: lower end of the band.
    high: upper end.
    level: share of the refits between them at each x.
  """

  x: np.ndarray
  y: np.ndarray
  low: np.ndarray
  high: np.ndarray
  level: float


def band(
  law: Fit,
  x_n: np.ndarray,
  samples: Samples,
  *,
  points: int = 100,
  relative: bool = False,
  delta: float = 1e-3,
  until: float | None = None,
) -> Band:
  """Refits the law's form to every draw.

  Args:
    law: fitted to `samples.value_n` at `x_n`.
    x_n: size of each rung.
    samples: the draws.
    points: of the grid.
    relative: the law and band as improvement over the measured rung 0 of the
      same draw, instead of the metric itself.
    delta: of the Huber loss, in logs.
    until: where the grid ends; None: at the largest rung.
  """
  u_nk = law.logs(x_n)
  draw_sn = samples.positive_sn
  z_sn = np.log(draw_sn) - law.data.shift_y
  draws = len(z_sn)
  start_si = np.concatenate(
    [law.theta_i[None], law.form.starts(u_nk, _STARTS)[:_STARTS]]
  )
  box = law.form.box(u_nk, z_sn)
  theta_si, objective_s = descend(
    law.form,
    np.tile(start_si, (draws, 1)),
    u_nk,
    np.repeat(z_sn, len(start_si), axis=0),
    box=box,
    delta=delta,
  )
  best_s = objective_s.reshape(draws, -1).argmin(1)
  refit_si = theta_si.reshape(draws, len(start_si), -1)[
    np.arange(draws), best_s
  ]
  grid = np.geomspace(np.min(x_n), until or np.max(x_n), points)
  y_sn = np.exp(law.form.log_y(refit_si, law.logs(grid)) + law.data.shift_y)
  y = law.predict(grid)
  if relative:
    sign = -1.0 if samples.metric == "nll" else 1.0
    y_sn = sign * (y_sn / draw_sn[:, :1] - 1)
    y = sign * (y / samples.value_n[0] - 1)
  low, high = _interval(y_sn, LEVEL).T
  return Band(x=grid, y=y, low=low, high=high, level=LEVEL)


def _interval(draw_sn: np.ndarray, level: float) -> np.ndarray:
  """Central percentiles of the draws, [n, 2]."""
  tail = 50 * (1 - level)
  return np.percentile(draw_sn, [tail, 100 - tail], axis=0).T

"""Refits of a law to resampled points, whole clusters at a time.

Points that share a trunk (the decay branches of one run), or a seed, are not
independent: drawn one by one they would promise more than they know. So what is
resampled are clusters.

Axes: s draws, n points, k inputs, i internal parameters, g clusters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax.data import schema
from fmjax.scaling.laws.descent import AT_ONCE, descend
from fmjax.scaling.laws.law import LEVEL, Fit, known, natural_values
from fmjax.scaling.laws.points import check_points

DRAWS = 1_000
_FEW = 10  # clusters: percentiles of fewer are no intervals
_LEAST_DRAWS = 20  # with fewer no draw lies beyond 5 % of them
_MANY_DROPPED = 0.1  # share of draws: the rest are no sample of all
# Singular values of the Jacobian, relative to the largest: smaller ones are
# rounding, and show no direction.
_ROUNDING = 1e-10
_NUDGES = 2  # starts of a draw beside the law itself
_NUDGE = 0.5  # of an internal parameter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refits:
  """A law through resampled points.

  Attributes:
    law: through all points.
    theta_si: internal parameters of each refit.
    weight_sn: how often each point was drawn.
    clusters: number of them.
    dropped: draws that could not be fitted: too few distinct points, or values
      of an input, or too few to show all parameters that all points show.
  """

  law: Fit
  theta_si: np.ndarray
  weight_sn: np.ndarray
  clusters: int
  dropped: int

  @property
  def enough(self) -> bool:
    """Draws for intervals; without, all that they would tell is NaN."""
    return len(self.theta_si) >= _LEAST_DRAWS

  def parameters(self) -> dict[str, np.ndarray]:
    """Of each draw, [s]."""
    form, data = self.law.form, self.law.data
    drawn = [
      natural_values(
        form, form.natural(t, shift_k=data.shift_k, shift_y=data.shift_y)[0]
      )
      for t in self.theta_si
    ]
    return {
      name: np.array([values[name] for values in drawn])
      for name in form.parameters
    }

  def intervals(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """Percentiles of the refits."""
    if not self.enough:
      return dict.fromkeys(self.law.form.parameters, (np.nan, np.nan))
    return {
      name: tuple(_percentiles(value_s[:, None], level)[0].tolist())
      for name, value_s in self.parameters().items()
    }

  def standard_errors(self) -> dict[str, float]:
    if not self.enough:
      return dict.fromkeys(self.law.form.parameters, np.nan)
    return {
      name: float(value_s.std(ddof=1))
      for name, value_s in self.parameters().items()
    }

  def predict_interval(
    self,
    x: Sequence[float] | np.ndarray,
    *,
    new_run: bool = False,
    level: float = LEVEL,
    seed: int = 0,
  ) -> np.ndarray:
    """Interval of the law, or of one new run at x (its noise added), [n, 2]."""
    log_x_nk = self.law.logs(x)
    if not self.enough:
      return np.full((len(log_x_nk), 2), np.nan)
    log_y_sn = self.law.form.log_y(self.theta_si, log_x_nk)
    if new_run:
      residual_n = self.law.residuals()
      # A fit has made its residuals small.
      freedom = max(len(residual_n) - len(self.law.theta_i), 1)
      residual_n = residual_n * np.sqrt(len(residual_n) / freedom)
      generator = np.random.default_rng(seed)
      log_y_sn = log_y_sn + generator.choice(residual_n, log_y_sn.shape)
    return _percentiles(np.exp(log_y_sn + self.law.data.shift_y), level)

  @property
  def warnings(self) -> list[str]:
    facts = []
    if self.clusters < _FEW:
      facts.append(
        f"{self.clusters} clusters are too few for a bootstrap: its intervals"
        " are too narrow"
      )
    draws = self.dropped + len(self.theta_si)
    if self.dropped > _MANY_DROPPED * draws:
      facts.append(
        f"{self.dropped} of {draws} draws held too few distinct points for"
        f" {self.law.form.name} and are left out: the intervals are those of"
        " the luckier draws"
      )
    if not self.enough:
      facts.append(
        f"{len(self.theta_si)} draws are left, too few for intervals, which"
        f" need {_LEAST_DRAWS}"
      )
    return facts

  def to_dict(self) -> dict[str, Any]:
    return {
      "draws": len(self.theta_si),
      "dropped": self.dropped,
      "clusters": self.clusters,
      "level": LEVEL,
      "standard_errors": known(self.standard_errors()),
      "intervals": known(self.intervals()),
      "warnings": self.warnings,
    }


def bootstrap(
  law: Fit,
  *,
  cluster: Sequence[Any] | np.ndarray | None = None,
  draws: int = DRAWS,
  seed: int = 0,
) -> Refits:
  """Refits `law` to resampled clusters of its points.

  Args:
    law: through all points.
    cluster: label of each point's cluster, [n]; None: each point is its own.
    draws: of as many clusters as there are.
    seed: of the draws.
  """
  data = law.data
  label_n = np.arange(len(data)) if cluster is None else np.asarray(cluster)
  _, group_n = np.unique(label_n, return_inverse=True)
  clusters = int(group_n.max()) + 1
  generator = np.random.default_rng(seed)
  count_sg = generator.multinomial(
    clusters, np.full(clusters, 1 / clusters), size=draws
  )
  weight_sn = count_sg[:, group_n].astype(float)
  weight_sn = weight_sn[_carried(law, weight_sn > 0)]
  # The law itself is near; a draw whose best law lies elsewhere is found from
  # one of its neighbors.
  nudge_si = generator.normal(size=(_NUDGES, len(law.theta_i))) * _NUDGE
  start_si = law.theta_i + np.concatenate([0 * nudge_si[:1], nudge_si])
  at_once = max(AT_ONCE // (len(start_si) * len(data)), 1)
  parts = [
    _refit(law, start_si, weight_sn[first : first + at_once])
    for first in range(0, len(weight_sn), at_once)
  ]
  return Refits(
    law=law,
    theta_si=np.concatenate([*parts, np.empty((0, len(law.theta_i)))]),
    weight_sn=weight_sn,
    clusters=clusters,
    dropped=draws - len(weight_sn),
  )


def _carried(law: Fit, drawn_sn: np.ndarray) -> np.ndarray:
  """Which draws can be fitted, [s]: those that a fit would not refuse.

  Nor may they show fewer parameters than all points do: with two values of each
  input, four points hold no four parameters of a sum of two terms.
  """
  data = law.data
  jacobian_ni = law.form.jacobian(law.theta_i[None], data.u_nk)[0]
  size_i = np.linalg.norm(jacobian_ni, axis=0)
  scaled_ni = jacobian_ni / np.where(size_i > 0, size_i, 1.0)
  shown = np.linalg.matrix_rank(scaled_ni, rtol=_ROUNDING)

  def carried(drawn_n):
    points = dataclasses.replace(
      data, u_nk=data.u_nk[drawn_n], z_n=data.z_n[drawn_n]
    )
    try:
      check_points(points, form=law.form)
    except schema.DataError:
      return False
    rank = np.linalg.matrix_rank(scaled_ni[drawn_n], rtol=_ROUNDING)
    return bool(rank >= shown)

  return np.array([carried(drawn_n) for drawn_n in drawn_sn], bool)


def _refit(law: Fit, start_si, weight_sn) -> np.ndarray:
  tries, draws = len(start_si), len(weight_sn)
  theta_si, objective_s = descend(
    law.form,
    np.tile(start_si, (draws, 1)),
    law.data.u_nk,
    law.data.z_n[None],
    box=law.box,
    delta=law.delta,
    weight_sn=np.repeat(weight_sn, tries, axis=0),
  )
  best_s = objective_s.reshape(draws, tries).argmin(1)
  return theta_si.reshape(draws, tries, -1)[np.arange(draws), best_s]


def _percentiles(value_sn: np.ndarray, level: float) -> np.ndarray:
  """Central ones of the draws, [n, 2]."""
  tail = 50 * (1 - level)
  return np.percentile(value_sn, [tail, 100 - tail], axis=0).T

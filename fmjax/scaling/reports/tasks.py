"""What a larger backbone brings to one task, and where that ends.

The relative improvement over the smallest size, with the offset law
R(N) = R_inf - A·N^(-a) (falling: E + A·N^(-a)) through all sizes but the
largest, which it has not seen. Tasks have ceilings of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.data.schema import DataError
from fmjax.scaling import fit, forms
from fmjax.scaling.uncertainty import Samples, band

_DRAWS = 200


def curve(
  params_n: Sequence[float], samples: Samples, *, held_out: int
) -> dict[str, Any]:
  """Improvement, law, band and ceiling of a metric over sizes; JSON-ready.

  Args:
    params_n: backbone of each rung, from the smallest.
    samples: of the metric, a rung a size.
    held_out: how many of the largest the law does not see.
  """
  x_n = np.asarray(params_n, float)
  gain = samples.improvement()
  told: dict[str, Any] = {
    "metric": samples.metric,
    "params": x_n.tolist(),
    "value": samples.value_n.tolist(),
    "improvement": gain.value_n.tolist(),
    "improvement_ci": gain.interval_n().tolist(),
    "held_out": held_out,
  }
  seen = slice(0, len(x_n) - held_out)
  known = Samples(
    metric=samples.metric,
    value_n=samples.value_n[seen],
    draw_sn=samples.draw_sn[:, seen],
  )
  falls = samples.metric == "nll"
  try:
    law = fit.fit(
      x_n[seen],
      known.value_n,
      form=forms.form("power_offset", rising=not falls),
    )
  except DataError as error:
    return {**told, "good": False, "warnings": [f"not fitted: {error}"]}
  found = law.to_dict()
  limit = law.parameters["E" if falls else "R_inf"]
  sign = -1.0 if falls else 1.0
  # As far as the sizes that were held out.
  spread = band(law, x_n[seen], known, relative=True, until=float(x_n[-1]))
  return {
    **told,
    **{name: found[name] for name in ("good", "warnings", "parameters")},
    "ceiling": sign * (limit / float(known.value_n[0]) - 1),
    "band": {
      "level": spread.level,
      "x": spread.x.tolist(),
      "improvement": spread.y.tolist(),
      "low": spread.low.tolist(),
      "high": spread.high.tolist(),
    },
  }


def from_intervals(
  metric: str, values: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> Samples:
  """Draws of what is known by its values and 95 % intervals alone.

  Rungs are drawn apart, though they answered the same queries: intervals of
  differences come out too wide, not too narrow.

  Args:
    metric: its name in `values`; its interval is `<metric>_ci`.
    values: of each rung.
    seed: of the draws.
  """
  value_n = np.array([each[metric] for each in values])
  ends_n2 = np.array([each[f"{metric}_ci"] for each in values])
  error_n = np.diff(ends_n2, axis=1)[:, 0] / (2 * 1.96)
  generator = np.random.default_rng(seed)
  draw_sn = value_n + error_n * generator.normal(size=(_DRAWS, len(value_n)))
  return Samples(metric=metric, value_n=value_n, draw_sn=draw_sn)

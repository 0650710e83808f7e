"""The noise of points about a law, and what the Huber loss makes of it.

Axes: n points.
"""

import numpy as np
import scipy.special
import scipy.stats

ALL_SQUARES = 1e3  # a delta beyond every residual


def noise_of(residual_n: np.ndarray, *, parameters: int) -> float:
  """Robust standard deviation of residuals; NaN if no point is left for it.

  Residuals are clipped at three times their scale before they are squared: the
  median, leaving out the p - 1 smallest, which a fit of p parameters has made
  small itself.
  """
  freedom = len(residual_n) - parameters
  if freedom < 1:
    return float("nan")
  size_n = np.sort(np.abs(residual_n))
  scale = np.median(size_n[parameters - 1 :]) / scipy.stats.norm.ppf(0.75)
  return float(np.sqrt((np.minimum(size_n, 3 * scale) ** 2).sum() / freedom))


def huber_factors(*, delta: float, noise: float) -> tuple[float, float]:
  """E[psi²] / noise² and E[psi'] of the Huber loss under normal noise.

  Huber 1964. Their limits for a delta far below the noise are handled too.
  """
  # Without noise k has no end; from 40 on the factors are 1 in every digit.
  k = min(delta / max(noise, 1e-300), 40.0)
  inside = float(scipy.special.erf(k / np.sqrt(2)))
  if k < 1e-4:
    return k**2, inside
  square = (
    inside - 2 * k * scipy.stats.norm.pdf(k) + 2 * k**2 * scipy.stats.norm.sf(k)
  )
  return float(square), inside


def deviance_unit(*, delta: float, noise: float) -> float:
  """Half of the deviance's unit: what a rise of the objective is divided by.

  Twice the rise over E[psi²] / E[psi'], which for squares is the variance of
  the noise, is chi-square where a parameter is moved to its true value (Huber
  and Ronchetti 2009, section 13.6).
  """
  square, inside = huber_factors(delta=delta, noise=noise)
  return noise**2 * square / inside

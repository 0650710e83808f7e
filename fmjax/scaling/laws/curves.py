"""Laws of one input with an offset: a floor for losses, a ceiling for metrics.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import dataclasses

import numpy as np

from fmjax.scaling.laws.form import (
  EXPONENTS,
  FAR,
  cube,
  exp,
  exponent_facts,
  first_exponents,
  first_shares,
  on_edge,
)

_CEILING = 1e3  # × the best measured metric is no ceiling any more


@dataclasses.dataclass(frozen=True)
class PowerOffset:
  """y = E + A·x^(-alpha): falls towards the irreducible E. For losses."""

  inputs: tuple[str, ...] = ("x",)
  name = "power_offset"
  equation = "E + A·x^(-alpha)"
  parameters = ("E", "A", "alpha")
  positive = (True, True, True)
  least_values = (3,)
  rises = False

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    e_s1, a_s1, alpha_s1 = _columns(theta_si)
    return np.log(np.exp(e_s1) + exp(a_s1 - alpha_s1 * u_nk[:, 0]))

  def jacobian(self, theta_si, u_nk):
    e_s1, a_s1, alpha_s1 = _columns(theta_si)
    u_n = u_nk[:, 0]
    term_sn = exp(a_s1 - alpha_s1 * u_n)
    share_sn = term_sn / (np.exp(e_s1) + term_sn)
    return np.stack(
      [1 - share_sn, share_sn, -share_sn * alpha_s1 * u_n], axis=-1
    )

  def starts(self, u_nk, count):
    unit = cube(count, 2)
    return np.concatenate(
      [first_shares(unit[:, :1]), first_exponents(unit[:, 1:])], axis=1
    )

  def box(self, u_nk, z_n):
    low, high = np.log(EXPONENTS)
    return np.array(
      [
        [z_n.min() - FAR, -2 * FAR, low],
        # The floor cannot lie above every measured point.
        [z_n.max(), 2 * FAR, high],
      ]
    )

  def natural(self, theta_i, *, shift_k, shift_y):
    e, a, log_alpha = theta_i
    lift = np.exp(log_alpha) * shift_k[0]
    value = np.array([e + shift_y, a + lift + shift_y, log_alpha])
    slope = np.eye(3)
    slope[1, 2] = lift
    return value, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = []
    if low[0]:
      facts.append("E is zero to every digit: the points show no floor")
    if low[1]:
      facts.append("A is zero to every digit: y does not fall with x")
    return facts + exponent_facts("alpha", low[2], high[2])


@dataclasses.dataclass(frozen=True)
class RisingOffset:
  """y = R_inf - A·x^(-alpha): rises towards the ceiling R_inf. For metrics."""

  inputs: tuple[str, ...] = ("x",)
  name = "power_offset"
  equation = "R_inf - A·x^(-alpha)"
  parameters = ("R_inf", "A", "alpha")
  positive = (True, True, True)
  least_values = (3,)
  rises = True

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    r_s1, a_s1, alpha_s1 = _columns(theta_si)
    missing_sn = np.exp(np.minimum(a_s1 - r_s1 - alpha_s1 * u_nk[:, 0], 50.0))
    with np.errstate(divide="ignore"):
      return r_s1 + np.log1p(-np.minimum(missing_sn, 1.0))

  def jacobian(self, theta_si, u_nk):
    r_s1, a_s1, alpha_s1 = _columns(theta_si)
    u_n = u_nk[:, 0]
    # Outside its domain the law has no slope; this one points back.
    missing_sn = np.exp(np.minimum(a_s1 - r_s1 - alpha_s1 * u_n, -1e-9))
    slope_sn = -missing_sn / (1 - missing_sn)
    return np.stack(
      [1 - slope_sn, slope_sn, -slope_sn * alpha_s1 * u_n], axis=-1
    )

  def starts(self, u_nk, count):
    unit = cube(count, 2)
    share_s2 = first_shares(unit[:, :1])
    log_alpha_s = first_exponents(unit[:, 1])
    # y must be positive at the smallest x already.
    gap_s = np.minimum(share_s2[:, 1], np.exp(log_alpha_s) * u_nk.min() - 0.05)
    r_s = -np.log1p(-np.exp(gap_s))
    return np.stack([r_s, r_s + gap_s, log_alpha_s], axis=-1)

  def box(self, u_nk, z_n):
    low, high = np.log(EXPONENTS)
    top = z_n.max() + np.log(_CEILING)
    return np.array([[z_n.min(), -2 * FAR, low], [top, 2 * FAR, high]])

  def natural(self, theta_i, *, shift_k, shift_y):
    return PowerOffset().natural(theta_i, shift_k=shift_k, shift_y=shift_y)

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = []
    if high[0]:
      facts.append("R_inf sits on its bound: the points show no ceiling")
    if low[1]:
      facts.append("A is zero to every digit: y does not rise with x")
    return facts + exponent_facts("alpha", low[2], high[2])


def _columns(theta_si):
  """The constant, the amplitude and the exponent, each [s, 1]."""
  return theta_si[:, :1], theta_si[:, 1:2], np.exp(theta_si[:, 2:3])

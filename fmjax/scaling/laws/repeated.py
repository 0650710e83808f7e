"""The law of data seen more than once.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import dataclasses

import numpy as np

from fmjax.scaling.laws.form import cube, exp, on_edge
from fmjax.scaling.laws.surfaces import Chinchilla

_SURFACE = Chinchilla()
# Half-lives, in repetitions: outside, the first repetition is worth nothing, or
# the thousandth as much as the first.
_HALF_LIVES = (0.05, 1e4)
_FIRST_HALF_LIVES = (0.5, 200.0)
_MANY = 50.0  # log of an excess of parameters whose worth has long saturated


@dataclasses.dataclass(frozen=True)
class DataConstrained:
  """Chinchilla's law of *effective* parameters N' and tokens D'.

  Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6. Of D tokens
  U_D = min(D, unique) are new; the other D/U_D - 1 =: R epochs are worth
  R_D·(1 - exp(-R/R_D)) epochs of new data. In the same way parameters beyond
  U_N = min(N, the compute-optimal N for U_D tokens) lose their worth by R_N.
  """

  inputs = ("params", "tokens", "unique")
  name = "data_constrained"
  equation = (
    "E + A·N'^(-alpha) + B·D'^(-beta),"
    " D' = U_D·(1 + R_D·(1 - exp((1 - D/U_D)/R_D))), U_D = min(D, U),"
    " N' = U_N·(1 + R_N·(1 - exp((1 - N/U_N)/R_N))), U_N = min(N, N_opt(U_D))"
  )
  parameters = (
    *_SURFACE.parameters,
    "R_D",
    "R_N",
  )
  positive = (True,) * 7
  # One corpus, seen for more or fewer epochs, is the ordinary table.
  least_values = (*_SURFACE.least_values, 1)
  rises = False

  def shift(self, log_x_nk):
    shift_k = log_x_nk.mean(0)
    # Tokens and unique tokens are compared with each other: one unit.
    return np.array([shift_k[0], shift_k[1], shift_k[1]])

  def log_y(self, theta_si, u_nk):
    worth_n, worth_d, _ = _effective(theta_si, u_nk)
    return np.log(sum(_terms(theta_si, worth_n, worth_d)))

  def jacobian(self, theta_si, u_nk):
    worth_n, worth_d, by = _effective(theta_si, u_nk)
    e_s1, falls_n_sn, falls_d_sn = _terms(theta_si, worth_n, worth_d)
    y_sn = e_s1 + falls_n_sn + falls_d_sn
    share_n_sn, share_d_sn = falls_n_sn / y_sn, falls_d_sn / y_sn
    alpha_s1, beta_s1 = np.exp(theta_si[:, 3:4]), np.exp(theta_si[:, 4:5])
    # Of y by log N' and log D'.
    down_n_sn, down_d_sn = -share_n_sn * alpha_s1, -share_d_sn * beta_s1
    return np.stack(
      [
        e_s1 / y_sn,
        share_n_sn + down_n_sn * by["a"],
        share_d_sn + down_n_sn * by["b"],
        down_n_sn * (worth_n + by["log_alpha"]),
        down_d_sn * worth_d + down_n_sn * by["log_beta"],
        down_d_sn * by["log_r_d"],
        down_n_sn * by["log_r_n"],
      ],
      axis=-1,
    )

  def starts(self, u_nk, count):
    unit = cube(count, 6)
    low, high = np.log(_FIRST_HALF_LIVES)
    surface_si = _SURFACE.starts(u_nk, count)
    return np.concatenate(
      [surface_si, low + (high - low) * unit[:, 4:]], axis=1
    )

  def box(self, u_nk, z_n):
    low, high = np.log(_HALF_LIVES)
    ends = np.array([[low, low], [high, high]])
    return np.concatenate([_SURFACE.box(u_nk, z_n), ends], axis=1)

  def natural(self, theta_i, *, shift_k, shift_y):
    value_i, slope = np.array(theta_i, float), np.eye(7)
    value_i[:5], slope[:5, :5] = _SURFACE.natural(
      theta_i[:5], shift_k=shift_k, shift_y=shift_y
    )
    return value_i, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = _SURFACE.at_bound(theta_i[:5], box[:, :5])
    for place, name, what in (
      (5, "R_D", "tokens seen again"),
      (6, "R_N", "parameters in excess"),
    ):
      if low[place]:
        facts.append(
          f"{name} sits on its lower bound: {what} are worth nothing"
        )
      if high[place]:
        facts.append(
          f"{name} sits on its upper bound: {what} never lose their worth here"
        )
    return facts


def optimal_log_params(theta_si, log_tokens_sn):
  """Log of the compute-optimal N for so many tokens, both centered, [s, n].

  At the optimum under a fixed product N·D, alpha·A·N^(-alpha) equals
  beta·B·D^(-beta); centering cancels out of that equation.
  """
  a_s1, b_s1, log_alpha_s1, log_beta_s1 = (
    theta_si[:, i : i + 1] for i in range(1, 5)
  )
  return (
    log_alpha_s1 + a_s1 - log_beta_s1 - b_s1
    + np.exp(log_beta_s1) * log_tokens_sn
  ) / np.exp(log_alpha_s1)  # fmt: skip


def _terms(theta_si, worth_n_sn, worth_d_sn):
  e_s1, a_s1, b_s1 = (theta_si[:, i : i + 1] for i in range(3))
  alpha_s1, beta_s1 = np.exp(theta_si[:, 3:4]), np.exp(theta_si[:, 4:5])
  return (
    np.exp(e_s1),
    # Far from any optimum, N_opt may lie beyond what exp can hold.
    exp(a_s1 - alpha_s1 * worth_n_sn),
    exp(b_s1 - beta_s1 * worth_d_sn),
  )


def _effective(theta_si, u_nk):
  """Log N' and log D', [s, n], and what moves them."""
  u_n, d_n, unique_n = u_nk.T
  alpha_s1, beta_s1 = np.exp(theta_si[:, 3:4]), np.exp(theta_si[:, 4:5])
  new_n = np.minimum(d_n, unique_n)
  gain_sn, _, by_r_d_sn = _saturated(np.expm1(d_n - new_n), theta_si[:, 5:6])
  worth_d_sn = new_n + gain_sn

  enough_sn = optimal_log_params(theta_si, new_n)
  excess_sn = np.minimum(np.maximum(u_n - enough_sn, 0), _MANY)
  gain_sn, by_excess_sn, by_r_n_sn = _saturated(
    np.expm1(excess_sn), theta_si[:, 6:7]
  )
  worth_n_sn = np.minimum(u_n, enough_sn) + gain_sn
  # Of log N' by log N_opt: none where there are parameters too few.
  by_enough_sn = np.where(
    u_n > enough_sn, 1 - by_excess_sn * np.exp(excess_sn), 0.0
  )
  by = {
    "a": by_enough_sn / alpha_s1,
    "b": -by_enough_sn / alpha_s1,
    "log_alpha": by_enough_sn * (1 / alpha_s1 - enough_sn),
    "log_beta": by_enough_sn * (beta_s1 * new_n - 1) / alpha_s1,
    "log_r_d": by_r_d_sn,
    "log_r_n": by_r_n_sn,
  }
  return worth_n_sn, worth_d_sn, by


def _saturated(repeats, log_r_s1):
  """log(1 + r·(1 - exp(-repeats/r))), its derivatives by repeats and log r."""
  r_s1 = np.exp(log_r_s1)
  left = np.exp(-repeats / r_s1)
  worth = -r_s1 * np.expm1(-repeats / r_s1)
  return (
    np.log1p(worth),
    left / (1 + worth),
    (worth - left * repeats) / (1 + worth),
  )

"""Laws of parameters N and tokens D: Chinchilla's, and its over-training twin.

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

FLOPS_PER_TOKEN_PARAMETER = 6.0  # forward and backward products: C = 6·N·D


@dataclasses.dataclass(frozen=True)
class Chinchilla:
  """y = E + A·N^(-alpha) + B·D^(-beta).

  Hoffmann et al. 2022 (arXiv 2203.15556), equation 2.
  """

  inputs = ("params", "tokens")
  name = "chinchilla"
  equation = "E + A·N^(-alpha) + B·D^(-beta)"
  parameters = ("E", "A", "B", "alpha", "beta")
  positive = (True,) * 5
  least_values = (3, 3)  # two show a slope, but no floor apart from it
  rises = False

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    return np.log(sum(self._terms(theta_si, u_nk)))

  def jacobian(self, theta_si, u_nk):
    e_s1, falls_n_sn, falls_d_sn = self._terms(theta_si, u_nk)
    y_sn = e_s1 + falls_n_sn + falls_d_sn
    alpha_s1, beta_s1 = np.exp(theta_si[:, 3:4]), np.exp(theta_si[:, 4:5])
    jacobian = np.empty((*y_sn.shape, 5))
    jacobian[..., 0] = e_s1 / y_sn
    jacobian[..., 1] = falls_n_sn / y_sn
    jacobian[..., 2] = falls_d_sn / y_sn
    jacobian[..., 3] = -jacobian[..., 1] * alpha_s1 * u_nk[:, 0]
    jacobian[..., 4] = -jacobian[..., 2] * beta_s1 * u_nk[:, 1]
    return jacobian

  def starts(self, u_nk, count):
    unit = cube(count, 4)
    return np.concatenate(
      [first_shares(unit[:, :2]), first_exponents(unit[:, 2:])], axis=1
    )

  def box(self, u_nk, z_n):
    low, high = np.log(EXPONENTS)
    far = 2 * FAR
    return np.array(
      [
        [z_n.min() - FAR, -far, -far, low, low],
        # The floor cannot lie above every measured point.
        [z_n.max(), far, far, high, high],
      ]
    )

  def natural(self, theta_i, *, shift_k, shift_y):
    e, a, b, log_alpha, log_beta = theta_i
    lift_n, lift_d = np.exp([log_alpha, log_beta]) * shift_k[:2]
    value_i = np.array([e, a + lift_n, b + lift_d, log_alpha, log_beta])
    value_i[:3] += shift_y
    slope = np.eye(5)
    slope[1, 3], slope[2, 4] = lift_n, lift_d
    return value_i, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = _term_facts(low)
    facts += exponent_facts("alpha", low[3], high[3])
    return facts + exponent_facts("beta", low[4], high[4])

  def _terms(self, theta_si, u_nk):
    e_s1, a_s1, b_s1 = (theta_si[:, i : i + 1] for i in range(3))
    alpha_s1, beta_s1 = np.exp(theta_si[:, 3:4]), np.exp(theta_si[:, 4:5])
    return (
      np.exp(e_s1),
      exp(a_s1 - alpha_s1 * u_nk[:, 0]),
      exp(b_s1 - beta_s1 * u_nk[:, 1]),
    )


@dataclasses.dataclass(frozen=True)
class OverTraining:
  """y = E + (a·M^eta + b·M^(-eta))·C^(-eta), M = D/N, C = 6·N·D.

  Loss over compute, with tokens per parameter M as the second axis (Gadre et
  al. 2024, arXiv 2403.08540, equation 4). As C/M = 6·N² and C·M = 6·D², it is
  Chinchilla's law with both exponents 2·eta: one parameter fewer, so that
  over-trained runs of one size tell about the others.
  """

  inputs = ("params", "tokens")
  name = "over_training"
  equation = "E + (a·M^eta + b·M^(-eta))·C^(-eta), M = D/N"
  parameters = ("E", "a", "b", "eta")
  positive = (True,) * 4
  least_values = (2, 2)  # the other input may tell the exponent of both
  rises = False

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    return np.log(sum(self._terms(theta_si, u_nk)))

  def jacobian(self, theta_si, u_nk):
    e_s1, falls_n_sn, falls_d_sn = self._terms(theta_si, u_nk)
    y_sn = e_s1 + falls_n_sn + falls_d_sn
    share_n_sn, share_d_sn = falls_n_sn / y_sn, falls_d_sn / y_sn
    log_six, eta_s1 = np.log(FLOPS_PER_TOKEN_PARAMETER), np.exp(theta_si[:, 3:])
    by_eta_sn = share_n_sn * (2 * u_nk[:, 0] + log_six)
    by_eta_sn = by_eta_sn + share_d_sn * (2 * u_nk[:, 1] + log_six)
    return np.stack(
      [e_s1 / y_sn, share_n_sn, share_d_sn, -eta_s1 * by_eta_sn], axis=-1
    )

  def starts(self, u_nk, count):
    unit = cube(count, 3)
    # The terms fall by 2·eta.
    eta_s1 = first_exponents(unit[:, 2:]) - np.log(2)
    return np.concatenate([first_shares(unit[:, :2]), eta_s1], axis=1)

  def box(self, u_nk, z_n):
    low, high = np.log(EXPONENTS)
    far = 2 * FAR
    return np.array(
      [[z_n.min() - FAR, -far, -far, low], [z_n.max(), far, far, high]]
    )

  def natural(self, theta_i, *, shift_k, shift_y):
    e, a, b, log_eta = theta_i
    lift_k = 2 * np.exp(log_eta) * shift_k
    value_i = np.array([e, a + lift_k[0], b + lift_k[1], log_eta])
    value_i[:3] += shift_y
    slope = np.eye(4)
    slope[1:3, 3] = lift_k
    return value_i, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = _term_facts(low, names=("a", "b"))
    return facts + exponent_facts("eta", low[3], high[3])

  def _terms(self, theta_si, u_nk):
    e_s1, a_s1, b_s1 = (theta_si[:, i : i + 1] for i in range(3))
    eta_s1 = np.exp(theta_si[:, 3:])
    log_six = np.log(FLOPS_PER_TOKEN_PARAMETER)
    return (
      np.exp(e_s1),
      exp(a_s1 - eta_s1 * (log_six + 2 * u_nk[:, 0])),
      exp(b_s1 - eta_s1 * (log_six + 2 * u_nk[:, 1])),
    )


def _term_facts(low, *, names=("A", "B")) -> list[str]:
  facts = []
  if low[0]:
    facts.append("E is zero to every digit: the points show no floor")
  for edge, name, what in zip(
    low[1:3], names, ("parameters", "tokens"), strict=True
  ):
    if edge:
      facts.append(
        f"{name} is zero to every digit: y does not fall with {what}"
      )
  return facts

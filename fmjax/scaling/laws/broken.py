"""Power laws whose exponent changes, once or twice, on the way.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import dataclasses

import numpy as np

from fmjax.scaling.laws.form import FAR, cube, exp, first_shares, on_edge

# Widths of a break in logs of x: narrower is a corner, wider is no break.
_WIDTHS = (0.02, 5.0)
_SLOPE = 10.0  # as steep as any power law here


@dataclasses.dataclass(frozen=True)
class BrokenPower:
  """y = a + b·x^(-c0)·prod_i (1 + (x/d_i)^(1/f_i))^(-c_i·f_i).

  Caballero et al. 2022 (arXiv 2210.14891), equation 1: d_i is where a break
  lies, c_i by how much the exponent changes there, f_i how gradually.

  Attributes:
    breaks: 1 or 2.
    inputs: the name of x.
  """

  breaks: int
  inputs: tuple[str, ...] = ("x",)
  rises = None

  @property
  def name(self) -> str:
    return f"broken_power_{self.breaks}"

  @property
  def equation(self) -> str:
    return "a + b·x^(-c0)" + "".join(
      f"·(1 + (x/d{i})^(1/f{i}))^(-c{i}·f{i})" for i in self._numbers
    )

  @property
  def parameters(self) -> tuple[str, ...]:
    of_breaks = (f"{letter}{i}" for i in self._numbers for letter in "cdf")
    return ("a", "b", "c0", *of_breaks)

  @property
  def positive(self) -> tuple[bool, ...]:
    return (True, True, False) + (False, True, True) * self.breaks

  @property
  def least_values(self) -> tuple[int, ...]:
    return (len(self.parameters),)

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    return np.log(np.exp(theta_si[:, :1]) + exp(_falls(theta_si, u_nk)))

  def jacobian(self, theta_si, u_nk):
    term_sn = exp(_falls(theta_si, u_nk))
    floor_s1 = np.exp(theta_si[:, :1])
    share_sn = term_sn / (floor_s1 + term_sn)
    slopes = [1 - share_sn, share_sn, -share_sn * u_nk[:, 0]]
    for c_s1, d_s1, f_s1 in _breaks(theta_si):
      over_sn = (u_nk[:, 0] - d_s1) / f_s1
      bend_sn = np.logaddexp(0.0, over_sn)
      passed_sn = np.exp(over_sn - bend_sn)  # share of the break behind x
      slopes += [
        -share_sn * f_s1 * bend_sn,
        share_sn * c_s1 * passed_sn,
        -share_sn * c_s1 * f_s1 * (bend_sn - passed_sn * over_sn),
      ]
    return np.stack(slopes, axis=-1)

  def starts(self, u_nk, count):
    unit = cube(count, 2 + 3 * self.breaks)
    u_low, u_high = u_nk.min(), u_nk.max()
    share_s2 = first_shares(unit[:, :1])
    parts = [share_s2, 2 * unit[:, 1:2] - 0.5]
    # Breaks begin in order: exchanging two of them changes nothing.
    place_sb = np.sort(unit[:, 2 : 2 + self.breaks], axis=1)
    for i in range(self.breaks):
      shape_s2 = unit[:, 2 + self.breaks + 2 * i :][:, :2]
      parts += [
        2 * shape_s2[:, :1] - 1,
        u_low + (u_high - u_low) * place_sb[:, i : i + 1],
        np.log(0.1) + np.log(20) * shape_s2[:, 1:],
      ]
    return np.concatenate(parts, axis=1)

  def box(self, u_nk, z_n):
    narrow, wide = np.log(_WIDTHS)
    low = [z_n.min() - FAR, -2 * FAR, -_SLOPE]
    high = [z_n.max(), 2 * FAR, _SLOPE]
    # A break outside of the points is not seen in them.
    return np.array(
      [
        low + [-_SLOPE, u_nk.min(), narrow] * self.breaks,
        high + [_SLOPE, u_nk.max(), wide] * self.breaks,
      ]
    )

  def natural(self, theta_i, *, shift_k, shift_y):
    value_i, slope = np.array(theta_i, float), np.eye(len(theta_i))
    value_i[:2] += shift_y
    value_i[1] += theta_i[2] * shift_k[0]
    value_i[4::3] += shift_k[0]
    slope[1, 2] = shift_k[0]
    # Exchanging two breaks changes nothing: they are told in order of x.
    row_i = self._rows(theta_i)
    return value_i[row_i], slope[row_i]

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    facts = []
    if low[0]:
      facts.append("a is zero to every digit: the points show no floor")
    if low[1]:
      facts.append("b is zero to every digit: y does not depend on x")
    for place, edge in enumerate(low | high):
      if place >= 2 and edge:
        side = "upper" if high[place] else "lower"
        name = self.parameters[int(np.argmax(self._rows(theta_i) == place))]
        facts.append(f"{name} sits on its {side} bound")
    return facts

  def _rows(self, theta_i) -> np.ndarray:
    """Places of the parameters with the breaks in the order of x."""
    first_b = 3 + 3 * np.argsort(theta_i[4::3])
    return np.concatenate([np.arange(3), (first_b[:, None] + range(3)).ravel()])

  @property
  def _numbers(self) -> range:
    return range(1, self.breaks + 1)


def _breaks(theta_si):
  """Change of exponent, place and width of each break, each [s, 1]."""
  for first in range(3, theta_si.shape[1], 3):
    c_s1, d_s1, log_f_s1 = np.split(theta_si[:, first : first + 3], 3, axis=1)
    yield c_s1, d_s1, np.exp(log_f_s1)


def _falls(theta_si, u_nk):
  """Log of the term that x moves, [s, n]."""
  log_sn = theta_si[:, 1:2] - theta_si[:, 2:3] * u_nk[:, 0]
  for c_s1, d_s1, f_s1 in _breaks(theta_si):
    log_sn = log_sn - c_s1 * f_s1 * np.logaddexp(
      0.0, (u_nk[:, 0] - d_s1) / f_s1
    )
  return log_sn

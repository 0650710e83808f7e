"""Scaling laws as functions of log x, with everything positive in logs.

The offset forms are fitted through the logarithms of their positive
parameters, so that a term is exp(e) and a sum a log-sum-exp (Hoffmann et al.
2022, appendix D.3): no sign can go wrong, and a step of .1 means the same for
an exponent of .05 and an amplitude of 1e4.

A form works in *centered* logs: u = log x - shift_x, z = log y - shift_y, where
the shifts are the means over the data. Units of x and y therefore change
nothing in the fit. `natural` turns the internal parameters into those of the
equation in the units of the data.

Axes: s starts or draws, n points, i internal parameters.
"""

import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from fmjax import config as config_lib

# Exponents outside are no power law that a table of runs could show: below,
# it is a logarithm over any range; above, one point stands off a constant.
_EXPONENTS = (1e-3, 10.0)
_FAR = 12.0  # exp(-12) = 6e-6 of a typical y is no measurable term
_CEILING = 1e3  # × the best measured metric is no ceiling any more


class Form(Protocol):
  """A law y(x). Stateless."""

  name: ClassVar[str]
  equation: ClassVar[str]
  parameters: ClassVar[tuple[str, ...]]  # as in the equation
  positive: ClassVar[tuple[bool, ...]]  # reported with multiplicative intervals

  def log_y(self, theta_si: np.ndarray, u_n: np.ndarray) -> np.ndarray:
    """Centered log y, [s, n]; -inf where the law is not positive."""
    ...

  def jacobian(self, theta_si: np.ndarray, u_n: np.ndarray) -> np.ndarray:
    """Derivative of `log_y` by theta, [s, n, i]."""
    ...

  def starts(self, u_n: np.ndarray, count: int) -> np.ndarray:
    """About `count` first guesses, [s, i]; always the same ones."""
    ...

  def box(self, u_n: np.ndarray, z_n: np.ndarray) -> np.ndarray:
    """Lowest and highest value of each internal parameter, [2, i]."""
    ...

  def natural(
    self, theta_i: np.ndarray, *, shift_x: float, shift_y: float
  ) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (positive ones as logs), and their derivative by theta."""
    ...

  def at_bound(self, theta_i: np.ndarray, box: np.ndarray) -> list[str]:
    """What is wrong with a solution on the edge of the box, in words."""
    ...


@dataclasses.dataclass(frozen=True)
class Power:
  """y = A·x^(-alpha): a straight line in logs. Falls or rises."""

  name: ClassVar[str] = "power"
  equation: ClassVar[str] = "A·x^(-alpha)"
  parameters: ClassVar[tuple[str, ...]] = ("A", "alpha")
  positive: ClassVar[tuple[bool, ...]] = (True, False)

  def log_y(self, theta_si, u_n):
    a_s1, alpha_s1 = theta_si[:, :1], theta_si[:, 1:]
    return a_s1 - alpha_s1 * u_n

  def jacobian(self, theta_si, u_n):
    one_sn = np.ones((len(theta_si), len(u_n)))
    return np.stack([one_sn, -u_n * one_sn], axis=-1)

  def starts(self, u_n, count):
    alpha_s = np.linspace(-1.0, 1.0, max(count // 8, 3))
    return np.stack([np.zeros_like(alpha_s), alpha_s], axis=-1)

  def box(self, u_n, z_n):
    return np.array([[-_FAR, -_EXPONENTS[1]], [_FAR, _EXPONENTS[1]]])

  def natural(self, theta_i, *, shift_x, shift_y):
    a, alpha = theta_i
    value = np.array([a + alpha * shift_x + shift_y, alpha])
    return value, np.array([[1.0, shift_x], [0.0, 1.0]])

  def at_bound(self, theta_i, box):
    if _on_edge(theta_i, box)[1]:
      return [f"alpha sits on its bound of {_EXPONENTS[1]:g}"]
    return []


@dataclasses.dataclass(frozen=True)
class PowerOffset:
  """y = E + A·x^(-alpha): falls towards the irreducible E. For losses."""

  name: ClassVar[str] = "power_offset"
  equation: ClassVar[str] = "E + A·x^(-alpha)"
  parameters: ClassVar[tuple[str, ...]] = ("E", "A", "alpha")
  positive: ClassVar[tuple[bool, ...]] = (True, True, True)

  def log_y(self, theta_si, u_n):
    e_s1, a_s1, alpha_s1 = _columns(theta_si)
    return np.logaddexp(e_s1, a_s1 - alpha_s1 * u_n)

  def jacobian(self, theta_si, u_n):
    e_s1, a_s1, alpha_s1 = _columns(theta_si)
    term_sn = a_s1 - alpha_s1 * u_n
    share_sn = np.exp(term_sn - np.logaddexp(e_s1, term_sn))
    return np.stack(
      [1 - share_sn, share_sn, -share_sn * alpha_s1 * u_n], axis=-1
    )

  def starts(self, u_n, count):
    share_s, alpha_s = _grid(count)
    # Each guess passes through the middle of the points: E + A = 1 there.
    return np.stack(
      [np.log(share_s), np.log1p(-share_s), np.log(alpha_s)], axis=-1
    )

  def box(self, u_n, z_n):
    low, high = np.log(_EXPONENTS)
    return np.array(
      [
        [z_n.min() - _FAR, -2 * _FAR, low],
        # The floor cannot lie above every measured point.
        [z_n.max(), 2 * _FAR, high],
      ]
    )

  def natural(self, theta_i, *, shift_x, shift_y):
    e, a, log_alpha = theta_i
    alpha = np.exp(log_alpha)
    value = np.array([e + shift_y, a + alpha * shift_x + shift_y, log_alpha])
    slope = np.eye(3)
    slope[1, 2] = alpha * shift_x
    return value, slope

  def at_bound(self, theta_i, box):
    low, high = _on_edge(theta_i, box, sides=True)
    facts = []
    if low[0]:
      facts.append("E is zero to every digit: the points show no floor")
    if low[1]:
      facts.append("A is zero to every digit: y does not fall with x")
    return facts + _exponent_facts(low[2], high[2])


@dataclasses.dataclass(frozen=True)
class RisingOffset:
  """y = R_inf - A·x^(-alpha): rises towards the ceiling R_inf. For metrics.

  Internally y = R_inf·(1 - exp(b - alpha·u)).
  """

  name: ClassVar[str] = "power_offset"
  equation: ClassVar[str] = "R_inf - A·x^(-alpha)"
  parameters: ClassVar[tuple[str, ...]] = ("R_inf", "A", "alpha")
  positive: ClassVar[tuple[bool, ...]] = (True, True, True)

  def log_y(self, theta_si, u_n):
    r_s1, b_s1, alpha_s1 = _columns(theta_si)
    missing_sn = np.exp(np.minimum(b_s1 - alpha_s1 * u_n, 50.0))
    with np.errstate(divide="ignore"):
      return r_s1 + np.log1p(-np.minimum(missing_sn, 1.0))

  def jacobian(self, theta_si, u_n):
    _, b_s1, alpha_s1 = _columns(theta_si)
    missing_sn = np.exp(np.minimum(b_s1 - alpha_s1 * u_n, -1e-9))
    slope_sn = -missing_sn / (1 - missing_sn)
    return np.stack(
      [np.ones_like(slope_sn), slope_sn, -slope_sn * alpha_s1 * u_n], axis=-1
    )

  def starts(self, u_n, count):
    share_s, alpha_s = _grid(count)
    # y must be positive at the smallest x already.
    b_s = np.minimum(np.log1p(-share_s), alpha_s * u_n.min() - 0.05)
    return np.stack([-np.log1p(-np.exp(b_s)), b_s, np.log(alpha_s)], axis=-1)

  def box(self, u_n, z_n):
    low, high = np.log(_EXPONENTS)
    top = z_n.max() + np.log(_CEILING)
    return np.array([[z_n.min(), -2 * _FAR, low], [top, 2 * _FAR, high]])

  def natural(self, theta_i, *, shift_x, shift_y):
    r, b, log_alpha = theta_i
    alpha = np.exp(log_alpha)
    value = np.array(
      [r + shift_y, r + b + alpha * shift_x + shift_y, log_alpha]
    )
    slope = np.array([[1.0, 0, 0], [1, 1, alpha * shift_x], [0, 0, 1]])
    return value, slope

  def at_bound(self, theta_i, box):
    low, high = _on_edge(theta_i, box, sides=True)
    facts = []
    if high[0]:
      facts.append("R_inf sits on its bound: the points show no ceiling")
    if low[1]:
      facts.append("A is zero to every digit: y does not rise with x")
    return facts + _exponent_facts(low[2], high[2])


FORMS = ("power", "power_offset")


def form(name: str, *, rising: bool = False) -> Form:
  """The law called `name`, for a loss or, if `rising`, for a metric."""
  match name:
    case "power":
      return Power()
    case "power_offset":
      return RisingOffset() if rising else PowerOffset()
    case _:
      raise config_lib.ConfigError(
        f"unknown form {name!r}" + config_lib.suggest(name, list(FORMS))
      )


def _columns(theta_si):
  """e, a and alpha, each [s, 1]."""
  return theta_si[:, :1], theta_si[:, 1:2], np.exp(theta_si[:, 2:3])


def _grid(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Shares of the constant term and exponents, about `count` pairs."""
  side = max(int(np.sqrt(count)), 2)
  # From "no floor" to "all floor", evenly in the odds.
  odds = np.geomspace(1 / 50, 50, side)
  share_s, alpha_s = np.meshgrid(
    odds / (1 + odds), np.geomspace(0.02, 3.0, side), indexing="ij"
  )
  return share_s.ravel(), alpha_s.ravel()


def _on_edge(theta_i, box, *, sides: bool = False):
  margin = 1e-3 * (box[1] - box[0])
  low, high = theta_i <= box[0] + margin, theta_i >= box[1] - margin
  return (low, high) if sides else low | high


def _exponent_facts(low: bool, high: bool) -> list[str]:
  if low:
    return [
      f"alpha sits on its lower bound of {_EXPONENTS[0]:g}: over this range"
      " the points show a logarithm, no power law with an offset"
    ]
  if high:
    return [
      f"alpha sits on its upper bound of {_EXPONENTS[1]:g}: all but the"
      " smallest point lie on a constant"
    ]
  return []

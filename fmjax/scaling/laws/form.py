"""What a scaling law is: a function of logs, with everything positive in logs.

The offset forms are fitted through the logarithms of their positive
parameters, so that a term is exp(e) and a sum a log-sum-exp (Hoffmann et al.
2022, appendix D.3): no sign can go wrong, and a step of .1 means the same for
an exponent of .05 and an amplitude of 1e4.

A form works in *centered* logs: u = log x - shift of x, z = log y - shift of y,
where the shifts are means over the data. Units of x and y therefore change
nothing in the fit. `natural` turns the internal parameters into those of the
equation in the units of the data; with shifts of 0 both are the same numbers.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import scipy.stats

# Exponents outside are no power law that a table of runs could show: below,
# it is a logarithm over any range; above, one point stands off a constant.
EXPONENTS = (1e-3, 10.0)
FAR = 12.0  # exp(-12) = 6e-6 of a typical y is no measurable term
_LARGE = 500.0  # exp of more, and sums of such, are beyond a float
# Exponents at which a search begins: those of published laws, and beyond.
_FIRST_EXPONENTS = (0.03, 2.0)
_FIRST_ODDS = 20.0  # of a falling term against the floor, up and down


class Form(Protocol):
  """A law y(x). Stateless."""

  @property
  def name(self) -> str: ...

  @property
  def equation(self) -> str: ...

  @property
  def inputs(self) -> tuple[str, ...]:
    """Names of x, in the order of their columns."""
    ...

  @property
  def parameters(self) -> tuple[str, ...]:
    """As in the equation."""
    ...

  @property
  def positive(self) -> tuple[bool, ...]:
    """Parameters kept as logs: their intervals are multiplicative."""
    ...

  @property
  def least_values(self) -> tuple[int, ...]:
    """Distinct values of each input below which the law cannot be fitted."""
    ...

  @property
  def rises(self) -> bool | None:
    """Towards a ceiling, or (False) falls to a floor; None: may do either."""
    ...

  def shift(self, log_x_nk: np.ndarray) -> np.ndarray:
    """What is taken from log x, [k]; inputs of one unit share a shift."""
    ...

  def log_y(self, theta_si: np.ndarray, u_nk: np.ndarray) -> np.ndarray:
    """Centered log y, [s, n]; -inf where the law is not positive."""
    ...

  def jacobian(self, theta_si: np.ndarray, u_nk: np.ndarray) -> np.ndarray:
    """Derivative of `log_y` by theta, [s, n, i]."""
    ...

  def starts(self, u_nk: np.ndarray, count: int) -> np.ndarray:
    """About `count` first guesses, [s, i]; always the same ones."""
    ...

  def box(self, u_nk: np.ndarray, z_n: np.ndarray) -> np.ndarray:
    """Lowest and highest value of each internal parameter, [2, i]."""
    ...

  def natural(
    self, theta_i: np.ndarray, *, shift_k: np.ndarray, shift_y: float
  ) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (positive ones as logs), and their derivative by theta."""
    ...

  def at_bound(self, theta_i: np.ndarray, box: np.ndarray) -> list[str]:
    """What is wrong with a solution on the edge of the box, in words."""
    ...


def evaluate(
  form: Form, parameters: Mapping[str, float], x: np.ndarray
) -> np.ndarray:
  """The law with given parameters (as published ones are), [n].

  Args:
    form: the law.
    parameters: a number for each of `form.parameters`.
    x: in the units of the parameters, [n] or [n, k].
  """
  value_i = np.array([parameters[name] for name in form.parameters], float)
  positive_i = np.array(form.positive)
  theta_i = np.where(
    positive_i, np.log(np.where(positive_i, value_i, 1.0)), value_i
  )
  with np.errstate(over="ignore"):
    return np.exp(form.log_y(theta_i[None], np.log(columns(x)))[0])


def columns(x: Sequence[float] | np.ndarray) -> np.ndarray:
  """One input is a column of its own: [n] becomes [n, 1]."""
  x = np.asarray(x, float)
  return x[:, None] if x.ndim == 1 else x


def exp(log: np.ndarray) -> np.ndarray:
  """A term of a law, finite however far a search has gone."""
  return np.exp(np.minimum(log, _LARGE))


def cube(count: int, dimensions: int) -> np.ndarray:
  """Points that fill [0, 1]^dimensions evenly, always the same ones."""
  # The first point of a Halton sequence is 0: a corner.
  sequence = scipy.stats.qmc.Halton(dimensions, scramble=False)
  return sequence.random(count + 1)[1:]


def first_exponents(unit_s: np.ndarray) -> np.ndarray:
  """Logs of exponents at which to start, for numbers in [0, 1]."""
  low, high = np.log(_FIRST_EXPONENTS)
  return low + (high - low) * unit_s


def first_shares(unit_st: np.ndarray) -> np.ndarray:
  """Logs of the floor's and each term's share of y in the middle, [s, t + 1].

  From "no floor" to "all floor", evenly in the logs of the odds. A guess with
  these shares passes through the middle of the points.
  """
  odds_st = (2 * unit_st - 1) * np.log(_FIRST_ODDS)
  odds = np.concatenate([np.zeros((len(odds_st), 1)), odds_st], axis=1)
  return odds - np.log(np.exp(odds).sum(1, keepdims=True))


def on_edge(theta_i: np.ndarray, box: np.ndarray) -> tuple:
  """Which parameters lie on the lower and on the upper edge of the box."""
  margin = 1e-3 * (box[1] - box[0])
  return theta_i <= box[0] + margin, theta_i >= box[1] - margin


def exponent_facts(name: str, low: bool, high: bool) -> list[str]:
  if low:
    return [
      f"{name} sits on its lower bound of {EXPONENTS[0]:g}: over this range"
      " the points show a logarithm, no power law with an offset"
    ]
  if high:
    return [
      f"{name} sits on its upper bound of {EXPONENTS[1]:g}: all but the"
      " smallest point lie on a constant"
    ]
  return []

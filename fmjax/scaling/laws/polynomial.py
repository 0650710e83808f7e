"""Polynomials in logs: the straight line, and the parabola that may turn.

They hold no floor, and are the nulls that a law with one has to beat: the line
where nothing bends, the parabola where more is not always better.

Axes: s starts or draws, n points, k inputs, i internal parameters.
"""

import dataclasses
import itertools

import numpy as np

from fmjax.scaling.laws.form import EXPONENTS, FAR, cube, on_edge

_GREEK = ("alpha", "beta", "gamma", "delta")  # of four inputs at most
_SHORT = {"params": "N", "tokens": "D", "unique": "U", "flops": "C"}
_STEEP = 1e3  # of a log y by a log x, and its square: never met


@dataclasses.dataclass(frozen=True)
class Power:
  """y = A·x^(-alpha), or a product of such powers: a plane in logs."""

  inputs: tuple[str, ...] = ("x",)
  name = "power"
  rises = None

  @property
  def equation(self) -> str:
    if len(self.inputs) == 1:
      return "A·x^(-alpha)"
    return "A·" + "·".join(
      f"{symbol(role)}^(-{greek})"
      for role, greek in zip(self.inputs, _GREEK, strict=False)
    )

  @property
  def parameters(self) -> tuple[str, ...]:
    return ("A", *_GREEK[: len(self.inputs)])

  @property
  def positive(self) -> tuple[bool, ...]:
    return (True, *(False for _ in self.inputs))

  @property
  def least_values(self) -> tuple[int, ...]:
    return (2,) * len(self.inputs)

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    return theta_si[:, :1] - theta_si[:, 1:] @ u_nk.T

  def jacobian(self, theta_si, u_nk):
    jacobian_ni = np.concatenate([np.ones((len(u_nk), 1)), -u_nk], axis=1)
    return np.broadcast_to(jacobian_ni, (len(theta_si), *jacobian_ni.shape))

  def starts(self, u_nk, count):
    # The problem is convex: a few starts show that, and more show no more.
    slope_sk = 2 * cube(max(count // 8, 3), len(self.inputs)) - 1
    return np.concatenate([np.zeros((len(slope_sk), 1)), slope_sk], axis=1)

  def box(self, u_nk, z_n):
    high_i = np.array([FAR, *(EXPONENTS[1] for _ in self.inputs)])
    return np.stack([-high_i, high_i])

  def natural(self, theta_i, *, shift_k, shift_y):
    slope = np.eye(len(theta_i))
    slope[0, 1:] = shift_k
    return slope @ theta_i + np.eye(len(theta_i))[0] * shift_y, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    return [
      f"{name} sits on its bound of {EXPONENTS[1]:g}"
      for name, edge in zip(self.parameters, low | high, strict=True)
      if edge and name != "A"
    ]


@dataclasses.dataclass(frozen=True)
class Quadratic:
  """log y is a quadratic polynomial of the logs of one or two inputs.

  The non-monotone null: a law that can only fall must predict unseen points
  better than this one, or the points do not fall.
  """

  inputs: tuple[str, ...] = ("x",)
  name = "quadratic"
  rises = None

  @property
  def equation(self) -> str:
    factors = ["", *(f"·{'·'.join(_logs(term))}" for term in self._terms)]
    return "log y = " + " + ".join(
      name + factor
      for name, factor in zip(self.parameters, factors, strict=True)
    )

  @property
  def parameters(self) -> tuple[str, ...]:
    return ("c", *("c_" + "".join(map(symbol, t)) for t in self._terms))

  @property
  def positive(self) -> tuple[bool, ...]:
    return (False,) * len(self.parameters)

  @property
  def least_values(self) -> tuple[int, ...]:
    return (3,) * len(self.inputs)

  def shift(self, log_x_nk):
    return log_x_nk.mean(0)

  def log_y(self, theta_si, u_nk):
    return theta_si @ self._design(u_nk).T

  def jacobian(self, theta_si, u_nk):
    design_ni = self._design(u_nk)
    return np.broadcast_to(design_ni, (len(theta_si), *design_ni.shape))

  def starts(self, u_nk, count):
    # Convex, as for Power.
    return 2 * cube(max(count // 8, 3), len(self.parameters)) - 1

  def box(self, u_nk, z_n):
    return np.array([[-_STEEP], [_STEEP]]) * np.ones(len(self.parameters))

  def natural(self, theta_i, *, shift_k, shift_y):
    """Expands (log x - shift) in powers of log x."""
    slope = np.eye(len(theta_i))
    place = {term: i for i, term in enumerate(self._terms, start=1)}
    shift = dict(zip(self.inputs, shift_k, strict=True))
    for term, i in place.items():
      constant = np.prod([-shift[role] for role in term])
      slope[0, i] = constant
      if len(term) == 2:
        for kept, moved in (term, term[::-1]):
          slope[place[(kept,)], i] -= shift[moved]
    value_i = slope @ theta_i
    value_i[0] += shift_y
    return value_i, slope

  def at_bound(self, theta_i, box):
    low, high = on_edge(theta_i, box)
    return [
      f"{name} sits on its bound of {_STEEP:g}"
      for name, edge in zip(self.parameters, low | high, strict=True)
      if edge
    ]

  @property
  def _terms(self) -> list[tuple[str, ...]]:
    """Inputs of each term but the constant: (N,), (D,), (N, N), (N, D), ..."""
    squares = itertools.combinations_with_replacement(self.inputs, 2)
    return [*((role,) for role in self.inputs), *squares]

  def _design(self, u_nk):
    u = dict(zip(self.inputs, u_nk.T, strict=True))
    terms = [np.prod([u[role] for role in term], 0) for term in self._terms]
    return np.stack([np.ones(len(u_nk)), *terms], axis=1)


def symbol(role: str) -> str:
  """The letter of an input in equations."""
  return _SHORT.get(role, role)


def _logs(term: tuple[str, ...]) -> list[str]:
  return [f"log {symbol(role)}" for role in term]

"""Tables on surfaces with known constants, for the tests of fits."""

import numpy as np

from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.laws.surfaces import Chinchilla

SURFACE = Chinchilla()
# Hoffmann et al. 2022, equation 10.
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
EXPONENTS = ("alpha", "beta")


def design(*, sizes: int = 12, data_sizes: int = 20) -> np.ndarray:
  """Sizes × data sizes over the ranges of Hoffmann et al., [n, 2]."""
  n, d = np.meshgrid(
    np.geomspace(4e7, 1.6e10, sizes), np.geomspace(2e9, 5e11, data_sizes)
  )
  return np.stack([n.ravel(), d.ravel()], axis=1)


def losses(x: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
  draw = np.random.default_rng(seed).normal(size=len(x))
  return evaluate(SURFACE, HOFFMANN, x) * np.exp(noise * draw)

"""Functions timed in turn, so that a noisy machine is noisy to all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def alternate(
  calls: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, float]:
  """Median seconds of each call, results awaited.

  In each turn a call is made twice and the second counts, as in a loop: the
  first finds the caches and the memory that another left.
  """
  taken: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      jax.block_until_ready(call())
      began = time.perf_counter()
      jax.block_until_ready(call())
      taken[name].append(time.perf_counter() - began)
  return {name: statistics.median(times) for name, times in taken.items()}

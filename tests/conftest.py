"""What every test shares: eight virtual CPU devices."""

import os

# Before jax is imported anywhere: devices are counted once.
os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=8"
  # Tests compile far more than they compute.
  " --xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["data_fixtures"]


@pytest.fixture(autouse=True)
def _no_compiled_programs_of_others():
  """`fmjax train` tells jax where to keep them: not for the next test."""
  yield
  if jax.config.jax_compilation_cache_dir is not None:
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()

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

jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["data_fixtures"]

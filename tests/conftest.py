"""What every test shares: eight virtual CPU devices."""

import os

# Before jax is imported anywhere: devices are counted once.
os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=8"
  # Tests compile far more than they compute.
  " --xla_llvm_disable_expensive_passes=true"
  " --xla_backend_optimization_level=0"
  # Of the two ways to write a fused loop the older takes half as long.
  " --xla_cpu_use_fusion_emitters=false"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Where it configures logging, which is when it is imported, all handlers that
# exist are closed; absl's takes the stream along in which pytest captures.
os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

pytest_plugins = ["data_fixtures"]


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory) -> str:
  """Folder of compiled programs: equal ones of different tests are made once.

  Workers that run side by side share it.
  """
  base = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    base = base.parent
  _keep_programs(str(base / "compiled"))
  return str(base / "compiled")


@pytest.fixture(autouse=True)
def _no_compiled_programs_elsewhere(compiled):
  """`fmjax train` tells jax where to keep them: not for the next test."""
  yield
  _keep_programs(compiled)


def _keep_programs(folder: str) -> None:
  if jax.config.jax_compilation_cache_dir != folder:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()

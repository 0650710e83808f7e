"""Every benchmark, one after the other: what `make bench` runs.

Those that need the peer are left out where `make bench-peers` has not been run;
with it they take hours.
"""

import pathlib
import subprocess
import sys

from experiments.bench import sides

WITH_GPU = ("gpu",)
# The longest last.
WITH_PEER = (
  "evaluation",
  "train_throughput",
  "time_to_quality",
  "peer_quality",
)


def everywhere() -> list[str]:
  """Every module of this folder that needs neither, but for the workers."""
  modules = pathlib.Path(__file__).parent.glob("[!_]*.py")
  return sorted(
    path.stem
    for path in modules
    if "\ndef main(" in path.read_text()
    and not path.stem.endswith("_worker")
    and path.stem not in WITH_GPU + WITH_PEER
  )


def backend() -> str:
  """JAX's, asked in another process: this one must not hold a GPU's memory."""
  ask = "import jax; print(jax.default_backend())"
  done = subprocess.run(
    [sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True
  )
  return done.stdout.strip()


def main() -> None:
  names = everywhere()
  if backend() == "gpu":
    names += WITH_GPU
  else:
    print(f"without a GPU: no {', '.join(WITH_GPU)}", file=sys.stderr)
  if sides.PEER_PYTHON.exists():
    names += WITH_PEER
  else:
    print(
      f"without a peer (`make bench-peers`): no {', '.join(WITH_PEER)}",
      file=sys.stderr,
    )
  failed = []
  for name in names:
    print(f"== {name}", file=sys.stderr)
    command = [sys.executable, "-m", f"experiments.bench.{name}"]
    if subprocess.run(command).returncode:
      failed.append(name)
  if failed:
    sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
  main()

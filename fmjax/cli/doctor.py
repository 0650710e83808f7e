"""Can this machine run fmjax, and which data sets does it have?"""

import importlib.metadata
import os
import pathlib
import platform
import shutil
from typing import Any

import jax

from fmjax.cli.terminal import Terminal
from fmjax.data.readers import raw

_PACKAGES = (
  "fmjax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "ibis-framework",
  "duckdb",
  "pyarrow",
  "array-record",
  "numpy",
  "scipy",
  "tensorboard",
  "matplotlib",
)
_GIB = 1 << 30


def examine() -> dict[str, Any]:
  """Versions, devices, memory, data sets, and what is missing in words."""
  versions: dict[str, str | None] = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  devices = [
    {"platform": device.platform, "kind": device.device_kind}
    for device in jax.devices()
  ]
  page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
  data = _data_sets()
  missing = [
    f"{name} is not installed: pip install '.[analysis]' draws figures"
    for name, version in versions.items()
    if version is None
  ]
  if shutil.which("nvidia-smi") and jax.default_backend() == "cpu":
    missing.append(
      "there is an NVIDIA GPU that JAX does not see: pip install '.[cuda13]'"
    )
  missing += [
    f"{entry['name']} is in no {entry['path']}: {entry['remedy']}"
    for entry in data
    if not entry["found"]
  ]
  return {
    "versions": versions,
    "devices": devices,
    "cores": os.cpu_count(),
    "memory_gib": round(page * pages / _GIB, 1),
    "disk_free_gib": round(shutil.disk_usage(".").free / _GIB, 1),
    "data": data,
    "missing": missing,
  }


def show(found: dict[str, Any], terminal: Terminal) -> None:
  terminal.table(
    ("package", "version"),
    [(name, version or "-") for name, version in found["versions"].items()],
  )
  kinds = sorted({device["kind"] for device in found["devices"]})
  terminal.show(
    f"{len(found['devices'])} × {', '.join(kinds)} · {found['cores']} cores ·"
    f" {found['memory_gib']} GiB of memory ·"
    f" {found['disk_free_gib']} GiB of disk free"
  )
  terminal.table(
    ("data set", "found in"),
    [(d["name"], d["path"] if d["found"] else "-") for d in found["data"]],
  )
  for sentence in found["missing"]:
    terminal.show(f"missing: {sentence}")


def _data_sets() -> list[dict[str, Any]]:
  shipped, root = raw.shipped_root(), raw.data_root()
  download = f"download it from its publisher into {root}"
  places: list[tuple[str, pathlib.Path, str]] = [
    (name, shipped / name, "use a source checkout of fmjax")
    for name in ("movietweetings", "kuairand-pure")
  ]
  places += [
    (name, root / name, download) for name in ("movielens-1m", "globo")
  ]
  return [
    {
      "name": name,
      "path": str(path),
      "found": path.is_dir() and any(path.iterdir()),
      "remedy": remedy,
    }
    for name, path, remedy in places
  ]

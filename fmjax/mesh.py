"""The device mesh, and the one table that says which array axis lies where.

Every sharding in fmjax is written in logical axes ("rows", "vocabulary", …);
`spec` translates them. Axis types are explicit: a sharding is part of an
array's type, and XLA never has to guess.
"""

import contextlib

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fmjax.config import ConfigError

# Rows of a batch (and the tokens made of them) spread over "data", feed-forward
# units over "model". Rows of item and metadata tables spread over every device:
# they are most of the parameters, and column-sharded tables force XLA to
# rematerialize them whole.
LOGICAL_AXES: dict[str, str | tuple[str, ...] | None] = {
  "rows": "data",
  "tokens": "data",
  "vocabulary": ("model", "data"),
  "candidates": "model",
  "feed_forward": "model",
  "layers": None,
}


def make_mesh(*, data: int = 1, model: int = 1) -> jax.sharding.Mesh:
  """The ("data", "model") mesh over the first data × model devices."""
  devices = jax.devices()
  if data * model > len(devices):
    raise ConfigError(
      f"run.mesh_data={data} × run.mesh_model={model} needs {data * model}"
      f" devices, but JAX sees {len(devices)}; lower one of the two"
    )
  return jax.make_mesh(
    (data, model),
    ("data", "model"),
    axis_types=(AxisType.Explicit, AxisType.Explicit),
    devices=devices[: data * model],
  )


def use(mesh: jax.sharding.Mesh) -> contextlib.AbstractContextManager:
  """Enters the mesh: annotated parameters and lookups need one in scope."""
  return jax.set_mesh(mesh)


def spec(*logical: str | None) -> PartitionSpec:
  """The partition of an array whose axes are named `logical`."""
  axes = []
  for name in logical:
    if name is not None and name not in LOGICAL_AXES:
      raise KeyError(f"{name!r} is no logical axis of {sorted(LOGICAL_AXES)}")
    axes.append(LOGICAL_AXES[name] if name else None)
  used = [
    axis
    for entry in axes
    if entry is not None
    for axis in (entry if isinstance(entry, tuple) else (entry,))
  ]
  if len(used) != len(set(used)):
    raise ValueError(f"axes {logical} collide on the mesh: {axes}")
  return PartitionSpec(*axes)


def shard_batch(batch, mesh: jax.sharding.Mesh):
  """Puts this process's rows of a host batch on its devices, over "data"."""
  sharding = NamedSharding(mesh, spec("rows"))

  def put(array: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, array)

  return jax.tree.map(put, batch)

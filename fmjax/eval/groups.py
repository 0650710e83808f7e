"""Items in groups: the values of a metadata field, such as genres."""

import dataclasses
from collections.abc import Collection

import numpy as np

from fmjax.data.catalog import Catalog
from fmjax.data.schema import DataSpec, Encoded, Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
  """Which item belongs to which groups.

  An item with k values belongs to each of them by 1/k; one without any has a
  group of its own kind, 0.

  Attributes:
    code_vw: int32, groups of an item; 0 is "no value", and pads.
    part_vw: how much it belongs to each: 1 in all, 0 on padding and row 0.
    size: groups, codes that nobody has included.
  """

  code_vw: np.ndarray
  part_vw: np.ndarray
  size: int

  def mass(self, weight_v: np.ndarray) -> np.ndarray:
    """Sum of the items' weights in every group, [size]."""
    return np.bincount(
      self.code_vw.reshape(-1),
      weights=(weight_v[:, None] * self.part_vw).reshape(-1),
      minlength=self.size,
    )

  def mean(self, of_group_ni: np.ndarray) -> np.ndarray:
    """Mean over the groups of each item, [n, v]; row 0 has 0."""
    mean_nv = np.zeros((len(of_group_ni), len(self.code_vw)))
    for code_v, part_v in zip(self.code_vw.T, self.part_vw.T, strict=True):
      mean_nv += of_group_ni[:, code_v] * part_v
    return mean_nv


def first_field(spec: DataSpec, kinds: Collection[Kind]) -> Encoded | None:
  """The first metadata field of one of the kinds."""
  return next((e for e in spec.metadata if e.feature.kind in kinds), None)


def groups_of(catalog: Catalog, field: Encoded | None) -> Groups:
  """By a categorical field or a bag; without a field, one group for all."""
  if field is None:
    code_vw, size = np.zeros((len(catalog), 1), np.int32), 1
  else:
    code_vw, size = catalog.metadata[field.feature.name], field.size
    code_vw = code_vw.reshape(len(catalog), -1)
  held_vw = code_vw > 0
  held_vw[:, 0] |= ~held_vw.any(axis=1)
  part_vw = held_vw / held_vw.sum(axis=1, keepdims=True)
  part_vw[0] = 0
  return Groups(code_vw=code_vw, part_vw=part_vw, size=size)

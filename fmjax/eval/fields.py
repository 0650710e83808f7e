"""What the heads of a model tell: fields of a token, or of its item."""

import dataclasses

import numpy as np

from fmjax.config import ConfigError, suggest
from fmjax.data.catalog import Catalog
from fmjax.data.decoded import Histories
from fmjax.data.encode import FIRST_VALUE
from fmjax.data.schema import Kind
from fmjax.data.store import Prepared
from fmjax.model.recommender import Recommender


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """What a head tells.

  Attributes:
    name: of a post-action feature, or of a field of the metadata.
    kind: categorical, bag or numeric.
    of_item: it is a field of the item.
    first: the code of class 0; what lies below is no class.
    with_none: class 0 is what has no known value.
  """

  name: str
  kind: Kind
  of_item: bool
  first: int = FIRST_VALUE
  with_none: bool = False

  def size(self, prepared: Prepared) -> int:
    """Classes."""
    spec = prepared.spec
    fields = spec.metadata if self.of_item else spec.features
    (size,) = (f.size for f in fields if f.feature.name == self.name)
    return size - self.first

  def numbers(
    self, log: Histories, catalog: Catalog, user: np.ndarray, token: np.ndarray
  ) -> np.ndarray:
    """Values of tokens, float32 [n]; NaN: missing."""
    columns, first = log.read(user)
    row = first + token
    if self.of_item:
      return catalog.metadata[self.name][columns["item"].take(row)]
    return columns[self.name].take(row)

  def classes(
    self, log: Histories, catalog: Catalog, user: np.ndarray, token: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """(class_nw, part_nw) of tokens: parts are 1 in all, or 0: none known."""
    columns, first = log.read(user)
    row = first + token
    if self.of_item:
      code = catalog.metadata[self.name][columns["item"].take(row)]
    else:
      code = columns[self.name].take(row, axis=0)
    code_nw = code if code.ndim == 2 else code[:, None]  # of no token, too
    class_nw = code_nw.astype(np.int64) - self.first
    if self.with_none:
      class_nw = np.maximum(class_nw, 0)
    part_nw = (class_nw >= 0).astype(np.float64)
    if self.kind is Kind.BAG and not self.of_item:
      part_nw *= columns[f"{self.name}_count"].take(row, axis=0)
    total_n1 = part_nw.sum(axis=1, keepdims=True)
    part_nw = np.divide(
      part_nw, total_n1, where=total_n1 > 0, out=np.zeros_like(part_nw)
    )
    return np.maximum(class_nw, 0), part_nw


def head_of(model: Recommender, name: str) -> Field:
  """The field that a head of the model tells.

  Raises:
    ConfigError: the model has no head of that name.
  """
  fields: dict[str, Field] = {}
  if model.auxiliary is not None:
    for field, source in model.auxiliary.targets:
      feature = field.feature
      fields[feature.name] = Field(
        name=feature.name, kind=feature.kind, of_item=source == "item"
      )
  if model.hierarchy is not None:
    single = model.hierarchy.single
    fields[model.hierarchy.name] = Field(
      name=model.hierarchy.name,
      kind=Kind.CATEGORICAL if single else Kind.BAG,
      of_item=True,
      # Items without a known value are a class of their own.
      first=FIRST_VALUE - single,
      with_none=single,
    )
  if not fields:
    raise ConfigError(
      f"this run has no head {name!r}: it predicts items alone; train one with"
      " model.auxiliary or model.hierarchy"
    )
  if name not in fields:
    raise ConfigError(
      f"{name!r} is no head of this run, which has {', '.join(fields)}"
      + suggest(name, list(fields))
    )
  return fields[name]

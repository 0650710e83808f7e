"""Bytes of the item tables that a training step touches.

At a million items this, and no matrix product, is what a step waits for. All
numbers are float32: so are the parameters, whatever activations are.
"""

import dataclasses

from fmjax.config import (
  BinaryCrossEntropy,
  FullSoftmax,
  GeneralizedBce,
  ModelConfig,
  MultiToken,
  Objective,
  SampledSoftmax,
)
from fmjax.data.schema import DataSpec, Encoded, Kind
from fmjax.model import features, items, mixers
from fmjax.scaling import count

_FLOAT = 4  # bytes
# AdamW reads parameters, gradients and two moments, and writes all but the
# gradients; of every row, touched or not.
_UPDATE = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemBytes:
  """Of one step.

  Attributes:
    inputs: rows of the tokens' items, read, and their gradients, written.
    candidates: rows that logits are asked of, and their gradients. A full
      softmax reads the whole catalog.
    update: what the optimizer reads and writes.
  """

  inputs: int
  candidates: int
  update: int

  @property
  def total(self) -> int:
    return self.inputs + self.candidates + self.update

  def to_dict(self) -> dict[str, int]:
    return {**dataclasses.asdict(self), "total": self.total}


def item_bytes(
  model: ModelConfig,
  spec: DataSpec,
  *,
  objective: Objective,
  rows: int,
  window: int,
) -> ItemBytes:
  """From the configuration alone; the arguments are those of `step_flops`."""
  tokens = rows * window
  match model.horizons:
    case MultiToken(horizons=horizons):
      asked = horizons * tokens
    case _:
      asked = tokens
  match objective:
    case FullSoftmax():
      candidates = items.padded_rows(spec.items)
    case SampledSoftmax(negatives=q):
      candidates = asked + q
    case BinaryCrossEntropy(negatives=q) | GeneralizedBce(negatives=q):
      candidates = asked * (1 + q)
  row = _FLOAT * _row_width(model, spec)
  tables = count.parameters(model, spec, window=window).item_tables
  return ItemBytes(
    inputs=2 * tokens * row,
    candidates=2 * candidates * row,
    update=_UPDATE * _FLOAT * tables,
  )


def _row_width(model: ModelConfig, spec: DataSpec) -> int:
  """Numbers that are looked up for one item: its id, and its metadata."""
  width = model.width if mixers.has_ids(model.items.mixer) else 0
  fields = mixers.metadata_fields(model.items, spec)
  return width + sum(_looked_up(field) for field in fields)


def _looked_up(field: Encoded) -> int:
  match field.feature.kind:
    case Kind.CATEGORICAL:
      return features.FIELD_WIDTH
    case Kind.BAG:
      return field.values * features.FIELD_WIDTH
    case _:
      return 0

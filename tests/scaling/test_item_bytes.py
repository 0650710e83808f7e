import dataclasses

import pytest

from fmjax.config import (
  BinaryCrossEntropy,
  FullSoftmax,
  IdOnly,
  ItemsConfig,
  MetadataOnly,
  ModelConfig,
  MultiToken,
  SampledSoftmax,
)
from fmjax.data.schema import DataSpec, Encoded, Feature, Kind
from fmjax.scaling import count
from fmjax.scaling.item_bytes import item_bytes

SPEC = DataSpec(
  items=300,
  metadata=(
    Encoded(feature=Feature(name="genres", kind=Kind.BAG), size=9, values=3),
    Encoded(feature=Feature(name="language", kind=Kind.CATEGORICAL), size=4),
    Encoded(feature=Feature(name="minutes", kind=Kind.NUMERIC)),
  ),
)
IDS = ModelConfig(width=24, heads=1, items=ItemsConfig(mixer=IdOnly()))
SUM = ModelConfig(width=24, heads=1)
SIZES = {"rows": 2, "window": 5}  # ten tokens


def of(model, objective, spec=SPEC):
  return item_bytes(model, spec, objective=objective, **SIZES)


def test_a_token_reads_its_row_and_writes_its_gradient():
  assert of(IDS, FullSoftmax()).inputs == 2 * 10 * 24 * 4
  # Two looked up fields of width 16, one of them three times; a number is none.
  assert of(SUM, FullSoftmax()).inputs == 2 * 10 * (24 + 4 * 16) * 4
  metadata = dataclasses.replace(SUM, items=ItemsConfig(mixer=MetadataOnly()))
  assert of(metadata, FullSoftmax()).inputs == 2 * 10 * 4 * 16 * 4


@pytest.mark.parametrize(
  "objective,candidates",
  [
    (FullSoftmax(), 384),  # the catalog, padded
    (SampledSoftmax(negatives=7), 10 + 7),
    (BinaryCrossEntropy(negatives=3), 10 * 4),
  ],
)
def test_candidates_are_the_catalog_or_the_sample(objective, candidates):
  assert of(IDS, objective).candidates == 2 * candidates * 24 * 4


def test_further_horizons_ask_for_further_items():
  two = dataclasses.replace(IDS, horizons=MultiToken(horizons=2))
  objective = SampledSoftmax(negatives=7)
  more = of(two, objective).candidates - of(IDS, objective).candidates
  assert more == 2 * 10 * 24 * 4


def test_only_a_full_softmax_touches_more_in_a_larger_catalog():
  large = dataclasses.replace(SPEC, items=1_000_000)
  sampled = SampledSoftmax(negatives=7)
  assert of(IDS, sampled, large).candidates == of(IDS, sampled).candidates
  full = of(IDS, FullSoftmax(), large)
  assert full.candidates > 2_500 * of(IDS, FullSoftmax()).candidates
  # A dense update touches every row whatever the loss.
  tables = count.parameters(IDS, large, window=5).item_tables
  assert full.update == of(IDS, sampled, large).update == 7 * 4 * tables
  assert full.total == full.inputs + full.candidates + full.update

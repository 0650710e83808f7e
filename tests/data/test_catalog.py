"""Item rows, launch times and metadata."""

import numpy as np
import pytest

from fmjax.config import LeaveLastOut, TemporalSplit
from fmjax.data.catalog import NEVER_US
from fmjax.data.schema import DataError

_T0 = 1_600_000_000
_US = 1_000_000


def _event(user, item, second):
  return {"user_id": user, "item_id": item, "timestamp": _T0 + second}


# Items in the order c, a, b, d; the last third is held out, and d in it.
_EVENTS = [
  *(_event("u", item, n) for n, item in enumerate("cabcab")),
  *(_event("v", item, 6 + n) for n, item in enumerate("bd")),
]
_SPLIT = TemporalSplit(validation=0.125, test=0.125)


def test_rows_follow_the_first_event_and_unseen_items_come_last(prepared_of):
  items = [{"item_id": "z"}, {"item_id": "y"}, {"item_id": "a"}]
  catalog = prepared_of(_EVENTS, items=items, split=_SPLIT).catalog
  assert catalog.item_ids.tolist() == ["", "c", "a", "b", "d", "y", "z"]
  assert catalog.train_count_v.tolist() == [0, 2, 2, 2, 0, 0, 0]
  first_seen = (catalog.first_seen_us_v[1:5] // _US - _T0).tolist()
  assert first_seen == [0, 1, 2, 7]
  assert (catalog.first_seen_us_v[5:] == NEVER_US).all()
  assert len(catalog) == 7


def test_later_events_only_append_rows(prepared_of):
  before = prepared_of(_EVENTS, split=_SPLIT).catalog
  later = [_event("u", item, 100 + n) for n, item in enumerate("0acz")]
  after = prepared_of(_EVENTS + later, split=_SPLIT).catalog
  known = before.item_ids.tolist()
  assert after.item_ids.tolist()[: len(known)] == known
  assert set(after.item_ids[len(known) :]) == {"0", "z"}


def test_a_launch_is_declared_or_else_the_first_event(prepared_of):
  items = [
    {"item_id": "a", "launch_time": 5 * _US},
    {"item_id": "b", "launch_time": None},
    {"item_id": "z"},
  ]
  catalog = prepared_of(_EVENTS, items=items, split=_SPLIT).catalog
  a, b, z = (catalog.row_of(item) for item in "abz")
  assert catalog.launch_us_v[a] == 5 * _US
  assert catalog.launch_us_v[b] == catalog.first_seen_us_v[b] != NEVER_US
  assert catalog.launch_us_v[z] == NEVER_US
  assert catalog.launch_declared_v[[a, b, z]].tolist() == [True, False, False]


def test_metadata_is_encoded_by_what_trained_items_have(
  prepared_of, every_kind
):
  items = [
    {"item_id": "a", "title": "A", "language": "en", "genre": ["x", "y"],
     "minutes": 9.0, "uploaded": 7 * _US, "text": [2.0, 14.0]},
    {"item_id": "b", "language": "en", "genre": ["y"], "minutes": 99.0},
    {"item_id": "c", "language": "fr", "genre": []},
    # Never trained on: its values are outside the vocabulary.
    {"item_id": "d", "language": "zz", "genre": ["q", "y", "x"],
     "minutes": 1e6, "text": [1e6, 0.0]},
  ]  # fmt: skip
  prepared = prepared_of(_EVENTS, items=items, schema=every_kind, split=_SPLIT)
  catalog = prepared.catalog
  rows = [catalog.row_of(item) for item in "abcd"]
  metadata = {name: values[rows] for name, values in catalog.metadata.items()}
  assert metadata["language"].tolist() == [2, 2, 3, 1]
  # y is in two trained items, x in one; a bag is as wide as theirs.
  assert metadata["genre"].tolist() == [[2, 3], [2, 0], [0, 0], [2, 3]]
  np.testing.assert_allclose(metadata["minutes"][:2], [-1.0, 1.0], rtol=1e-5)
  assert np.isnan(metadata["minutes"][2])
  assert metadata["minutes"][3] > 5
  assert metadata["uploaded"].tolist() == [7, 0, 0, 0]
  # Vectors are in units of √((2² + 14²) / 2) = 10: one scale, of trained items.
  want = [[0.2, 1.4], [0, 0], [0, 0], [1e5, 0]]
  np.testing.assert_allclose(metadata["text"], want, rtol=1e-6)
  assert catalog.titles[rows].tolist() == ["A", "b", "c", "d"]
  for values in catalog.metadata.values():
    assert not values[0].any()
  encoded = {e.feature.name: e for e in prepared.spec.metadata}
  assert (encoded["genre"].size, encoded["genre"].values) == (4, 2)


def test_row_zero_is_reserved(prepared_of):
  catalog = prepared_of(_EVENTS, split=_SPLIT).catalog
  assert catalog.item_ids[0] == catalog.titles[0] == ""
  for name in ("launch_us_v", "first_seen_us_v", "train_count_v"):
    assert getattr(catalog, name)[0] == 0
  with pytest.raises(DataError, match="not in the catalog of 4 items"):
    catalog.row_of("")


def test_an_item_described_twice_is_refused(prepared_of):
  items = [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "a"}]
  with pytest.raises(DataError, match=r"'a' is described 2 times"):
    prepared_of(_EVENTS, items=items, split=_SPLIT)


def test_leave_last_out_counts_training_tokens_only(prepared_of):
  catalog = prepared_of(_EVENTS, split=LeaveLastOut()).catalog
  counts = dict(zip(catalog.item_ids, catalog.train_count_v, strict=True))
  assert counts == {"": 0, "c": 2, "a": 1, "b": 2, "d": 1}

import dataclasses

import numpy as np
import pytest
from test_metrics import make_ranked

from fmjax.eval.slices import slice_names, slices


def test_slices_are_named_by_their_first_and_last_value():
  assert slice_names() == ["0", "1-4", "5-19", "20-99", "100+"]


def test_each_query_is_in_exactly_one_slice_of_each_kind():
  count = np.array([0, 1, 4, 5, 19, 20, 99, 100, 5_000], np.int32)
  ranked = dataclasses.replace(
    make_ranked(np.arange(1, 10)), train_count=count, history_length=count
  )
  result = slices(ranked, draws=10)
  for kind in ("history", "item"):
    sizes = {name: part["queries"] for name, part in result[kind].items()}
    assert sizes == {"0": 1, "1-4": 2, "5-19": 2, "20-99": 2, "100+": 2}
    total = sum(part["mrr"] * part["queries"] for part in result[kind].values())
    assert total == pytest.approx((1 / ranked.rank).sum())


def test_an_empty_slice_has_no_metric():
  result = slices(make_ranked([1, 2]), draws=10)
  assert result["item"]["100+"] == {"queries": 0, "users": 0}

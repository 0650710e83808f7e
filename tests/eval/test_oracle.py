"""The oracle of a generated log: what is written is what was drawn."""

import numpy as np
import pytest

from fmjax.config import LeaveLastOut, RunTokens, Synthetic
from fmjax.data.prepare import prepare
from fmjax.data.readers import synthetic
from fmjax.eval.baselines import baselines

_SOURCE = Synthetic(events=6_000, users=40, items=120, seed=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  return prepare(_SOURCE, tmp_path_factory.mktemp("data") / "synthetic")


def test_each_token_has_the_truth_of_its_event(prepared):
  events, written = synthetic.block(_SOURCE, 0)
  assert written is not None
  by_time = {
    (str(event["user_id"]), event["timestamp"]): (event, row)
    for event, row in zip(events.to_pylist(), written.to_pylist(), strict=True)
  }
  truth = prepared.truth().to_pylist()
  assert len(truth) == _SOURCE.events
  assert list(truth[0]) == [
    "user",
    "history_length",
    "log_p",
    "log_p_ageless",
    "log_p_recent",
    "log_p_action",
    "rank",
    "top10",
  ]
  rows = iter(truth)
  row_of = prepared.catalog.row_of
  for user, user_id in enumerate(prepared.user_ids):
    history = prepared.history(user)
    for place, time_us in enumerate(history["start_us"]):
      row = next(rows)
      assert (row["user"], row["history_length"]) == (user, place)
      event, said = by_time[user_id, int(time_us)]
      assert history["item"][place] == row_of(str(event["item_id"]))
      assert row["log_p"] == said["log_p"]
      if place == 20:  # a few are enough: rows are looked up one by one
        likeliest = [row_of(str(v)) for v in said["top10"]]
        assert row["top10"] == likeliest


def test_no_baseline_is_better_than_the_oracle(prepared):
  results = baselines(prepared, split="test", targets="all")
  nll = {name: float(r.nll.mean()) for name, r in results.items()}
  assert nll["oracle"] == min(nll.values())
  hits = {name: (r.rank <= 10).mean() for name, r in results.items()}
  assert hits["oracle"] == max(hits.values())


def test_the_oracle_answers_the_queries_of_the_others(prepared):
  results = baselines(prepared, split="validation")
  oracle, other = results["oracle"], results["popularity_all"]
  np.testing.assert_array_equal(oracle.user, other.user)
  assert oracle.protocol == other.protocol
  # A target among its first ten stands at its rank; ties come later.
  for rank, item, top10 in zip(
    oracle.rank, oracle.item, oracle.top10_nk, strict=True
  ):
    if rank <= 10:
      assert item in top10[:rank]
    else:
      assert item not in top10[: min(rank - 1, 10)] or rank == 11


def test_tokens_of_several_events_have_no_truth(tmp_path):
  merged = prepare(_SOURCE, tmp_path / "run", granularity=RunTokens())
  assert merged.truth() is None
  assert "oracle" not in baselines(merged, split="test")


def test_a_split_by_user_has_its_oracle(tmp_path):
  prepared = prepare(_SOURCE, tmp_path / "last", split=LeaveLastOut())
  oracle = baselines(prepared, split="test")["oracle"]
  assert len(oracle.user) == _SOURCE.users
  assert np.isfinite(oracle.nll).all()

"""Items that training never learns are new to all that learns or counts."""

import dataclasses

import numpy as np
import pytest

from fmjax.config import (
  ConfigError,
  DataConfig,
  Experiment,
  HeldOutItems,
  RecencyWeighted,
  Synthetic,
  UniformRecency,
  override,
  validate,
)
from fmjax.data.decoded import histories
from fmjax.data.held_out import drawn, hold_out
from fmjax.data.prepare import ensure_prepared
from fmjax.data.windows import tokens_per_epoch, training_batches
from fmjax.eval import static
from fmjax.eval.baselines import baselines
from fmjax.eval.timeline import timeline
from fmjax.scaling.sweep import plan

DATA = DataConfig(source=Synthetic(events=4_000, users=150, items=80))
HELD = dataclasses.replace(DATA, held_out=HeldOutItems(share=0.3))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(tmp_path_factory.mktemp("prepared")))
    yield


@pytest.fixture(scope="module")
def whole():
  return ensure_prepared(DATA)


@pytest.fixture(scope="module")
def held():
  return ensure_prepared(HELD)


def test_what_is_held_out_is_a_function_of_the_id_and_the_seed():
  ids = np.array(["", *map(str, range(2_000))], object)
  one = drawn(ids, share=0.1, seed=0)
  assert not one[0]
  assert one.mean() == pytest.approx(0.1, abs=0.02)
  order = np.random.default_rng(0).permutation(np.arange(1, len(ids)))
  shuffled = np.concatenate([[0], order])
  np.testing.assert_array_equal(
    drawn(ids[shuffled], share=0.1, seed=0), one[shuffled]
  )
  assert (drawn(ids, share=0.1, seed=1) != one).any()
  # More of them are those and others.
  assert (drawn(ids, share=0.2, seed=0) >= one).all()


def batches(prepared, recency):
  stream = training_batches(
    prepared, window=32, stride=32, rows=16, seed=0, recency=recency, steps=8
  )
  return [stream[step] for step in range(8)]


@pytest.mark.parametrize(
  "recency", [UniformRecency(), RecencyWeighted(half_life_days=20.0)]
)
def test_a_held_out_item_is_no_target_and_stays_in_histories(
  whole, held, recency
):
  out_v = held.held_out_v
  assert 0 < out_v.sum() < len(out_v) - 1
  targets = {"whole": 0, "held": 0}
  for plain, batch in zip(
    batches(whole, recency), batches(held, recency), strict=True
  ):
    out_bt = out_v[batch.item_bt]
    assert (plain.weight_bt[out_bt] > 0).any()
    assert not batch.weight_bt[out_bt].any()
    np.testing.assert_array_equal(
      batch.weight_bt[~out_bt] > 0, plain.weight_bt[~out_bt] > 0
    )
    np.testing.assert_array_equal(batch.item_bt, plain.item_bt)
    np.testing.assert_array_equal(
      batch.previous["item"], plain.previous["item"]
    )
    targets["whole"] += (plain.weight_bt > 0).sum()
    targets["held"] += (batch.weight_bt > 0).sum()
  assert 0 < targets["held"] < targets["whole"]


def test_an_epoch_counts_the_targets_that_are_learned(whole, held):
  log = timeline(whole)
  learned = log.target & (log.place < whole.index.train_end[log.user])
  learned &= ~held.held_out_v[log.item]
  assert tokens_per_epoch(held) == learned.sum() < tokens_per_epoch(whole)


def test_weights_by_recency_have_mean_1_over_what_is_learned(held):
  stream = training_batches(
    held,
    window=64,
    stride=64,
    rows=1_000,  # more than an epoch has
    seed=0,
    recency=RecencyWeighted(half_life_days=20.0),
  )
  batch = stream[0]
  # Each user's first windows: every token of an epoch once, then again.
  place = np.stack([batch.user_bt, batch.index_bt], -1)[batch.weight_bt > 0]
  _, first = np.unique(place, axis=0, return_index=True)
  weights = batch.weight_bt[batch.weight_bt > 0][first]
  assert len(weights) == tokens_per_epoch(held)
  assert weights.mean() == pytest.approx(1.0, rel=1e-4)


def test_no_count_knows_a_held_out_item(whole, held):
  out_v = held.held_out_v
  assert (whole.catalog.train_count_v[out_v] > 0).any()
  assert not held.catalog.train_count_v[out_v].any()
  np.testing.assert_array_equal(
    held.catalog.train_count_v[~out_v], whole.catalog.train_count_v[~out_v]
  )
  daily = held.catalog.daily
  assert not daily.events[out_v[daily.item]].any()
  # What it is, it remains: only its numbers are unknown.
  for name, values in held.catalog.metadata.items():
    np.testing.assert_array_equal(values, whole.catalog.metadata[name])


def test_baselines_have_never_met_a_held_out_item(whole, held):
  plain = baselines(whole, split="test", targets="all")
  blind = baselines(held, split="test", targets="all")
  out_n = held.held_out_v[blind["popularity_all"].item]
  assert out_n.any()
  for name in set(plain) - {"oracle"}:
    ours, theirs = blind[name], plain[name]
    # The same questions, of which these are now about unseen items.
    np.testing.assert_array_equal(ours.item, theirs.item)
    assert not ours.train_count[out_n].any()
    assert ours.nll[out_n].mean() > theirs.nll[out_n].mean(), name
  for name in ("popularity_all", "popularity_30d_rolling"):
    assert not held.held_out_v[blind[name].top10_nk[:, 0]].any()


def test_runs_and_results_with_and_without_are_told_apart(whole, held):
  assert whole.checksum != held.checksum
  assert held.checksum == ensure_prepared(HELD).checksum
  assert whole.path == held.path
  experiments = {
    "whole": Experiment(data=DATA),
    "held": Experiment(data=HELD),
    "other": override(Experiment(data=HELD), {"data.held_out.seed": 1}),
  }
  entries = plan.plan(experiments, whole.path.parent / "runs")
  assert len({entry.run_dir.name.rpartition("-")[2] for entry in entries}) == 3
  assert len({entry.prepared.checksum for entry in entries}) == 3


def test_reading_with_items_held_out_leaves_other_readers_alone(whole, held):
  again = ensure_prepared(DATA)
  assert not again.held_out_v.any()
  assert again.checksum == whole.checksum
  columns, _ = histories(held).read(np.array([0]))
  assert (
    columns["item"].shape
    == histories(whole).read(np.array([0]))[0]["item"].shape
  )


def test_what_is_held_out_has_the_popularity_of_its_series(held):
  """Nobody could choose it, however long it was there."""
  popularity_v = static.fit(held, timeline(held)).popularity_v
  series_v = held.catalog.metadata["series"]
  shared = 0
  for series in np.unique(series_v[held.held_out_v]):
    alike_v = held.held_out_v & (series_v == series)
    np.testing.assert_allclose(
      popularity_v[alike_v], popularity_v[alike_v][0], rtol=1e-9
    )
    shared += alike_v.sum() > 1
  assert shared


def test_to_hold_out_everything_is_refused(whole):
  with pytest.raises(ConfigError, match="leaves no item with training events"):
    hold_out(whole, HeldOutItems(share=0.999_999))


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share):
  with pytest.raises(ConfigError, match=r"data\.held_out\.share="):
    validate(
      override(Experiment(), {"data.held_out": HeldOutItems(share=share)})
    )

"""The generated log is what its seed says, at any size."""

import dataclasses
import time

import ibis
import numpy as np
import pyarrow as pa
import pytest

from fmjax.config import Synthetic
from fmjax.data.clean import clean
from fmjax.data.readers import synthetic
from fmjax.data.readers.synthetic_titles import GENRES, LANGUAGES
from fmjax.data.schema import DataError

_SMALL = Synthetic(events=3_000, users=50, items=200, seed=3)
_DAY_US = 86_400_000_000


def test_the_same_seed_gives_the_same_bytes(tmp_path):
  files = [[tmp_path / f"{name}-{i}" for i in range(2)] for name in "abc"]
  synthetic.write(_SMALL, files[0][0], truth=files[0][1])
  synthetic.write(_SMALL, files[1][0], truth=files[1][1])
  synthetic.write(
    dataclasses.replace(_SMALL, seed=4), files[2][0], truth=files[2][1]
  )
  first, again, other = ([file.read_bytes() for file in pair] for pair in files)
  assert first == again
  assert first[0] != other[0]
  assert first[1] != other[1]


def test_events_do_not_depend_on_whether_the_truth_is_asked_for(tmp_path):
  alone, beside = tmp_path / "alone", tmp_path / "beside"
  synthetic.write(_SMALL, alone)
  synthetic.write(_SMALL, beside, truth=tmp_path / "truth")
  assert alone.read_bytes() == beside.read_bytes()


def test_a_block_does_not_depend_on_the_blocks_before_it(monkeypatch):
  monkeypatch.setattr(synthetic, "USERS_AT_ONCE", 20)
  assert synthetic.blocks(_SMALL) == 3
  forward = [synthetic.block(_SMALL, number) for number in (0, 1, 2)]
  backward = [synthetic.block(_SMALL, number) for number in (2, 1, 0)]
  assert forward == backward[::-1]
  events = pa.Table.from_batches([events for events, _ in forward])
  assert events.num_rows == _SMALL.events
  users = events["user_id"].to_numpy()
  assert set(users) == set(range(_SMALL.users))
  same_user = np.diff(users) == 0
  assert (np.diff(events["timestamp"].to_numpy())[same_user] > 0).all()


def test_every_event_and_item_survives_cleaning():
  log = synthetic.read(_SMALL, ibis.duckdb.connect())
  cleaned = clean(log)
  events = cleaned.events.to_pyarrow().to_pandas()
  assert cleaned.events_in == len(events) == 3_000
  assert cleaned.rejected == {}
  assert log.items is not None
  items = log.items.to_pyarrow().to_pylist()
  assert len(items) == 200
  assert set(events.item_id) <= {item["item_id"] for item in items}
  assert {item["language"] for item in items} <= set(LANGUAGES)
  for item in items:
    assert 1 <= len(item["genre"]) <= 3
    assert set(item["genre"]) <= {f"genre-{g}" for g in range(GENRES)}
  assert set(events.device) == {"phone", "tablet", "tv", "laptop"}
  assert set(events.surface) == {"home", "continue", "new", "search"}
  assert set(events.action) == {"trailer", "preview", "play"}
  assert events.completion.between(0, 1).all()
  assert log.truth is not None
  assert len(log.truth.to_pyarrow()) == 3_000


def test_no_title_is_watched_before_its_launch():
  events, _ = synthetic.block(_SMALL, 0)
  launch_us = synthetic.items(_SMALL)["launch_time"].to_numpy()
  item, time_us = events["item_id"].to_numpy(), events["timestamp"].to_numpy()
  assert (time_us >= launch_us[item]).all()
  assert (launch_us > time_us.min()).mean() > 0.2  # launched throughout


def test_new_titles_are_watched_most():
  source = dataclasses.replace(_SMALL, events=20_000)
  events, _ = synthetic.block(source, 0)
  launch_us = synthetic.items(source)["launch_time"].to_numpy()
  launch, item = launch_us // _DAY_US, events["item_id"].to_numpy()
  day = events["timestamp"].to_numpy() // _DAY_US
  age = day - launch[item]
  exposed = np.arange(day.min(), day.max() + 1)[:, None] - launch
  rates = [
    ((age >= low) & (age < high)).sum()
    / ((exposed >= low) & (exposed < high)).sum()
    for low, high in ((0, 3), (7, 14), (30, 4_000))
  ]
  assert rates[0] > 3 * rates[1] > 3 * rates[2]


@pytest.mark.parametrize("items", [1, 3, 5, 20, 33])
def test_any_number_of_items_works(items):
  source = dataclasses.replace(_SMALL, events=300, items=items, users=1)
  events, truth = synthetic.block(source, 0)
  assert truth is not None
  assert set(events["item_id"].to_numpy()) <= set(range(items))
  assert len(synthetic.items(source)) == items
  assert np.isfinite(truth["log_p"].to_numpy()).all()
  assert truth["rank"].to_numpy().max() <= items


@pytest.mark.parametrize("days", [1, 2, 400])
def test_any_number_of_days_works(days):
  source = dataclasses.replace(_SMALL, events=300, days=days)
  events, _ = synthetic.block(source, 0)
  day = (events["timestamp"].to_numpy() - synthetic._START_US) // _DAY_US
  assert day.min() >= 0
  assert day.max() < days


def test_more_users_than_events_leave_some_without():
  source = dataclasses.replace(_SMALL, events=10, users=100)
  events, _ = synthetic.block(source, 0)
  assert events.num_rows == 10


@pytest.mark.parametrize(
  "name", ["events", "users", "items", "days", "profiles"]
)
def test_an_empty_log_is_refused(name):
  source = dataclasses.replace(_SMALL, **{name: 0})
  with pytest.raises(DataError, match=f"{name} = 0 must be positive"):
    synthetic.read(source, ibis.duckdb.connect())


@pytest.mark.parametrize("profiles", [1, 2, 12, 127])
def test_an_account_has_as_many_profiles_as_asked_for(profiles):
  source = dataclasses.replace(_SMALL, events=8_000, users=4, profiles=profiles)
  events, truth = synthetic.block(source, 0)
  found = set(events["profile"].to_pylist())
  assert found == {f"profile-{number}" for number in range(profiles)}
  assert truth is not None
  assert np.isfinite(truth["log_p"].to_numpy()).all()


def test_more_profiles_than_a_byte_counts_are_refused():
  source = dataclasses.replace(_SMALL, profiles=128)
  with pytest.raises(DataError, match="profiles = 128 must be at most 127"):
    synthetic.read(source, ibis.duckdb.connect())


def test_a_log_beyond_2037_is_refused():
  source = dataclasses.replace(_SMALL, days=5_000)
  with pytest.raises(DataError, match="days = 5000 must be at most"):
    synthetic.read(source, ibis.duckdb.connect())


def test_more_events_a_user_than_fit_in_memory_are_refused():
  source = Synthetic(events=10**8, users=2_000)
  with pytest.raises(DataError, match="set users to 40960 or more"):
    synthetic.read(source, ibis.duckdb.connect())


def noise_a_title():
  """The cheapest choice of 10,000 events: a Gumbel number for each title."""
  np.random.default_rng(0).gumbel(size=(10_000, 1_000)).argmax(axis=1)


@pytest.mark.parametrize("with_truth, most", [(True, 3), (False, 1)])
def test_an_event_costs_few_numbers_a_title(with_truth, most):
  source = Synthetic(events=100_000, users=500)

  def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start

  block, noise = [], []
  for _ in range(3):  # the best of three, in turn: others take time too
    block.append(
      seconds(lambda: synthetic.block(source, 0, with_truth=with_truth))
    )
    noise.append(seconds(noise_a_title))
  assert min(block) < most * 10 * min(noise)

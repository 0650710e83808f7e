"""RecTools' answers are read as fmjax's own, and both are compared fairly."""

import dataclasses

import numpy as np
import pytest

from experiments.bench import peer_quality
from fmjax.config import LeaveLastOut, Synthetic
from fmjax.data.prepare import prepare
from fmjax.eval.ranked import TOP, Ranked

FACTS = {"versions": {"rectools": "1.2"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  source = Synthetic(events=1_000, users=40, items=50)
  return prepare(
    source, tmp_path_factory.mktemp("log") / "log", split=LeaveLastOut()
  )


@pytest.fixture
def ours(prepared):
  """The last item of each user, ranked first."""
  columns, offset_u = prepared.histories()
  last = offset_u[1:] - 1
  user = np.arange(len(last))
  return Ranked(
    user=user.astype(np.int32),
    history_length=(np.diff(offset_u) - 1).astype(np.int32),
    item=columns["item"][last].astype(np.int32),
    time_s=(columns["start_us"][last] // 1_000_000).astype(np.int32),
    rank=np.ones(len(last), np.int32),
    nll=np.ones(len(last), np.float32),
    train_count=np.ones(len(last), np.int32),
    top10_nk=np.zeros((len(last), TOP), np.int32),
    catalog_items=prepared.spec.items - 1,
    split="test",
    targets="first",
    seen_filtered=True,
    data_checksum=prepared.checksum,
  )


def answer(path, prepared, ours, ranks):
  """As the peer writes it, the last user first."""
  users = prepared.user_ids[ours.user]
  items = prepared.catalog.item_ids[ours.item]
  lines = [f"{u},{i},{r}" for u, i, r in zip(users, items, ranks, strict=True)]
  path.write_text("\n".join(["user,target,rank", *reversed(lines)]) + "\n")
  return path


def test_the_peer_reads_every_event_in_the_order_of_fmjax(prepared, tmp_path):
  peer_quality.write_events(prepared, tmp_path / "events.txt")
  lines = (tmp_path / "events.txt").read_text().splitlines()
  told: dict[str, list[list[str]]] = {}
  for line in lines:
    user, *event = line.split()
    told.setdefault(user, []).append(event)
  columns, offset_u = prepared.histories()
  assert len(lines) == offset_u[-1]
  for row, user in enumerate(prepared.user_ids):
    of_user = slice(offset_u[row], offset_u[row + 1])
    items = prepared.catalog.item_ids[columns["item"][of_user]]
    seconds = columns["start_us"][of_user] // 1_000_000
    assert told[str(int(user))] == [
      [str(item), str(second)]
      for item, second in zip(items, seconds, strict=True)
    ]


def test_an_answer_is_of_its_query_and_beyond_the_tenth_the_last(
  prepared, ours, tmp_path
):
  ranks = np.arange(len(ours.user)) % 11  # 0: not among the first ten
  path = answer(tmp_path / "test.csv", prepared, ours, ranks)
  theirs = peer_quality.peer_ranked(path, ours, prepared)
  found = np.where(ranks == 0, ours.catalog_items, ranks)
  np.testing.assert_array_equal(theirs.rank, found)
  assert theirs.protocol == ours.protocol
  assert np.isnan(theirs.nll).all()


def test_other_targets_than_ours_are_refused(prepared, ours, tmp_path):
  without_first = ours.where(ours.user > 0)
  path = answer(
    tmp_path / "test.csv", prepared, without_first, without_first.rank
  )
  with pytest.raises(ValueError, match=r"differ in 1 targets.*run again"):
    peer_quality.peer_ranked(path, ours, prepared)


def test_the_summary_pairs_the_means_of_our_seeds_with_the_peer(
  prepared, ours, tmp_path
):
  second = dataclasses.replace(ours, rank=ours.rank + 2)  # NDCG@10 1/2
  ranks = np.zeros(len(ours.user), int)
  path = answer(tmp_path / "test.csv", prepared, ours, ranks)
  theirs = peer_quality.peer_ranked(path, ours, prepared)
  found = peer_quality.summary([ours, second], theirs, FACTS)
  assert found["ours"]["ndcg@10"] == pytest.approx(0.75)
  assert found["peer"]["ndcg@10"] == 0
  assert found["paired_ndcg@10"]["difference"] == pytest.approx(0.75)
  assert found["paired_ndcg@10"]["separates"]
  assert found["peer_version"] == "1.2"
  assert (found["seeds"], found["users"]) == (2, len(ours.user))


def test_without_the_peer_nothing_is_trained(tmp_path):
  with pytest.raises(SystemExit, match="make bench-peers"):
    peer_quality.main(
      ["--runs", str(tmp_path), "--peer-python", str(tmp_path / "python")]
    )
  assert list(tmp_path.iterdir()) == []

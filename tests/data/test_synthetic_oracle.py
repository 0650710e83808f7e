"""The written probabilities are those of the rules, told once more in loops."""

import collections
import dataclasses
import math

import numpy as np
import pytest

from fmjax.config import Synthetic
from fmjax.data.readers import (
  synthetic,
  synthetic_choices,
  synthetic_oracle,
  synthetic_titles,
)
from fmjax.data.readers.synthetic_titles import (
  DEVICES,
  FRESHNESS_F,
  GENRES,
  LANGUAGES,
  LOCALES,
  SURFACES,
)

_DAY_US, _HOUR_US = 86_400_000_000, 3_600_000_000


@pytest.fixture(scope="module", params=[(40, 3), (13, 1)])
def told(request):
  """A small log, and what loops say of each of its events."""
  items, users = request.param
  source = Synthetic(events=260 * users, users=users, items=items, days=40)
  events, truth = synthetic.block(source, 0)
  assert truth is not None
  loops = _Loops(source)
  said = [loops.tell(event) for event in events.to_pylist()]
  # Else there would be no votes: events so far back must be many.
  longest = max(len(history) for history in loops.histories.values())
  assert longest > 2 * synthetic_oracle.RECENT
  return source, truth.to_pylist(), said


class _Loops:
  """The generative model of synthetic.py in plain Python."""

  def __init__(self, source: Synthetic):
    self.titles = synthetic_titles.draw(source)
    self.items = range(source.items)
    self.days = source.days
    self.histories = collections.defaultdict(list)

  def place(self, v):
    return v % self.titles.series, v // self.titles.series

  def weight(self, v, day, f):
    launch = int(self.titles.launch_sk[self.place(v)])
    if day < launch:
      return 0.0
    known = 1 - math.exp(-(day - launch) / 14)
    fresh = math.exp(-(day - launch) / 7)
    quality = float(self.titles.quality_sk[self.place(v)])
    return math.exp(quality * known + float(FRESHNESS_F[f]) * fresh)

  def ageless(self, v, day, f):
    """The mean over as many days as the log has, from its first with v."""
    launch = int(self.titles.launch_sk[self.place(v)])
    first = max(launch, 0)
    span = range(first, first + self.days)
    return (day >= launch) * sum(self.weight(v, d, f) for d in span) / self.days

  def size(self, s):
    """What the titles of a series weigh on the first surface, on the whole."""
    titles = [v for v in self.items if self.place(v)[0] == s]
    return sum(self.ageless(v, 10**6, 0) for v in titles)

  def pull(self, event, s, votes):
    titles = self.titles
    hour = event["timestamp"] // _HOUR_US % 24
    genres = [g for g in range(GENRES) if titles.genres_sg[s, g]]
    wave = sum(
      math.cos(2 * math.pi * (hour - float(titles.peak_g[g])) / 24)
      for g in genres
    ) / len(genres)
    longer = {"phone": -0.4, "tablet": -0.1, "tv": 0.4, "laptop": 0.1}
    length = math.log(float(titles.minutes_s[s]) / 35)
    moment = math.exp(wave + longer[event["device"]] * length)
    alpha = synthetic_oracle.CONCENTRATION
    return moment * (alpha * self.attraction(event, s) + votes)

  def attraction(self, event, s):
    spoken = LANGUAGES[LOCALES.index(event["locale"])]
    parts = [
      float(self.titles.appeal_s[other])
      * math.exp(0.7 * (LANGUAGES[self.titles.language_s[other]] == spoken))
      for other in range(self.titles.series)
    ]
    return parts[s] / sum(parts)

  def go_on(self, event, last):
    if last is None:
      return 0.0
    odds = dict(zip(SURFACES, synthetic_choices._GO_ON_SURFACE, strict=True))
    logit = float(odds[event["surface"]])
    if last["action"] == "play":
      logit += -2.0 if last["completion"] >= 0.9 else 1.0
    else:
      logit += {"trailer": 1.0, "preview": 0.5}[last["action"]]
    if event["timestamp"] - last["timestamp"] > _HOUR_US:
      logit -= 0.7
    if event["profile"] != last["profile"]:
      logit -= 2.0
    return 1 / (1 + math.exp(-logit))

  def probabilities(self, event, *, recent_only=False, ageless=False):
    past = self.histories[event["user_id"]]
    votes = collections.Counter()
    for number, other in enumerate(past):
      if other["profile"] != event["profile"]:
        continue
      recent = number >= len(past) - 100
      if recent_only:
        vote = synthetic_oracle.FORGETFUL_VOTE * recent
      else:
        vote = synthetic_oracle.RECENT_VOTE if recent else 1.0
      votes[self.place(other["item_id"])[0]] += vote
    day = (event["timestamp"] - synthetic._START_US) // _DAY_US
    f = SURFACES.index(event["surface"])
    weigh = self.ageless if ageless else self.weight
    pulls = [
      self.pull(event, s, votes[s]) / self.sizes[s]
      for s in range(self.titles.series)
    ]
    urn = [pulls[self.place(v)[0]] * weigh(v, day, f) for v in self.items]
    last = past[-1] if past else None
    go_on = self.go_on(event, last)
    p = [(1 - go_on) * u / sum(urn) for u in urn]
    if last:
      p[last["item_id"]] += go_on
    return p

  def tell(self, event):
    if not hasattr(self, "sizes"):
      self.sizes = [self.size(s) for s in range(self.titles.series)]
    v = event["item_id"]
    p = self.probabilities(event)
    said = {
      "sum": sum(p),
      "p": p,
      "log_p": math.log(p[v]),
      "log_p_recent": math.log(self.probabilities(event, recent_only=True)[v]),
      "log_p_ageless": math.log(self.probabilities(event, ageless=True)[v]),
      "log_p_action": self.action(event),
      # A title that is as likely but for the rounding counts against it.
      "rank": sum(other >= p[v] * (1 - 1e-12) for other in p),
    }
    self.histories[event["user_id"]].append(event)
    return said

  def action(self, event):
    past = self.histories[event["user_id"]]
    logits = {"trailer": -1.0, "preview": -0.6, "play": 0.0}
    if past and past[-1]["item_id"] == event["item_id"]:
      logits["trailer"] -= 1.5
      logits["preview"] -= 0.4
    day = (event["timestamp"] - synthetic._START_US) // _DAY_US
    if day - self.titles.launch_sk[self.place(event["item_id"])] < 7:
      logits["trailer"] += 1.2
    if event["surface"] == "search":
      logits["play"] += 1.0
    total = sum(math.exp(logit) for logit in logits.values())
    return logits[event["action"]] - math.log(total)


@pytest.mark.parametrize(
  "name", ["log_p", "log_p_recent", "log_p_ageless", "log_p_action"]
)
def test_log_probabilities_agree_with_loops(told, name):
  _, truth, said = told
  np.testing.assert_allclose(
    [row[name] for row in truth], [row[name] for row in said], rtol=0, atol=1e-9
  )


def test_probabilities_of_all_titles_sum_to_one(told):
  source, truth, said = told
  del truth
  assert [row["sum"] for row in said] == pytest.approx(
    [1.0] * source.events, abs=1e-9
  )


def test_ranks_count_every_title_that_is_as_likely(told):
  _, truth, said = told
  assert [row["rank"] for row in truth] == [row["rank"] for row in said]


def test_the_ten_likeliest_titles_are_shown(told):
  source, truth, said = told
  for row, one in zip(truth, said, strict=True):
    shown = [v for v in row["top10"] if v is not None]
    there = sum(p > 0 for p in one["p"])
    assert len(shown) == len(set(shown)) == min(10, there)
    expected = sorted(one["p"], reverse=True)[: len(shown)]
    assert [one["p"][v] for v in shown] == pytest.approx(expected, rel=1e-9)
  del source


def test_a_longer_memory_and_the_age_help_on_average():
  events, truth = synthetic.block(Synthetic(events=20_000, users=50), 0)
  del events
  assert truth is not None
  log_p, recent, ageless = (
    truth[name].to_numpy()
    for name in ("log_p", "log_p_recent", "log_p_ageless")
  )
  assert log_p.mean() > recent.mean() + 0.05
  assert log_p.mean() > ageless.mean() + 0.1


def test_titles_that_weigh_enough_are_all_counted():
  titles = synthetic_titles.draw(Synthetic(items=300))
  ageless_fsk = synthetic_titles.ageless(titles)
  day = synthetic_titles.Day(titles, ageless_fsk, 60)
  rng = np.random.default_rng(0)
  surface, place = rng.integers(0, (len(SURFACES), 7), (200, 2)).T
  for least_ns in (
    day.weight_fsk[surface, :, place].clip(1e-9),  # ties count
    rng.lognormal(0.0, 4.0, (200, titles.series)),
  ):
    enough_nsk = day.weight_fsk[surface] >= least_ns[:, :, None]
    counted_ns = day.at_least(surface, least_ns)
    np.testing.assert_array_equal(counted_ns, enough_nsk.sum(axis=2))


def test_titles_are_drawn_as_often_as_their_probability_says(told):
  source, truth, said = told
  p = np.array([row["p"] for row in said])
  drawn = np.zeros(p.shape[1])
  for row in synthetic.block(source, 0)[0].to_pylist():
    drawn[row["item_id"]] += 1
  # A sum of independent draws: five of its standard deviations.
  deviation = np.sqrt((p * (1 - p)).sum(axis=0))
  assert (np.abs(drawn - p.sum(axis=0)) <= 5 * deviation + 1e-9).all()
  # How often one of the three likeliest is drawn, likewise.
  likely = np.sort(p, axis=1)[:, -3:].sum(axis=1)
  hits = sum(row["rank"] <= 3 for row in truth)
  assert abs(hits - likely.sum()) <= 5 * np.sqrt((likely * (1 - likely)).sum())


def test_other_seeds_have_other_titles():
  source = Synthetic(items=50)
  one, other = (
    synthetic_titles.draw(dataclasses.replace(source, seed=seed))
    for seed in (0, 1)
  )
  assert (one.launch_sk != other.launch_sk).any()
  assert DEVICES == ("phone", "tablet", "tv", "laptop")

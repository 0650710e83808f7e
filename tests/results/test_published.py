"""Mercado Libre's published ladder, fitted again."""

import hashlib
import re

import pytest

from analysis import plots, published


def test_the_table_is_the_one_that_was_published():
  sums = (published.TABLE.parent / "SHA256SUMS").read_text().split()
  digest = hashlib.sha256(published.TABLE.read_bytes()).hexdigest()
  assert sums == [digest, published.TABLE.name]
  found = [published.runs(negatives) for negatives in (100, 300)]
  assert sum(len(of) for each in found for of in each.values()) == 119


def test_the_best_of_each_width_gains_what_the_paper_says():
  best = published.best_by_width(published.runs()["amazon-1M"])
  base = best[0]["test_ndcg_at_5"]
  gains = [round(100 * (row["test_ndcg_at_5"] / base - 1)) for row in best]
  assert gains == [0, 99, 156, 178]


@pytest.mark.parametrize("negatives", [100, 300])
def test_loss_and_ranking_disagree_in_sign_until_there_are_many_data(negatives):
  signs = {
    data: published.sign(of) for data, of in published.runs(negatives).items()
  }
  assert list(signs) == [
    f"amazon-{n}" for n in ("100K", "500K", "1M", "5M", "10M")
  ]
  assert [sign > 0 for sign in signs.values()] == [False] * 4 + [True]


def test_a_law_of_the_loss_is_not_believed_and_one_of_ndcg_is():
  assert not published.law("amazon-1M", metric=False)["good"]
  law = published.law("amazon-1M", metric=True)
  assert law["good"]
  low, high = law["intervals"]["R_inf"]
  assert low < law["parameters"]["R_inf"] < high < 0.2


def test_the_committed_figure_says_what_the_table_gives(tmp_path):
  plots.both(published.draw)(published.runs(), tmp_path / "published.png")
  # In an SVG a comment says what the paths of a text spell.
  said = [
    re.findall(r"<!-- (.+?) -->", (folder / "published.svg").read_text())
    for folder in (tmp_path, plots.FIGURES)
  ]
  assert said[0] == said[1]
  assert "10M interactions" in said[0]

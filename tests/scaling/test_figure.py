import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.config import ConfigError
from fmjax.scaling.reports.figure import draw, spread_out


def content(*, popularity: float, good: bool = True, rungs: int = 4):
  """Of a report on a ladder with rising gains, what is drawn."""
  names = [f"d{8 * 2**i}" for i in range(rungs)]
  gain = np.linspace(0, 0.3, rungs)
  law = {
    "equation": "R_inf - A·x^(-alpha)",
    "good": good,
    "improvement": gain.tolist(),
    "improvement_ci": [[g - 0.02, g + 0.02] for g in gain],
    "band": {
      "level": 0.9,
      "x": np.geomspace(1e3, 1e6, 9).tolist(),
      "improvement": np.linspace(0, 0.3, 9).tolist(),
      "low": np.linspace(0, 0.25, 9).tolist(),
      "high": np.linspace(0, 0.35, 9).tolist(),
    },
  }
  return {
    "rungs": [
      {
        "name": name,
        "params": {"backbone": int(x)},
        "test": {"nll": 8 * (1 - g), "ndcg@10": 0.05 * (1 + g)},
      }
      for name, x, g in zip(
        names, np.geomspace(1e3, 1e6, rungs), gain, strict=True
      )
    ],
    "baselines": {
      "popularity_all": {"nll": 7.5, "ndcg@10": 0.04},
      "popularity_7d_rolling": {"nll": 7.0, "ndcg@10": popularity},
      "cooccurrence": {"nll": 7.9, "ndcg@10": 0.041},
    },
    "best": names[-1],
    "fit": {"x": "backbone", "nll": law, "ndcg@10": law},
    "findings": {"nll": "still improves", "ndcg@10": "no gain beyond d16"},
  }


def texts(path) -> str:
  """Of an SVG: matplotlib names every text in a comment before its outlines."""
  parser = ElementTree.XMLParser(
    target=ElementTree.TreeBuilder(insert_comments=True)
  )
  tree = ElementTree.parse(path, parser)
  return "\n".join(
    (node.text or "").strip()
    for node in tree.iter()
    if node.tag is ElementTree.Comment
  )


@pytest.mark.parametrize("popularity", [0.055, 0.2, 0.01])
def test_baselines_near_and_far_are_drawn_with_their_values(
  tmp_path, popularity
):
  path = tmp_path / "ladder.png"
  draw(content(popularity=popularity), path)
  shown = texts(path.with_suffix(".svg"))
  gain = f"{round(100 * (popularity / 0.05 - 1)):+d} %".replace("-", "−")
  assert gain in shown
  assert shown.count("popularity, all time") == 2  # loss and metric
  for label in ("popularity, 7 days", "popularity, all time", "co-occurrence"):
    assert label in shown
  for name in ("d8", "d16", "d32", "d64", "backbone parameters"):
    assert name in shown


def test_findings_and_doubts_are_part_of_the_figure(tmp_path):
  draw(content(popularity=0.1, good=False), tmp_path / "a.png")
  shown = texts(tmp_path / "a.svg")
  assert "No gain beyond d16." in shown
  assert "The fit is not to be relied on" in shown
  draw(content(popularity=0.1), tmp_path / "b.png")
  assert "not to be relied on" not in texts(tmp_path / "b.svg")


def test_the_same_content_gives_the_same_bytes(tmp_path):
  for name in ("a.png", "b.png"):
    draw(content(popularity=0.1), tmp_path / name)
  for suffix in (".png", ".svg"):
    one, two = (
      (tmp_path / name).with_suffix(suffix).read_bytes() for name in "ab"
    )
    assert one == two


@pytest.mark.parametrize("rungs", [1, 2])
def test_few_rungs_are_drawn_without_a_law(tmp_path, rungs):
  short = content(popularity=0.1, rungs=rungs)
  for metric in ("nll", "ndcg@10"):
    short["fit"][metric] = {
      key: short["fit"][metric][key]
      for key in ("improvement", "improvement_ci")
    } | {"good": False}
  draw(short, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000


def test_another_ending_is_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"must end in \.png"):
    draw(content(popularity=0.1), tmp_path / "figure.pdf")


@given(
  st.lists(st.floats(-1, 2), min_size=1, max_size=8).map(sorted),
  st.floats(0.01, 0.3),
)
def test_labels_keep_their_distance_and_their_order(wanted, gap):
  placed = spread_out(wanted, gap)
  assert np.all(np.diff(placed) >= gap - 1e-9)
  # They move as a whole no further than they must: their mean stays.
  assert np.mean(placed) == pytest.approx(np.mean(wanted), abs=1e-6)
  if np.all(np.diff(wanted) >= gap):
    assert placed == pytest.approx(wanted)

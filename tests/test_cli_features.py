"""A table with features nobody foresaw trains through its mapping alone."""

import json

import numpy as np
import pytest

from fmjax.__main__ import main

EXPERIMENT = '''"""Does a log of one's own train?"""
from fmjax.config import (
  DataConfig, Experiment, ItemsConfig, ModelConfig, NoTime, RunConfig,
  SumMixer, Table
)

def experiments():
  return {"own": Experiment(
    data=DataConfig(
      source=Table(mapping="map.toml"), window=8, stride=8, rows=4
    ),
    model=ModelConfig(
      width=8, layers=1, heads=1, time=NoTime(),
      items=ItemsConfig(mixer=SumMixer()),
    ),
    run=RunConfig(steps=2, evaluate_every=2, checkpoint_every=2, log_every=1),
  )}
'''
PLAIN = """
[events]
file = "log.csv"
user = "user"
item = "item"
timestamp = "time"
time_unit = "s"
duration = "dwell"

[items]
file = "items.csv"
item = "item"
launch_time = "listed"
launch_unit = "s"

[items.features.genre]
kind = "categorical"
"""
UNFORESEEN = """
[features.weather]
kind = "categorical"
when = "request"

[features.voice]
kind = "vector"
width = 3
separator = " "
when = "request"

[features.effort]
kind = "numeric"
when = "post_action"
log = true

[items.features.studio]
kind = "categorical"

[items.features.poster]
kind = "vector"
width = 2
columns = ["poster_x", "poster_y"]
"""
START, DAY = 1_600_000_000, 86_400


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
  """Asks for work on the log as mapped; the JSON object it ends with."""
  rng = np.random.default_rng(0)
  times = START + np.sort(rng.integers(0, 30 * DAY, 400))
  rows = ["user,item,time,dwell,weather,voice,effort"]
  for n, time in enumerate(times):
    weather = ("sun", "rain", "")[n % 3]
    # Every seventh event lacks its vector, every fifth its number.
    voice = (
      "" if n % 7 == 0 else " ".join(f"{x:.3f}" for x in rng.normal(size=3))
    )
    effort = "" if n % 5 == 0 else n
    rows.append(
      f"u{rng.integers(12)},i{rng.integers(20)},{time},{n},{weather},{voice},"
      f"{effort}"
    )
  items = ["item,listed,genre,studio,poster_x,poster_y"]
  items += [
    f"i{n},{START - n * DAY},genre {n % 3},studio {n % 4},{n},{100 - n}"
    for n in range(20)
  ]
  (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
  (tmp_path / "items.csv").write_text("\n".join(items) + "\n")
  (tmp_path / "own.py").write_text(EXPERIMENT)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("FMJAX_CACHE", raising=False)

  def run(verb: str, mapping: str, *, code: int = 0):
    (tmp_path / "map.toml").write_text(mapping)
    assert main([verb, "own.py", "--json"]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])

  return run


def test_unforeseen_features_train_through_the_mapping_alone(ask):
  (run,) = ask("train", PLAIN + UNFORESEEN)["runs"]
  assert (run["state"], run["selected_step"]) == ("done", 2)
  assert np.isfinite(run["test"]["nll"])
  (plain,) = ask("list", PLAIN)["experiments"]
  more = {part: run["params"][part] - n for part, n in plain["params"].items()}
  # A code for none and one for another; a vector and whether it is there; a
  # number, its bucket, and whether it is there.
  weather, voice, effort = (2 + 2) * 16, 3 + 1, 1 + 16 + 1
  assert more["features"] == weather + (16 + voice + effort) * 8
  studio, poster = (2 + 4) * 16, 2 + 1
  assert more["item_tables"] == studio + (16 + poster) * 8


@pytest.mark.parametrize(
  "feature,table", [("voice", "log"), ("poster", "items")]
)
def test_a_vector_of_another_width_is_refused_with_the_remedy(
  ask, feature, table
):
  declared, true = {"voice": (4, 3), "poster": (5, 2)}[feature]
  mapping = (PLAIN + UNFORESEEN).replace(
    f"width = {true}", f"width = {declared}"
  )
  error = ask("train", mapping, code=3)["error"]
  assert f"{table}.csv, row " in error
  assert feature in error
  assert f"{true} numbers where width = {declared} is declared" in error
  assert "correct one of the two" in error
  assert "\n" not in error

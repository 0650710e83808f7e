"""Tables of heads and of the surface left open, on made-up results."""

import json
import shlex

import pytest

from analysis import asked
from fmjax.__main__ import parse


@pytest.fixture
def results(tmp_path, monkeypatch):
  """A folder of results, empty."""
  monkeypatch.setattr(asked, "RESULTS", tmp_path)
  return tmp_path


def commit(folder, question, name, content):
  path = folder / question / f"{name}.json"
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(content))


def values(**metrics):
  ends = {f"{name}_ci": [v - 0.1, v + 0.1] for name, v in metrics.items()}
  return {**metrics, **ends}


def told(difference):
  interval = [difference - 0.1, difference + 0.1]
  separates = abs(difference) > 0.1
  return {
    "difference": difference,
    "interval": interval,
    "separates": separates,
  }


def row(table, *first):
  """Cells of the row that begins with these."""
  rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
  (found,) = [cells for cells in rows if cells[: len(first)] == list(first)]
  return found[len(first) :]


def test_classes_are_shown_beside_both_baselines_numbers_beside_one(results):
  classes = {
    "kind": "bag",
    "model": values(nll=1.5, accuracy=0.5),
    "compare": {
      "marginal": {"nll": told(-0.3), "accuracy": told(0.05)},
      "history": {"nll": told(-0.05), "accuracy": told(0.2)},
    },
  }
  number = {
    "kind": "numeric",
    "model": values(rmse=0.9),
    "compare": {"marginal": {"rmse": told(-0.2)}},
  }
  for head, answer in (("genre", classes), ("duration_ms", number)):
    content = {"seeds": [0, 1], "asked": answer}
    commit(results, "heads", f"synthetic_{head}", content)
  table = asked.heads_table()
  assert row(table, "synthetic service", "`genre`") == [
    "2",
    "NLL 1.500 [1.400, 1.600]",
    "**-0.3000 [-0.4000, -0.2000]**",
    "-0.0500 [-0.1500, +0.0500]",
    "0.500 [0.400, 0.600]",
    "+0.0500 [-0.0500, +0.1500]",
  ]
  of_number = row(table, "synthetic service", "`duration_ms`")
  unit = "RMSE, in standard deviations,"
  assert of_number[1] == f"{unit} 0.900 [0.800, 1.000]"
  assert of_number[2] == "**-0.2000 [-0.3000, -0.1000]**"
  assert not any(of_number[3:])


def test_the_surface_has_a_row_as_logged_and_one_left_open(results):
  def measured(value):
    metrics = ("ndcg@10", "coverage@10", "popularity_lift@10")
    return values(**dict.fromkeys(metrics, value))

  commit(
    results,
    "neutral",
    "kuairand_surface",
    {
      "seeds": [0, 1, 2],
      "asked": {
        "test": measured(0.5),
        "neutral": {"test": measured(0.4), "to_told": {"ndcg@10": told(-0.2)}},
      },
    },
  )
  table = asked.neutral_table()
  logged = row(table, "KuaiRand-Pure", "as logged")
  assert logged[:3] == ["3", "0.5000 [0.4000, 0.6000]", ""]
  assert row(table, "KuaiRand-Pure", "left open") == [
    "3",
    "0.4000 [0.3000, 0.5000]",
    "**-0.2000 [-0.3000, -0.1000]**",
    "0.400 [0.300, 0.500]",
    "0.40 [0.30, 0.50]",
  ]


def test_what_nobody_has_asked_is_told_with_its_command(results):
  del results
  asked_for = {"heads": asked.HEADS, "neutral": asked.NEUTRAL}
  tables = {"heads": asked.heads_table(), "neutral": asked.neutral_table()}
  for question, table in tables.items():
    commands = [part for part in table.split("`") if part.startswith("fmjax")]
    assert len(commands) == len(asked_for[question])
    for command in commands:
      verb = parse("evaluate", shlex.split(command)[2:])
      assert len(verb.places) == 3
      assert verb.result.parent.name == question

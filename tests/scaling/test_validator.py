"""Two runs on the same queries, and what makes their records unfit."""

import copy

import pyarrow as pa
import pytest

from fmjax.scaling.records import EVALS, RUNS
from fmjax.scaling.validator import problems

RUN = {
  "run_id": "a",
  "experiment": "ladder",
  "name": "d16",
  "state": "done",
  "seed": 0,
  "config_hash": "c",
  "trunk": "t",
  "width": 16,
  "layers": 2,
  "heads": 1,
  "window": 64,
  "rows": 4,
  "learning_rate": 1e-3,
  "params_item_tables": 1_000,
  "params_features": 20,
  "params_backbone": 300,
  "params_head": 0,
  "params_total": 1_320,
  "tokens": 5_000,
  "unique_tokens": 2_500,
  "epochs": 2.0,
  "users": 30,
  "items": 60,
  "flops_six_nd": 9e6,
  "flops_model": 2e7,
  "flops_xla": None,  # unknown on some devices, used nowhere
  "item_bytes": 100,
  "steps": 20,
  "selected_step": 20,
  "train_s": 1.0,
  "wall_s": 2.0,
  "data_checksum": "d",
  "code_hash": "e",
  "device": "1 × cpu",
}
EVAL = {
  "run_id": "a",
  "step": 20,
  "tokens": 5_000,
  "split": "test",
  "slice": "all",
  "metric": "nll",
  "k": None,
  "targets": "all",
  "queries": 40,
  "negatives": 0,
  "value": 3.0,
  "standard_error": 0.1,
  "ci_low": 2.8,
  "ci_high": 3.2,
}
OTHER = {"run_id": "b", "name": "d32"}


@pytest.fixture
def tables():
  hit = {"metric": "hr", "k": 10, "value": 0.2, "ci_low": 0.1, "ci_high": 0.3}
  return copy.deepcopy(
    {
      "runs": [RUN, {**RUN, **OTHER}],
      "evals": [
        EVAL,
        {**EVAL, **hit},
        {**EVAL, "run_id": "b"},
        {**EVAL, **hit, "run_id": "b"},
      ],
    }
  )


def found(tables):
  return problems(
    pa.Table.from_pylist(tables["runs"], schema=RUNS),
    pa.Table.from_pylist(tables["evals"], schema=EVALS),
  )


def test_sound_records_have_no_problem(tables):
  assert found(tables) == []


@pytest.mark.parametrize(
  "table,row,column,value,sentence",
  [
    ("runs", 0, "params_total", 1, "run a (d16): parts add up to 1320, not 1"),
    ("runs", 0, "unique_tokens", 5_001, "5001 unique tokens, but 5000 seen"),
    ("runs", 0, "wall_s", float("nan"), "run a (d16): wall_s is nan"),
    ("runs", 0, "flops_model", None, "flops_model is None"),
    ("runs", 1, "epochs", -1.0, "run b (d32): epochs is -1.0, less than 0"),
    ("runs", 1, "data_checksum", "f", "evaluated on different data: d, f"),
    ("runs", 1, "run_id", "a", "run a (d32) is there twice"),
    ("runs", 1, "run_id", None, "run None (d32) of ladder has no id"),
    ("evals", 0, "value", float("nan"), "test all nll is nan"),
    ("evals", 1, "value", 7.5, "test all hr is 7.5, not a share"),
    ("evals", 0, "run_id", "nobody", "run nobody, step 20"),
    ("evals", 0, "tokens", None, "nobody knows after how many tokens"),
    ("evals", 0, "ci_low", 3.3, "the interval [3.3, 3.2] is reversed"),
    ("evals", 0, "standard_error", -0.1, "its standard error is -0.1"),
    ("evals", 2, "negatives", 100, "different numbers of negatives: 0, 100"),
    ("evals", 2, "queries", 39, "different test queries (all): all (39)"),
    ("evals", 2, "targets", "first", "all (40), first (40)"),
  ],
)
def test_every_corruption_is_told_in_a_sentence(
  tables, table, row, column, value, sentence
):
  tables[table][row][column] = value
  assert any(sentence in problem for problem in found(tables))


def test_what_an_unfinished_run_does_not_know_is_no_problem(tables):
  begun = dict.fromkeys(RUN) | {
    "run_id": "c",
    "experiment": "ladder",
    "name": "d64",
    "state": "running",
  }
  tables["runs"].append(begun)
  assert found(tables) == []


def test_experiments_of_their_own_may_ask_other_queries(tables):
  tables["runs"][1] |= {"experiment": "another", "data_checksum": "f"}
  for row in tables["evals"][2:]:
    row |= {"queries": 7, "negatives": 100}
  assert found(tables) == []

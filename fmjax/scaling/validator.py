"""What makes records unfit for analysis."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

PARTS = ("item_tables", "features", "backbone", "head")
# What need not be known: shown beside the others, used nowhere.
_OPTIONAL = ("flops_xla",)

_Row = dict[str, Any]


def problems(
  runs: pa.Table, evals: pa.Table, *, together: bool = True
) -> list[str]:
  """Of `records.RUNS` and `records.EVALS`, one sentence each.

  Args:
    runs: a row a run.
    evals: a row a value.
    together: the runs of an experiment are to be put side by side, so they must
      have answered the same queries of the same data.
  """
  rows = runs.to_pylist()
  # Counts of what is not done are not known yet, and no analysis uses them.
  done = [row for row in rows if row["state"] == "done"]
  return [
    *_identities(rows),
    *(problem for row in done for problem in _counts(row)),
    *(_mixtures(done) if together else ()),
    *_evals(evals.to_pylist(), {row["run_id"] for row in rows}),
    *_evaluation_sets(evals.to_pylist(), done, together=together),
  ]


def _identities(rows: list[_Row]) -> Iterator[str]:
  seen: set[str | None] = set()
  for row in rows:
    if row["run_id"] is None:
      yield f"{_name(row)} of {row['experiment']} has no id"
    elif row["run_id"] in seen:
      yield f"{_name(row)} is there twice"
    seen.add(row["run_id"])


def _counts(row: _Row) -> Iterator[str]:
  place = _name(row)
  for name, value in row.items():
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
      if name not in _OPTIONAL:
        yield f"{place}: {name} is {value}"
    elif isinstance(value, (int, float)) and value < 0:
      yield f"{place}: {name} is {value}, less than 0"
  parts = [row[f"params_{part}"] for part in PARTS]
  total = row["params_total"]
  if None not in parts and sum(parts) != total:
    yield f"{place}: parts add up to {sum(parts)}, not {total}"
  tokens, unique = row["tokens"], row["unique_tokens"]
  if tokens is not None and unique is not None and unique > tokens:
    yield f"{place}: {unique} unique tokens, but {tokens} seen"


def _mixtures(done: list[_Row]) -> Iterator[str]:
  data: dict[str, set[str]] = {}
  for row in done:
    data.setdefault(row["experiment"], set()).add(row["data_checksum"])
  for experiment, checksums in data.items():
    if len(checksums) > 1:
      yield (
        f"the runs of {experiment} were evaluated on different data:"
        f" {', '.join(sorted(map(str, checksums)))}"
      )


def _evals(rows: list[_Row], known: set[str]) -> Iterator[str]:
  for row in rows:
    place = (
      f"run {row['run_id']}, step {row['step']}, {row['split']}"
      f" {row['slice']} {row['metric']}"
    )
    if row["run_id"] not in known:
      yield f"{place}: no such run in runs.parquet"
    if row["tokens"] is None:
      yield f"{place}: nobody knows after how many tokens"
    value, error = row["value"], row["standard_error"]
    if value is None or not np.isfinite(value):
      yield f"{place} is {value}"
    elif row["metric"] == "popularity_lift":
      if value < -1:
        yield f"{place} is {value}, less than -1"
    elif row["metric"] != "nll" and not 0 <= value <= 1:
      yield f"{place} is {value}, not a share"
    if error is not None and not 0 <= error < np.inf:
      yield f"{place}: its standard error is {error}"
    low, high = row["ci_low"], row["ci_high"]
    if low is not None and high is not None and low > high:
      yield f"{place}: the interval [{low}, {high}] is reversed"


def _evaluation_sets(
  rows: list[_Row], done: list[_Row], *, together: bool
) -> Iterator[str]:
  """Values that a fit puts side by side must answer the same queries."""
  of_run = {
    row["run_id"]: (row["experiment"], "" if together else row["data_checksum"])
    for row in done
  }
  sets: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
  negatives: dict[tuple[str, str], set[Any]] = {}
  for row in rows:
    if row["run_id"] not in of_run:
      continue
    of = of_run[row["run_id"]]
    asked = row["targets"], row["queries"]
    part = row["split"], row["slice"]
    # Of one data set, the first targets and all of them are two questions.
    place = (*of, *part, "" if together else row["targets"])
    sets.setdefault(place, set()).add(asked)
    negatives.setdefault(of, set()).add(row["negatives"])
  for (experiment, _, split, part, _), found in sets.items():
    if len(found) > 1:
      shown = ", ".join(f"{t} ({q})" for t, q in sorted(found, key=str))
      yield (
        f"the runs of {experiment} answered different {split} queries"
        f" ({part}): {shown}"
      )
  for (experiment, _), found in negatives.items():
    if len(found) > 1:
      yield (
        f"the nll of {experiment} are over different numbers of negatives:"
        f" {', '.join(sorted(map(str, found)))}"
      )


def _name(row: _Row) -> str:
  return f"run {row['run_id']} ({row['name']})"

"""Columns of any CSV or Parquet table, for `fmjax fit`.

What a fit cannot use is refused here, in a sentence that names the row, the
column and the value.

Axes: n rows, k inputs.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fmjax import config as config_lib
from fmjax.data import schema
from fmjax.scaling import forms

RESPONSES = ("loss", "metric")
CLUSTER, NEGATIVES = "cluster", "negatives"
ROLES = (*RESPONSES, *forms.INPUTS, CLUSTER, NEGATIVES)
# Columns that are taken for a number of sampled negatives without being named.
_NAMED_NEGATIVES = re.compile(
  r"negatives|(.*_)?(num|n)_(negatives|neg_samples)", re.IGNORECASE
)
_SHOWN = 5  # values in a sentence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
  """What a law is fitted to, from a table.

  Attributes:
    response: "loss" or "metric".
    inputs: roles of the columns of `x_nk`.
    names: the table's column of each role.
    x_nk: the inputs.
    y_n: the response.
    cluster_n: labels of points that are not independent; None: all are.
  """

  response: str
  inputs: tuple[str, ...]
  names: Mapping[str, str]
  x_nk: np.ndarray
  y_n: np.ndarray
  cluster_n: np.ndarray | None


def read(
  path: str | pathlib.Path,
  columns: Mapping[str, str],
  *,
  where: Mapping[str, str] | None = None,
) -> Columns:
  """Reads the columns of a CSV or Parquet file that a fit is about.

  Args:
    path: the table; a row a run.
    columns: the table's column for each role: one of "loss" or "metric", some
      of "params", "tokens", "unique", "flops"; "cluster" and "negatives" where
      there are such.
    where: only rows with these values, {"dataset": "amazon-1M"}.

  Raises:
    ConfigError: a role is unknown or lacks.
    DataError: the table or a value in it cannot be used.
  """
  response = check_roles(columns)
  inputs = tuple(role for role in forms.INPUTS if role in columns)
  wanted = [*columns.values(), *(where or {})]
  table = open_columns(
    pathlib.Path(path), wanted, guess=NEGATIVES not in columns
  )
  rows = _rows(table, where or {}, path)
  table = table.take(rows)
  _refuse_mixed_negatives(table, columns.get(NEGATIVES), path)
  cluster = columns.get(CLUSTER)
  return Columns(
    response=response,
    inputs=inputs,
    names=dict(columns),
    x_nk=np.stack(
      [_numbers(table, columns[role], rows, path) for role in inputs], axis=1
    ),
    y_n=_numbers(table, columns[response], rows, path),
    cluster_n=None if cluster is None else _labels(table, cluster, rows, path),
  )


def check_roles(columns: Mapping[str, str]) -> str:
  """The role of the response; raises if the roles make no fit."""
  for role in columns:
    if role not in ROLES:
      raise config_lib.ConfigError(
        f"--columns names an unknown role {role!r}"
        + config_lib.suggest(role, list(ROLES))
      )
  given = [role for role in RESPONSES if role in columns]
  if len(given) != 1:
    raise config_lib.ConfigError(
      f"--columns gives {' and '.join(given) or 'none'} of"
      f" {', '.join(RESPONSES)}; exactly one is needed, as in"
      " loss=test_nll,params=backbone"
    )
  if not any(role in columns for role in forms.INPUTS):
    raise config_lib.ConfigError(
      f"--columns gives none of {', '.join(forms.INPUTS)}; a law needs one at"
      " least, as in loss=test_nll,params=backbone"
    )
  _check_apart(columns)
  return given[0]


def _check_apart(columns: Mapping[str, str]) -> None:
  """Runs of one size may be a cluster; nothing else is two things at once."""
  role_of: dict[str, str] = {}
  for role, name in columns.items():
    if role == CLUSTER:
      continue
    if name in role_of:
      raise config_lib.ConfigError(
        f"--columns gives {name!r} as {role_of[name]} and as {role}; each needs"
        " a column of its own"
      )
    role_of[name] = role


def open_columns(
  path: pathlib.Path, wanted: Sequence[str], *, guess: bool
) -> pa.Table:
  """The wanted columns, and those that may be a number of negatives."""
  if not path.is_file():
    raise schema.DataError(f"there is no table at {path}")
  parquet = path.suffix == ".parquet"
  # Only what is empty is null: "nan" and "NA" are shown as they are.
  options = pyarrow.csv.ConvertOptions(null_values=[""])
  try:
    if parquet:
      known = pyarrow.parquet.read_schema(path).names
    else:
      with pyarrow.csv.open_csv(path, convert_options=options) as reader:
        known = reader.schema.names
    for name in wanted:
      _check_column(known, name, path)
    named = filter(_NAMED_NEGATIVES.fullmatch, known) if guess else ()
    # A long table may hold far more than a fit is about.
    names = list(dict.fromkeys((*wanted, *named)))
    if parquet:
      return pyarrow.parquet.read_table(path, columns=names)
    options.include_columns = names
    return pyarrow.csv.read_csv(path, convert_options=options)
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    reason = str(error).splitlines()[0]
    raise schema.DataError(
      f"{path} is no {path.suffix or 'CSV'} table: {reason}"
    ) from None


def _check_column(known: Sequence[str], name: str, path) -> None:
  match known.count(name):
    case 0:
      raise schema.DataError(
        f"{path} has no column {name!r}" + config_lib.suggest(name, list(known))
      )
    case 1:
      return
  raise schema.DataError(f"{path} has several columns {name!r}; rename them")


def _rows(table: pa.Table, where: Mapping[str, str], path) -> np.ndarray:
  """Places of the rows with the values asked for."""
  keep_n = np.ones(table.num_rows, bool)
  for name, wanted in where.items():
    values = table.column(name).to_pylist()
    match_n = np.array([_same(value, wanted) for value in values], bool)
    if not match_n.any():
      raise schema.DataError(
        f"{name} is {wanted} in no row of {path}; it is {_counted(values)}"
      )
    keep_n &= match_n
  if where and not keep_n.any():
    asked = " and ".join(f"{name}={value}" for name, value in where.items())
    raise schema.DataError(f"no row of {path} has {asked} together")
  return np.flatnonzero(keep_n)


def _same(value: Any, wanted: str) -> bool:
  if str(value) == wanted:
    return True
  try:
    return float(value) == float(wanted)
  except (TypeError, ValueError):
    return False


def _refuse_mixed_negatives(table: pa.Table, role: str | None, path) -> None:
  """Losses against 100 and 300 sampled negatives differ by about ln 3."""
  names = filter(_NAMED_NEGATIVES.fullmatch, table.column_names)
  for name in [role] if role is not None else names:
    values = table.column(name).to_pylist()
    if role is None and not all(map(_is_count, values)):
      continue  # a metric of that name
    if len(set(values)) > 1:
      (common, _), *_ = collections.Counter(values).most_common()
      raise schema.DataError(
        f"{name} is {_counted(values)} in {path}: against different numbers of"
        " negatives, losses and metrics are not comparable; say --where"
        f" {name}={common}"
      )


def _is_count(value: Any) -> bool:
  """An integer, or nothing: a run that does not say its number."""
  if value in (None, ""):
    return True
  try:
    return float(value).is_integer()
  except (TypeError, ValueError):
    return False


def _counted(values: Sequence[Any]) -> str:
  """`100 (12 rows) and 300 (4 rows)`."""
  counts = collections.Counter(values).most_common()
  shown = [
    f"{value} ({count} row{'s' * (count > 1)})"
    for value, count in counts[:_SHOWN]
  ]
  if len(counts) > _SHOWN:
    shown.append(f"{len(counts) - _SHOWN} other values")
  return " and ".join([", ".join(shown[:-1]), shown[-1]][len(shown) < 2 :])


def _numbers(table: pa.Table, name: str, rows: np.ndarray, path) -> np.ndarray:
  value_n = []
  for row, value in zip(rows, table.column(name).to_pylist(), strict=True):
    try:
      number = float(value)
    except (TypeError, ValueError):
      number = float("nan")
    if not np.isfinite(number):
      raise schema.DataError(
        f"{name} is {_shown(value)} in row {row + 1} of {path}; every row needs"
        " a number: leave such rows out of the table"
      )
    if number <= 0:
      raise schema.DataError(
        f"{name} is {number:g} in row {row + 1} of {path}; a law in logs needs"
        " positive, finite numbers: leave such rows out of the table"
      )
    value_n.append(number)
  return np.array(value_n)


def _labels(table: pa.Table, name: str, rows: np.ndarray, path) -> np.ndarray:
  values = table.column(name).to_pylist()
  for row, value in zip(rows, values, strict=True):
    if value in (None, ""):
      raise schema.DataError(
        f"{name} is empty in row {row + 1} of {path}; every row needs a cluster"
      )
  return np.array([str(value) for value in values])


def _shown(value: Any) -> str:
  # In a column of text, what is empty is a text.
  return "empty" if value in (None, "") else repr(value)

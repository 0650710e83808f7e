import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmjax.config import ConfigError
from fmjax.data.schema import DataError
from fmjax.scaling.table import fit_table

X = np.geomspace(1e3, 1e6, 12)
TRUE = {"E": 1.7, "A": 40.0, "alpha": 0.35}


def law(x):
  return TRUE["E"] + TRUE["A"] * np.asarray(x) ** -TRUE["alpha"]


def table(tmp_path, columns, name: str = "runs.csv"):
  path = tmp_path / name
  if path.suffix == ".parquet":
    pq.write_table(pa.table(columns), path)
  else:
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
  return path


ROLES = {"loss": "nll", "params": "n"}


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_a_table_is_fitted_by_the_columns_it_names(tmp_path, name):
  path = table(tmp_path, {"n": X, "other": X, "nll": law(X)}, name)
  result = fit_table(path, "power_offset", ROLES, predict=[{"params": 1e7}])
  keys = "form parameters objective standard_errors intervals converged"
  assert {*keys.split(), "warnings", "predictions"} <= result.keys()
  assert result["form"] == "power_offset"
  assert result["converged"]
  assert result["parameters"] == pytest.approx(TRUE, rel=1e-6)
  (point,) = result["predictions"]
  assert point["params"] == 1e7
  assert point["loss"] == pytest.approx(law([1e7])[0], rel=1e-6)
  json.dumps(result, allow_nan=False)


def test_a_metric_column_is_fitted_towards_its_ceiling(tmp_path):
  path = table(tmp_path, {"flops": X, "ndcg": 0.2 - 0.5 * X**-0.3})
  result = fit_table(path, "power_offset", {"metric": "ndcg", "flops": "flops"})
  assert result["parameters"]["R_inf"] == pytest.approx(0.2, rel=1e-6)
  assert [p["flops"] for p in result["predictions"]] == pytest.approx(X)


@pytest.mark.parametrize(
  "columns,sentence",
  [
    ({"n": [1, 2, 3, 4], "nll": [3, 2, "nan", 1]}, "nll is nan in row 3"),
    ({"n": [1, 2, 3, 4], "nll": [3, 2, "", 1]}, "nll is empty in row 3"),
    ({"n": [1, 2, 3, 4], "nll": [3, "two", 2, 1]}, "nll is 'two' in row 2"),
    ({"n": [1, 2, 3, 4], "nll": [3, 2, -1, 1]}, "nll is -1 in row 3"),
    ({"n": [0, 2, 3, 4], "nll": [3, 2, 1.5, 1]}, "n is 0 in row 1"),
    ({"n": [1, 2], "nll": [3, 2]}, "2 rows cannot determine the 3 param"),
    ({"n": [7, 7, 7, 7], "nll": [3, 2, 2, 1]}, "n has 1 distinct value, 7,"),
    ({"n": [1, 1, 2, 2], "nll": [3, 2, 2, 1]}, "n has 2 distinct values in"),
    ({"n": [1, 2, 3, 4], "nll": [2, 2, 2, 2]}, "nll is 2 in all 4 rows"),
    ({"n": [1, 2, 3], "nl": [3, 2, 1]}, "no column 'nll'; did you mean 'nl'"),
    ({"n": [], "nll": []}, "0 rows cannot determine"),
  ],
)
def test_an_unfit_table_is_refused_in_one_sentence(tmp_path, columns, sentence):
  path = table(tmp_path, columns)
  with pytest.raises(DataError) as error:
    fit_table(path, "power_offset", ROLES)
  assert sentence in str(error.value)
  assert "\n" not in str(error.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
  path = tmp_path / "runs.parquet"
  path.write_bytes(b"PAR1 and no more")
  with pytest.raises(DataError, match=r"is no \.parquet table"):
    fit_table(path, "power", ROLES)
  with pytest.raises(DataError, match="there is no table at"):
    fit_table(tmp_path / "absent.csv", "power", ROLES)
  (tmp_path / "bytes.csv").write_bytes(b"n,nll\n1,\xff\xfe\n")
  with pytest.raises(DataError, match="row 1"):
    fit_table(tmp_path / "bytes.csv", "power", ROLES)
  (tmp_path / "empty.csv").write_bytes(b"")
  with pytest.raises(DataError, match=r"is no \.csv table"):
    fit_table(tmp_path / "empty.csv", "power", ROLES)


@pytest.mark.parametrize(
  "form,columns,sentence",
  [
    ("powr_offset", ROLES, "did you mean 'power_offset'"),
    ("power", {"params": "n"}, "gives none of loss, metric"),
    ("power", {**ROLES, "metric": "x"}, "gives loss and metric of"),
    ("power", {"loss": "nll", "parms": "n"}, "did you mean 'params'"),
  ],
)
def test_a_wrong_question_is_refused_in_one_sentence(
  tmp_path, form, columns, sentence
):
  path = table(tmp_path, {"n": X, "nll": law(X)})
  with pytest.raises(ConfigError, match=sentence):
    fit_table(path, form, columns)


def test_a_prediction_for_another_input_is_refused(tmp_path):
  path = table(tmp_path, {"n": X, "nll": law(X)})
  with pytest.raises(ConfigError, match="does not say params alone"):
    fit_table(path, "power", ROLES, predict=[{"tokens": 1.0}])
  with pytest.raises(ConfigError, match="give a positive number"):
    fit_table(path, "power", ROLES, predict=[{"params": -1.0}])

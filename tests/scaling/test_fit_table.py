import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmjax.__main__ import main
from fmjax.config import ConfigError
from fmjax.data.schema import DataError
from fmjax.scaling import forms
from fmjax.scaling.laws.form import evaluate
from fmjax.scaling.reports import table as tables
from fmjax.scaling.reports.table_fit import fit_table

X = np.geomspace(1e3, 1e6, 12)
TRUE = {"E": 1.7, "A": 40.0, "alpha": 0.35}
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
SRT = (
  pathlib.Path(__file__).parents[2] / "third_party/mercado-libre/srt_runs.csv"
)


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


def surface(noise: float = 0.0):
  """Six sizes × five data sizes on Hoffmann's surface, two seeds of each."""
  n, d = np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 5))
  n, d = np.repeat(n.ravel(), 2), np.repeat(d.ravel(), 2)
  y = evaluate(
    forms.form("chinchilla", inputs=("params", "tokens")),
    HOFFMANN,
    np.stack([n, d], axis=1),
  )
  draw = np.random.default_rng(0).normal(size=len(y))
  return {"n": n, "d": d, "nll": y * np.exp(noise * draw)}


ROLES = {"loss": "nll", "params": "n"}
SURFACE = {**ROLES, "tokens": "d"}


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


def test_a_surface_is_fitted_with_its_columns_in_any_order(tmp_path):
  columns = surface(noise=0.005)
  path = table(tmp_path, columns, "runs.parquet")
  roles = {"tokens": "d", "loss": "nll", "params": "n"}
  point = {"tokens": 2e10, "params": 1e9}
  result = fit_table(path, "chinchilla", roles, predict=[point])
  assert result["good"]
  for name, (low, high) in result["intervals"].items():
    assert low < HOFFMANN[name] < high
  (answer,) = result["predictions"]
  assert {name: answer[name] for name in point} == point
  low, high = answer["interval"]
  truth = 1.69 + 406.4 * 1e9**-0.34 + 410.7 * 2e10**-0.28
  assert low < truth < high
  assert answer["loss"] == pytest.approx(truth, rel=0.005)
  # The objective is the sum of Huber losses at what is reported.
  fitted = evaluate(
    forms.form("chinchilla", inputs=("params", "tokens")),
    result["parameters"],
    np.stack([columns["n"], columns["d"]], axis=1),
  )
  size = np.abs(np.log(columns["nll"] / fitted))
  huber = np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum()
  assert result["objective"] == pytest.approx(huber, rel=1e-9)


def test_the_interval_of_a_new_run_holds_more_than_that_of_the_law(tmp_path):
  path = table(tmp_path, surface(noise=0.01), "runs.parquet")
  result = fit_table(path, "chinchilla", SURFACE)
  for point in result["predictions"]:
    low, high = point["interval"]
    inner_low, inner_high = point["law_interval"]
    assert low < inner_low < point["loss"] < inner_high < high


def test_a_metric_column_is_fitted_towards_its_ceiling(tmp_path):
  path = table(tmp_path, {"flops": X, "ndcg": 0.2 - 0.5 * X**-0.3})
  result = fit_table(path, "power_offset", {"metric": "ndcg", "flops": "flops"})
  assert result["parameters"]["R_inf"] == pytest.approx(0.2, rel=1e-6)
  assert [p["flops"] for p in result["predictions"]] == pytest.approx(X)


def test_only_the_rows_asked_for_are_fitted(tmp_path):
  y = law(X)
  columns = {
    "n": [*X, *X],
    "nll": [*y, *["broken"] * len(X)],
    "data": ["a"] * len(X) + ["b"] * len(X),
    "negatives": [100.0] * len(X) + [300.0] * len(X),
  }
  path = table(tmp_path, columns)
  for where in ({"data": "a"}, {"negatives": "100"}):
    result = fit_table(path, "power_offset", ROLES, where=where)
    assert result["parameters"] == pytest.approx(TRUE, rel=1e-6)
  with pytest.raises(DataError, match=r"nll is 'broken' in row 13 of"):
    fit_table(path, "power_offset", ROLES, where={"data": "b"})
  with pytest.raises(
    DataError, match=r"data is c in no row .* it is a \(12 rows\) and b \(12"
  ):
    fit_table(path, "power_offset", ROLES, where={"data": "c"})
  with pytest.raises(DataError, match="has data=a and negatives=300 together"):
    fit_table(
      path, "power_offset", ROLES, where={"data": "a", "negatives": "300"}
    )
  with pytest.raises(DataError, match="no column 'dat'; did you mean 'data'"):
    fit_table(path, "power_offset", ROLES, where={"dat": "a"})


def test_mixed_numbers_of_negatives_are_refused(tmp_path):
  counts = [100] * 8 + [300] * 4
  path = table(
    tmp_path, {"n": X, "nll": law(X), "nce_num_negatives": counts, "q": counts}
  )
  sentence = (
    r"nce_num_negatives is 100 \(8 rows\) and 300 \(4 rows\) in .*not"
    r" comparable; say --where nce_num_negatives=100"
  )
  with pytest.raises(DataError, match=sentence):
    fit_table(path, "power_offset", ROLES)
  with pytest.raises(DataError, match="say --where q=100"):
    fit_table(path, "power_offset", {**ROLES, "negatives": "q"})
  one = {"nce_num_negatives": "100"}
  result = fit_table(path, "power_offset", ROLES, where=one)
  assert result["points"] == 8


@pytest.mark.parametrize(
  "name,refused",
  [
    ("negatives", True),
    ("n_negatives", True),
    ("eval_num_negatives", True),
    ("num_neg_samples", True),
    ("false_negatives", False),
    ("true_negatives_rate", False),
  ],
)
def test_a_number_of_negatives_is_known_by_its_name(tmp_path, name, refused):
  path = table(tmp_path, {"n": X, "nll": law(X), name: [100, 300] * 6})
  if refused:
    with pytest.raises(DataError, match=f"say --where {name}=100"):
      fit_table(path, "power_offset", ROLES)
  else:
    assert fit_table(path, "power_offset", ROLES)["good"]
  # A share of negatives is a metric, whatever it is called.
  shares = np.linspace(0.1, 0.9, 12)
  path = table(tmp_path, {"n": X, "nll": law(X), name: shares}, "r.parquet")
  assert fit_table(path, "power_offset", ROLES)["good"]


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_columns_that_no_one_asks_for_are_not_read(tmp_path, name):
  columns = {"n": X, "other": X, "nll": law(X), "num_negatives": X, "more": X}
  path = table(tmp_path, columns, name)
  read = tables.open_columns(path, ["n", "nll"], guess=True)
  assert read.column_names == ["n", "nll", "num_negatives"]


@pytest.mark.parametrize(
  "columns,sentence",
  [
    ({"n": [1, 2, 3, 4], "nll": [3, 2, "nan", 1]}, "nll is nan in row 3"),
    ({"n": [1, 2, 3, 4], "nll": [3, 2, "inf", 1]}, "nll is inf in row 3"),
    ({"n": [1, 2, 3, 4], "nll": [3, 2, "", 1]}, "nll is empty in row 3"),
    ({"n": [1, 2, 3, 4], "nll": [3, "two", 2, 1]}, "nll is 'two' in row 2"),
    ({"n": [1, 2, 3, 4], "nll": [3, "", "two", 1]}, "nll is empty in row 2"),
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


@pytest.mark.parametrize(
  "change,sentence",
  [
    ({"d": lambda c: 20 * c["n"]}, "n and d are proportional to each other"),
    ({"d": lambda c: 3e4 * c["n"] ** 0.7}, "or to a power, in all 60 rows"),
    ({"d": lambda c: 0 * c["n"] + 1e9}, "d has 1 distinct value, 1e+09, in"),
    ({"n": lambda c: 0 * c["n"] + 1e9}, "n has 1 distinct value, 1e+09, in"),
  ],
)
def test_a_surface_whose_inputs_do_not_vary_apart_is_refused(
  tmp_path, change, sentence
):
  columns = surface()
  columns |= {name: make(columns) for name, make in change.items()}
  with pytest.raises(DataError) as error:
    fit_table(table(tmp_path, columns), "chinchilla", SURFACE)
  assert sentence in str(error.value)


def test_two_sizes_are_not_enough_for_a_surface_and_that_is_said(tmp_path):
  columns = surface(noise=0.005)
  columns["n"] = np.where(columns["n"] < 3e8, 1e8, 1e9)
  path = table(tmp_path, columns)
  with pytest.raises(DataError, match=r"n has 2 distinct values .* at least 3"):
    fit_table(path, "chinchilla", SURFACE)
  # With one exponent for both, the tokens tell it.
  assert fit_table(path, "over_training", SURFACE)["parameters"]["eta"] > 0


def test_one_corpus_seen_for_more_or_fewer_epochs_is_fitted(tmp_path):
  truth = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.35}
  truth |= {"R_D": 15.4, "R_N": 5.3}
  n, d = np.meshgrid(np.geomspace(1e7, 1e10, 9), np.geomspace(1e8, 1e12, 9))
  n, d = n.ravel(), d.ravel()
  unique = np.full(len(n), 1e9)
  law_type = forms.form(
    "data_constrained", inputs=("params", "tokens", "unique")
  )
  y = evaluate(law_type, truth, np.stack([n, d, unique], axis=1))
  columns = {"n": n, "d": d, "u": unique, "nll": y}
  result = fit_table(
    table(tmp_path, columns), "data_constrained", {**SURFACE, "unique": "u"}
  )
  assert result["good"]
  assert result["parameters"] == pytest.approx(truth, rel=1e-4)
  columns["u"] = d / 4
  with pytest.raises(DataError, match="d and u are proportional"):
    fit_table(
      table(tmp_path, columns), "data_constrained", {**SURFACE, "unique": "u"}
    )


@pytest.mark.parametrize(
  "form, more, unique",
  [
    ("chinchilla", {}, {}),
    ("data_constrained", {"unique": "u"}, {"unique": 1e10}),
  ],
)
def test_the_best_run_of_a_budget_is_the_lowest_of_all_that_cost_as_much(
  tmp_path, form, more, unique
):
  columns = surface()
  if unique:
    columns["u"] = np.minimum(columns["d"], unique["unique"])
  budget = {"compute": 1e21, **unique}
  path = table(tmp_path, columns)
  (best,) = fit_table(path, form, {**SURFACE, **more}, optimum=[budget])[
    "optima"
  ]
  assert 6 * best["params"] * best["tokens"] == pytest.approx(1e21)
  around = [
    {
      "params": best["params"] * factor,
      "tokens": best["tokens"] / factor,
      **unique,
    }
    for factor in (1.0, 0.97, 1.03)
  ]
  told = fit_table(path, form, {**SURFACE, **more}, predict=around)
  lowest, *others = [each["loss"] for each in told["predictions"]]
  assert best["loss"] == pytest.approx(lowest)
  assert lowest < min(others)
  epochs = best["tokens"] / unique["unique"] if unique else None
  assert best["epochs"] == pytest.approx(epochs)


@pytest.mark.parametrize(
  "form, roles, budget, problem",
  [
    ("power_offset", ROLES, {"compute": 1e20}, "which power_offset does not"),
    ("chinchilla", SURFACE, {"unique": 1e9}, "must say compute"),
    (
      "chinchilla",
      SURFACE,
      {"compute": 1e20, "unique": 1e9},
      "must say compute, and nothing else",
    ),
    ("chinchilla", SURFACE, {"compute": -1.0}, "compute=-1 must be positive"),
  ],
)
def test_a_budget_that_says_nothing_is_refused(
  tmp_path, form, roles, budget, problem
):
  path = table(tmp_path, surface())
  with pytest.raises(ConfigError, match=problem):
    fit_table(path, form, roles, optimum=[budget])


def test_a_power_law_has_up_to_four_inputs(tmp_path):
  generator = np.random.default_rng(0)
  roles = {role: role for role in forms.INPUTS}
  columns = {role: generator.uniform(1, 1e3, 30) for role in roles}
  columns["nll"] = 9 * np.prod([columns[role] ** -0.1 for role in roles], 0)
  path = table(tmp_path, columns)
  result = fit_table(path, "power", {"loss": "nll", **roles})
  truth = dict.fromkeys(("alpha", "beta", "gamma", "delta"), 0.1)
  assert result["parameters"] == pytest.approx({"A": 9.0, **truth})


@pytest.mark.parametrize(
  "form,rows,draws", [("broken_power_2", 9, 20), ("power_offset", 3, 2)]
)
def test_a_bootstrap_with_too_few_draws_left_has_no_intervals(
  tmp_path, form, rows, draws
):
  x = X[:rows]
  path = table(tmp_path, {"n": x, "nll": law(x)})
  result = fit_table(path, form, ROLES, draws=draws)
  resampled = result["bootstrap"]
  assert resampled["draws"] + resampled["dropped"] == draws
  assert set(resampled["standard_errors"].values()) == {None}
  assert resampled["intervals"]["c0" if "broken" in form else "E"] == [
    None,
    None,
  ]
  left = f"{resampled['draws']} draws are left, too few for intervals"
  assert any(left in warning for warning in resampled["warnings"])
  assert {p["bootstrap_interval"][0] for p in result["predictions"]} == {None}
  assert any("covariance at" in line for line in result["checklist"])
  json.dumps(result, allow_nan=False)


def test_four_rows_of_a_surface_are_refused(tmp_path):
  rows = {name: value[:4] for name, value in surface().items()}
  with pytest.raises(DataError, match="4 rows cannot determine the 5 param"):
    fit_table(table(tmp_path, rows), "chinchilla", SURFACE)


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


def test_a_truncated_table_is_refused(tmp_path):
  whole = table(tmp_path, {"n": X, "nll": law(X)}, "runs.parquet").read_bytes()
  for kept in (len(whole) // 3, len(whole) - 3):
    (tmp_path / "cut.parquet").write_bytes(whole[:kept])
    with pytest.raises(DataError, match=r"is no \.parquet table"):
      fit_table(tmp_path / "cut.parquet", "power", ROLES)
  whole = table(tmp_path, {"n": X, "nll": law(X)}).read_bytes()
  cut = whole[: whole.rindex(b",")]  # the last row has lost its second number
  (tmp_path / "cut.csv").write_bytes(cut)
  with pytest.raises(DataError, match=r"is no \.csv table: .*Expected 2 col"):
    fit_table(tmp_path / "cut.csv", "power", ROLES)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
  path = tmp_path / "runs.csv"
  path.write_text("n,nll,n\n1,3,1\n2,2,2\n")
  with pytest.raises(DataError, match="several columns 'n'; rename them"):
    fit_table(path, "power", ROLES)


@pytest.mark.parametrize(
  "form,columns,sentence",
  [
    ("powr_offset", ROLES, "did you mean 'power_offset'"),
    ("power", {"params": "n"}, "gives none of loss, metric"),
    ("power", {"loss": "nll"}, "gives none of params, tokens, unique, flops"),
    ("power", {**ROLES, "metric": "x"}, "gives loss and metric of"),
    ("power", {"loss": "nll", "params": "nll"}, "'nll' as loss and as params"),
    ("power", {"loss": "nll", "parms": "n"}, "did you mean 'params'"),
    ("chinchilla", ROLES, "is a law of params and tokens, not of params:"),
    ("power_offset", SURFACE, "is a law of params, not of params and tokens"),
  ],
)
def test_a_wrong_question_is_refused_in_one_sentence(
  tmp_path, form, columns, sentence
):
  path = table(tmp_path, {"n": X, "nll": law(X)})
  with pytest.raises(ConfigError, match=sentence):
    fit_table(path, form, columns)


def test_a_prediction_for_other_inputs_is_refused(tmp_path):
  path = table(tmp_path, {"n": X, "nll": law(X)})
  with pytest.raises(ConfigError, match="tokens=1 does not say params alone"):
    fit_table(path, "power", ROLES, predict=[{"tokens": 1.0}])
  with pytest.raises(ConfigError, match="give a positive number"):
    fit_table(path, "power", ROLES, predict=[{"params": -1.0}])
  path = table(tmp_path, surface())
  with pytest.raises(
    ConfigError, match=r"params=1e.09 does not say params and tokens, on which"
  ):
    fit_table(path, "chinchilla", SURFACE, predict=[{"params": 1e9}])


def test_a_bootstrap_resamples_the_clusters_that_a_column_names(tmp_path):
  columns = surface(noise=0.005)
  trunk = [f"t{i // 2}" for i in range(len(columns["n"]))]
  path = table(tmp_path, {**columns, "trunk": trunk})
  roles = {**SURFACE, "cluster": "trunk"}
  result = fit_table(path, "chinchilla", roles, draws=60)
  assert result["bootstrap"]["clusters"] == 30
  assert result["bootstrap"]["draws"] == 60
  assert result["bootstrap"]["intervals"].keys() == HOFFMANN.keys()
  assert all(
    point["bootstrap_interval"][0] < point["loss"]
    for point in result["predictions"]
  )
  json.dumps(result, allow_nan=False)
  blank = table(tmp_path, {**columns, "trunk": ["", *trunk[1:]]})
  # A row without a cluster is no cluster of its own.
  with pytest.raises(DataError, match="trunk is empty in row 1"):
    fit_table(blank, "chinchilla", roles, draws=60)


def test_the_verb_tells_a_person_and_a_program_the_same(tmp_path, capsys):
  path = table(tmp_path, surface(noise=0.005))
  words = ["fit", str(path), "--form", "chinchilla"]
  words += ["--columns", "loss=nll,params=n,tokens=d"]
  words += ["--predict", "params=1e9,tokens=2e10"]
  words += ["--bootstrap", "20", "--sensitivity", "--delta", "1e-2"]
  words += ["--hold-out", "2"]
  assert main([*words, "--json"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told["delta"] == 1e-2
  assert len(told["sensitivity"]) > 5
  rows = {row["form"]: row for row in told["hold_out"]}
  assert rows.keys() == {"chinchilla", "power", "quadratic"}
  assert rows["chinchilla"]["error"] < 0.02 < rows["power"]["error"]
  assert rows["chinchilla"]["largest"] == "compute"
  best = told["allocation"]
  exponent = told["parameters"]["beta"] / (
    told["parameters"]["alpha"] + told["parameters"]["beta"]
  )
  assert best["params_exponent"] == pytest.approx(exponent)
  assert best["tokens_exponent"] == pytest.approx(1 - exponent)
  assert main(words) == 0
  shown = capsys.readouterr().out
  assert f"{told['parameters']['alpha']:.4g}" in shown
  assert "The fit is good." in shown
  assert f"N ~ C^{exponent:.3f}, D ~ C^{1 - exponent:.3f}" in shown
  assert f"{rows['power']['error']:.4g}" in shown
  assert f"{told['predictions'][0]['loss']:.4g}" in shown


def test_variable_projection_is_asked_for_and_says_what_it_minimized(
  tmp_path, capsys
):
  path = table(tmp_path, surface(noise=0.005))
  words = ["fit", str(path), "--form", "chinchilla", "--fitter", "varpro"]
  words += ["--columns", "loss=nll,params=n,tokens=d", "--hold-out", "1"]
  assert main([*words, "--json"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told["fitter"] == "varpro"
  assert told["good"]
  assert told["parameters"] == pytest.approx(HOFFMANN, rel=0.5)
  text = "\n".join(told["checklist"])
  assert "Half the sum of squared relative residuals of nll" in text
  assert "Variable projection from" in text
  with pytest.raises(ConfigError, match="of a loss, chinchilla, over_training"):
    fit_table(path, "quadratic", SURFACE, fitter="varpro")


def test_a_law_of_repeated_data_is_held_out_beside_nulls_of_what_varies(
  tmp_path,
):
  n, d = np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e8, 1e11, 6))
  truth = {**HOFFMANN, "R_D": 15.0, "R_N": 5.0}
  x = np.stack([n.ravel(), d.ravel(), np.full(36, 1e9)], axis=1)
  form = forms.form("data_constrained", inputs=("params", "tokens", "unique"))
  columns = {"n": x[:, 0], "d": x[:, 1], "u": x[:, 2]}
  columns["nll"] = evaluate(form, truth, x)
  result = fit_table(
    table(tmp_path, columns),
    "data_constrained",
    {**SURFACE, "unique": "u"},
    hold_out=2,
  )
  first, *_ = result["hold_out"]
  assert first["form"] == "data_constrained"
  assert all(row["error"] is not None for row in result["hold_out"])
  assert "allocation" not in result


@pytest.mark.parametrize(
  "words,code",
  [
    (["--where", "n"], 2),
    (["--where", "n=1", "--where", "n=2"], 2),
    (["--delta", "0"], 2),
    (["--delta", "inf"], 2),
    (["--delta", "nan"], 2),
    (["--delta", "1e200"], 2),
    (["--hold-out", "-1"], 2),
    (["--hold-out", "12"], 3),
    (["--fitter", "varpo"], 2),
    (["--fitter", "varpro", "--form", "power"], 2),
    (["--fitter", "varpro", "--delta", "1e-2"], 2),
    (["--bootstrap", "-1"], 2),
    (["--where", "n=none"], 3),
  ],
)
def test_wrong_usage_and_bad_input_have_their_exit_codes(
  tmp_path, capsys, words, code
):
  path = table(tmp_path, {"n": X, "nll": law(X)})
  command = ["fit", str(path), "--columns", "loss=nll,params=n"]
  assert main([*command, *words]) == code
  assert capsys.readouterr().err.startswith("error: ")


def test_the_ladder_of_mercado_libre_gains_on_ndcg_and_loses_on_loss():
  where = {"dataset": "amazon-1M", "nce_num_negatives": "100"}
  inputs = {"params": "model_non_emb_params"}
  ndcg = {"metric": "test_ndcg_at_5", **inputs}
  rises = fit_table(SRT, "power_offset", ndcg, where=where)
  assert rises["converged"]
  assert rises["at_bound"] == []
  # Sixteen runs with noise of 15 % bound the ceiling, and no exponent.
  assert "R_inf" not in rises["not_identified"]
  assert "alpha" in rises["not_identified"]
  line = fit_table(SRT, "power", ndcg, where=where)
  assert line["parameters"]["alpha"] < 0
  loss = {"loss": "test_eval_loss", **inputs}
  falls = fit_table(SRT, "power_offset", loss, where=where)
  assert not falls["good"]
  assert any("does not fall" in warning for warning in falls["warnings"])
  with pytest.raises(DataError, match="--where nce_num_negatives=100"):
    fit_table(SRT, "power_offset", ndcg)

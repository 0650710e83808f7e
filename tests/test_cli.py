"""The command line: every ending is one sentence and the right exit code."""

import json
import re
import subprocess
import sys
import time

import pytest

from fmjax.__main__ import VERBS, main
from fmjax.cli.experiment_file import load, scalar_paths, with_texts
from fmjax.config import ConfigError, Experiment

SENTENCE = re.compile(r"error: [^\n]+\n\Z")

ONE = """
from fmjax.config import Experiment

def experiments():
  return {"small": Experiment(), "large": Experiment()}
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "one.py"
  path.write_text('"""Is it so?"""\n' + ONE)
  return str(path)


@pytest.fixture
def ends(capsys):
  """Runs a command; its exit code and what it said on stderr."""

  def run(*words: str) -> tuple[int, str]:
    code = main(words)
    said = capsys.readouterr().err
    assert SENTENCE.search(said), said
    assert "Traceback" not in said
    return code, said

  return run


# ---- wrong usage ----


def test_a_mistyped_verb_is_answered_with_the_nearest_one(ends):
  code, said = ends("trian")
  assert code == 2
  assert "did you mean 'train'?" in said


def test_a_verb_that_is_like_no_other_is_answered_with_all_of_them(ends):
  code, said = ends("xyzzy")
  assert code == 2
  assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize(
  "words,expected",
  [
    (["fit", "t.csv", "--colums", "a=b"], "did you mean --columns?"),
    (["fit"], "lacks TABLE and --columns"),
    (["fit", "t.csv"], "lacks --columns"),
    (["fit", "t.csv", "u.csv", "--columns", "a=b"], "no place for 'u.csv'"),
    (["fit", "t.csv", "--columns"], "--columns"),
    (["fit", "t.csv", "--columns", "loss"], "write --columns a=b,c=d"),
    (["fit", "t.csv", "--columns", "loss=a,loss=b"], "names 'loss' twice"),
    (
      ["fit", "t.csv", "--columns", "loss=a,params=b", "--predict", "params=x"],
      "--predict params=x is no finite number",
    ),
    (
      ["report", "runs", "--out", "o", "--reference", "a", "--figure", "f.png"],
      "--figure f.png is of a ladder; leave it out",
    ),
    (["sweep", "f.py", "--jobs", "0"], "--jobs 0 would train nothing"),
    (["sweep", "f.py", "--launcher", "pbs"], "'local', 'slurm'"),
    (
      ["sweep", "f.py", "--slurm", "partition=gpu"],
      "--slurm partition=gpu is for jobs under Slurm: add --launcher slurm",
    ),
    (
      ["sweep", "f.py", "--launcher", "slurm", "--slurm", "partitoin=gpu"],
      "did you mean 'partition'?",
    ),
    (
      ["sweep", "f.py", "--launcher", "slurm", "--slurm", "gpus=1.5"],
      "--slurm gpus=1.5 is no positive whole number",
    ),
    (
      ["sweep", "f.py", "--launcher", "slurm", "--slurm", "hours=-1"],
      "--slurm hours=-1 is no positive number",
    ),
    (["doctor", "--quick"], "no option --quick"),
    (["doctor", "me"], "no place for 'me'"),
  ],
)
def test_wrong_usage_is_one_sentence_with_the_remedy(ends, words, expected):
  code, said = ends(*words)
  assert code == 2
  assert expected in said


@pytest.mark.parametrize(
  "words,expected",
  [
    (["movietweeting", "--out", "o"], "did you mean 'movietweetings'?"),
    (["movietweetings", "--outt", "o"], "--out"),
    (["movietweetings", "--out", "o", "--rwa", "r"], "did you mean --raw?"),
    (["movietweetings"], "lacks --out"),
    (
      ["movietweetings", "--out", "o", "--granularity", "runs"],
      "'event', 'run'",
    ),
    (["movietweetings", "--out", "o", "--max-gap-s", "soon"], "--max-gap-s"),
    (["globo", "--out", "o", "--mapping", "m.toml"], "mapping"),
    (["movielens", "--raw", "nowhere", "--out", "o"], "nowhere"),
    (["table", "--raw", "nowhere.csv", "--mapping", "m", "--out", "o"], "m"),
  ],
)
def test_what_prepare_cannot_take_is_bad_input_and_leaves_nothing(
  ends, tmp_path, monkeypatch, words, expected
):
  monkeypatch.chdir(tmp_path)
  code, said = ends("prepare", *words)
  assert code == 3
  assert expected in said
  assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_absent_is_bad_input(ends, tmp_path):
  code, said = ends(
    "fit", str(tmp_path / "t.csv"), "--columns", "loss=a,params=b"
  )
  assert code == 3
  assert "t.csv" in said


# ---- experiment files ----


@pytest.mark.parametrize(
  "source,expected",
  [
    ("def experiments(:", "line 1, is no valid Python"),
    ("x = 1", "has no function experiments()"),
    ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ("def experiments(): return {}", "returned {}"),
    ("def experiments(): return [1]", "returned [1]"),
    ("def experiments(): return {'a': 1}", "a is a int"),
    ("def experiments(): return {'a/b': 1}", "'a/b'"),
    ("def experiments(): return 1 / 0", "ZeroDivisionError"),
    (
      "from fmjax.config import *\n"
      "def experiments():\n"
      "  return {'a': Experiment(model=ModelConfig(width=30, heads=4))}",
      "model.width=30 is not a multiple of model.heads=4",
    ),
  ],
)
def test_a_file_without_usable_experiments_says_why(
  ends, tmp_path, source, expected
):
  path = tmp_path / "broken.py"
  path.write_text(source)
  code, said = ends("list", str(path))
  assert code == 2
  assert "broken.py" in said
  assert expected in said


def test_a_mistyped_file_is_answered_with_the_nearest_one(ends, file):
  code, said = ends("list", file.replace("one.py", "oen.py"))
  assert code == 2
  assert "did you mean" in said
  assert "one.py" in said


def test_a_mistyped_experiment_is_answered_with_the_nearest_one(ends, file):
  code, said = ends("list", f"{file}:smal")
  assert code == 2
  assert "did you mean 'small'?" in said


def test_a_file_that_is_not_python_is_refused(ends):
  code, said = ends("list", "experiments")
  assert code == 2
  assert "'experiments' is no Python file" in said


@pytest.mark.parametrize(
  "words,expected",
  [
    (["--run.step", "3"], "did you mean --run.steps?"),
    (["--model.widht", "3"], "did you mean --model.width?"),
    (["--run.steps", "many"], "--run.steps 'many' is no whole number"),
    (["--run.steps", "1.5"], "is no whole number"),
    (["--optim.learning_rate", "nan"], "is no finite number"),
    (["--run.steps"], "--run.steps lacks a value"),
    (["--run.steps", "--run.seed", "1"], "--run.steps lacks a value"),
    (["--run.steps", "0"], "run.steps=0 is not positive"),
    (
      ["--model.items.mixer", "IdOnly"],
      "choose another type in the experiment file",
    ),
    (["--data.stride", "65"], "data.stride=65 exceeds data.window=64"),
    (["--model.dtype", "float16"], "model.dtype='float16'"),
  ],
)
def test_a_wrong_override_names_path_value_and_remedy(
  ends, file, words, expected
):
  code, said = ends("list", file, *words)
  assert code == 2
  assert expected in said


def test_overrides_reach_every_chosen_experiment(file):
  chosen = load(file, [("run.steps", "7"), ("optim.learning_rate", "1e-4")])
  assert list(chosen.experiments) == ["small", "large"]
  for experiment in chosen.experiments.values():
    assert experiment.run.steps == 7
    assert experiment.optim.learning_rate == 1e-4
  assert chosen.question == "Is it so?"
  assert list(load(f"{file}:large").experiments) == ["large"]


def test_every_scalar_of_an_experiment_can_be_set_to_what_it_is():
  experiment = Experiment()
  for path in scalar_paths(experiment):
    value = experiment
    for key in path.split("."):
      value = getattr(value, key)
    assert with_texts(experiment, [(path, str(value))]) == experiment


def test_a_text_override_is_never_run_as_code():
  with pytest.raises(ConfigError):
    with_texts(Experiment(), [("run.steps", "__import__('os').getpid()")])


# ---- help and JSON ----


def test_help_comes_at_once_and_teaches():
  start = time.perf_counter()
  told = subprocess.run(
    [sys.executable, "-m", "fmjax", "--help"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  # A second on an idle machine; heavy imports would take several.
  assert time.perf_counter() - start < 3
  for word in (*VERBS, "experiments/quickstart.py", "Exit codes", "--json"):
    assert word in told


def test_without_a_verb_the_usage_is_shown_and_the_exit_code_is_2(capsys):
  assert main([]) == 2
  assert "usage: fmjax VERB" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_its_options(capsys, verb):
  with pytest.raises(SystemExit) as end:
    main([verb, "--help"])
  assert not end.value.code
  told = capsys.readouterr().out
  assert f"usage: fmjax {verb}" in told
  assert "(required)" in told or verb in ("doctor",)


def test_an_error_in_json_is_an_object_too(capsys):
  assert main(["fitt", "--json"]) == 2
  last = capsys.readouterr().out.splitlines()[-1]
  assert json.loads(last)["exit_code"] == 2
  assert "did you mean 'fit'?" in json.loads(last)["error"]


def test_debug_adds_the_traceback(capsys):
  assert main(["fitt", "--debug"]) == 2
  said = capsys.readouterr().err
  assert "Traceback" in said
  assert SENTENCE.search(said)


def test_an_interrupt_ends_with_130(ends, monkeypatch):
  def interrupted(self, terminal):
    raise KeyboardInterrupt

  monkeypatch.setattr(VERBS["doctor"], "run", interrupted)
  code, said = ends("doctor")
  assert (code, said) == (130, "error: interrupted\n")


def test_a_run_that_fails_ends_with_4(ends, monkeypatch):
  def failing(self, terminal):
    raise OSError("disk full")

  monkeypatch.setattr(VERBS["doctor"], "run", failing)
  code, said = ends("doctor")
  assert code == 4
  assert "disk full" in said


def test_doctor_tells_versions_devices_and_data_sets(capsys):
  assert main(["doctor", "--json"]) == 0
  captured = capsys.readouterr()
  found = json.loads(captured.out.splitlines()[-1])
  assert found["versions"]["jax"].startswith("0.")
  assert found["devices"]
  assert {entry["name"] for entry in found["data"]} >= {"movietweetings"}
  assert "package" in captured.err


def test_json_is_the_last_line_and_alone_on_stdout(capsys, tmp_path):
  table = tmp_path / "runs.csv"
  rows = [f"{n},{2 + 30 * n**-0.3}" for n in (1e3, 3e3, 1e4, 3e4, 1e5, 3e5)]
  table.write_text("backbone,nll\n" + "\n".join(rows) + "\n")
  words = ["fit", str(table), "--columns", "loss=nll,params=backbone"]
  assert main([*words, "--predict", "params=1e6", "--json"]) == 0
  captured = capsys.readouterr()
  law = json.loads(captured.out)
  assert law["form"] == "power_offset"
  assert law["parameters"]["E"] == pytest.approx(2, rel=1e-3)
  assert law["predictions"][0]["params"] == 1e6

"""How the best learning rate moves with the width, of losses with known minima.

Whether μP makes it stay is tested where models are trained
(tests/train/test_transfer.py); here, that what moves is said to.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_ablation import answers, write_run

from fmjax.__main__ import main
from fmjax.config import (
  Experiment,
  MaximalUpdate,
  StandardScale,
  from_dict,
  override,
  to_dict,
)
from fmjax.data.schema import DataError
from fmjax.scaling.reports import transfer
from fmjax.scaling.rungs import Rung

WIDTHS = (16, 32, 128)
RATES = tuple(1e-3 * 2**k for k in range(7))
BEST = 8e-3  # at the smallest width


def run(width: int, rate: float, scale, *, best: float) -> Rung:
  made = override(
    Experiment(),
    {
      "model.width": width,
      "model.scale": scale,
      "optim.learning_rate": rate,
    },
  )
  nll = 5.0 + 0.01 * np.log2(rate / best) ** 2 - 1e-4 * width
  result = {
    "config": to_dict(made),
    "params": {"backbone": width**2},
    "validation": {"nll": nll},
    "test": {"nll": nll + 0.1},
  }
  return Rung(name=f"d{width}-{rate:g}", results=[result], ranked=[])


def runs(widths=WIDTHS, rates=RATES) -> list[Rung]:
  """The best rate stays with μP and falls as 1 / width without."""
  with_mup = [
    run(width, rate, MaximalUpdate(base_width=16), best=BEST)
    for width in widths
    for rate in rates
  ]
  without = [
    run(width, rate, StandardScale(), best=BEST * 16 / width)
    for width in widths[1:]
    for rate in rates
  ]
  return with_mup + without


def test_the_best_rate_of_each_width_is_told_in_steps_from_the_narrowest():
  curves = transfer.analyze(runs())["curves"]
  steps = {
    scale: [(each["width"], each["steps_from_narrowest"]) for each in found]
    for scale, found in curves.items()
  }
  assert steps["MaximalUpdate"] == [(16, 0), (32, 0), (128, 0)]
  # Both start at the narrowest, where they are one model.
  assert steps["StandardScale"] == [(16, 0), (32, -1), (128, -3)]
  widest = curves["StandardScale"][-1]
  assert widest["best_rate"] == 1e-3
  assert widest["at_edge"]
  assert not curves["MaximalUpdate"][-1]["at_edge"]
  assert widest["validation_nll"][0] == pytest.approx(5.0 - 0.0128)
  assert widest["test_nll"][0] == pytest.approx(5.1 - 0.0128)


def test_a_sentence_says_how_far_the_best_rate_moves():
  said = transfer.verdicts(transfer.analyze(runs()))
  assert said == [
    "μP: at 8× the width the best learning rate is 0.008 against 0.008"
    " (+0 steps of ×2)",
    "standard parametrization: at 8× the width the best learning rate is 0.001"
    " against 0.008 (-3 steps of ×2), at the edge of what was tried",
  ]


def test_the_figure_shows_a_panel_of_each_parametrization(tmp_path):
  path = tmp_path / "rates.png"
  transfer.draw(transfer.analyze(runs()), path)
  assert path.stat().st_size > 10_000
  drawn = path.with_suffix(".svg").read_text()
  for text in ("μP", "standard parametrization", "width 128"):
    assert text in drawn


@pytest.mark.parametrize(
  "chosen, problem",
  [
    (runs(widths=(16,)), "1 widths"),
    (runs(rates=RATES[:2]), "width 16 was trained at 2 rates"),
  ],
)
def test_too_few_runs_are_refused(chosen, problem):
  with pytest.raises(DataError, match=problem):
    transfer.analyze(chosen)


def test_the_verb_tells_a_person_and_writes_the_result_and_its_records(
  tmp_path, capsys
):
  for rung in runs(widths=(16, 32), rates=RATES[:3]):
    (result,) = rung.results
    made = from_dict(result["config"])
    scale = type(made.model.scale).__name__
    write_run(tmp_path / "runs", f"{scale}-{rung.name}", made, answers(0))
  path = tmp_path / "results" / "rates.json"
  words = ["report", tmp_path / "runs", "--rates", "--out", tmp_path / "out"]
  assert main([*map(str, words), "--result", str(path)]) == 0
  assert "standard parametrization: at 2× the width" in capsys.readouterr().out
  written = json.loads(path.read_text())
  assert "--rates" in written["command"]
  told = json.loads((tmp_path / "out" / "transfer.json").read_text())
  assert written["curves"] == told["curves"]
  assert (tmp_path / "out" / "figure.png").is_file()
  table = pq.read_table(path.with_suffix("") / "runs.parquet")
  assert table.num_rows == 3 * 3

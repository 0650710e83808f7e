"""What runs of the ablations answered when they were asked again.

Their auxiliary heads beside what needs no model, and the surface left open
beside the logged one; `fmjax evaluate --result` commits each.
"""

import json
import pathlib
from typing import Any

from analysis import tables
from analysis.forests import NAMES
from analysis.performance import Shown
from experiments import ablate_heads, ablate_surface, ablations

RESULTS = pathlib.Path(__file__).parent / "results"

# Data set and head of each question.
HEADS = [
  (data, head)
  for data, heads in ablate_heads.AUXILIARY.items()
  for head in heads
]
NEUTRAL = [(data, "surface") for data in ablate_surface.DATA]


def heads() -> Shown:
  """What the auxiliary heads are worth."""
  return Shown(about="auxiliary heads", markdown=heads_table())


def neutral() -> Shown:
  """What is ranked where nobody says on which surface it will be."""
  return Shown(about="surface told and left open", markdown=neutral_table())


def heads_table() -> str:
  """Of each head, its loss and that minus the baselines'; then its hits.

  The loss is the NLL of classes, the root mean square error of a number.
  """
  rows = []
  for data, head in HEADS:
    place = (NAMES[data], f"`{head}`")
    if (result := _read("heads", data, head)) is None:
      sentence = f"not measured: run `{_command('heads', data, head)}`"
      rows.append((*place, "", sentence, "", "", "", ""))
      continue
    found = result["asked"]
    loss, name = (
      ("rmse", "RMSE, in standard deviations,")
      if found["kind"] == "numeric"
      else ("nll", "NLL")
    )
    rows.append(
      (
        *place,
        str(len(result["seeds"])),
        f"{name} {tables.value(found['model'], loss, digits=3)}",
        *(_minus(found, than, loss) for than in ("marginal", "history")),
        tables.value(found["model"], "accuracy", digits=3),
        _minus(found, "marginal", "accuracy"),
      )
    )
  head = ("data", "head", "seeds", "loss", "minus the marginal's")
  more = ("minus own history's", "accuracy", "minus the marginal's")
  return tables.markdown((*head, *more), rows, text=(0, 1))


def neutral_table() -> str:
  """Two rows a data set: the surface as logged, and left open."""
  rows = []
  for data, name in NEUTRAL:
    if (result := _read("neutral", data, name)) is None:
      sentence = f"not measured: run `{_command('neutral', data, name)}`"
      rows.append((NAMES[data], "", "", sentence, "", "", ""))
      continue
    told = result["asked"]
    untold = told["neutral"]
    paired = tables.signed(untold["to_told"]["ndcg@10"], bold=True)
    for how, of, minus in (
      ("as logged", told["test"], ""),
      ("left open", untold["test"], paired),
    ):
      rows.append(
        (
          NAMES[data],
          how,
          str(len(result["seeds"])),
          tables.value(of, "ndcg@10"),
          minus,
          tables.value(of, "coverage@10", digits=3),
          tables.value(of, "popularity_lift@10", digits=2),
        )
      )
  head = ("data", "surface", "seeds", "NDCG@10", "minus as logged")
  more = ("coverage@10", "popularity lift@10")
  return tables.markdown((*head, *more), rows, text=(0, 1))


def readme() -> str:
  """The README's block, below the ablations' table."""
  return "\n".join(
    [
      "The auxiliary heads' own quality on test targets (`fmjax evaluate"
      " --head`), beside the distribution of training and the user's own"
      " history:",
      "",
      heads_table(),
      "",
      "Where a fifth of the training did not tell the surface, a model can be"
      " asked what it would rank wherever it is shown (`fmjax evaluate"
      " --neutral surface`):",
      "",
      neutral_table(),
    ]
  )


def _command(question: str, data: str, name: str) -> str:
  """What commits the answer to a question."""
  arm = {"heads": "auxiliary", "neutral": "sometimes_neutral"}[question]
  option = {"heads": "--head", "neutral": "--neutral"}[question]
  runs = " ".join(
    f"runs/ablations/{data}-{arm}-s{seed}" for seed in range(ablations.SEEDS)
  )
  result = f"analysis/results/{question}/{data}_{name}.json"
  return f"fmjax evaluate {runs} {option} {name} --result {result}"


def _read(question: str, data: str, name: str) -> dict[str, Any] | None:
  path = RESULTS / question / f"{data}_{name}.json"
  return json.loads(path.read_text()) if path.is_file() else None


def _minus(found: dict[str, Any], than: str, metric: str) -> str:
  compared = found["compare"].get(than, {})
  return (
    tables.signed(compared[metric], bold=True) if metric in compared else ""
  )

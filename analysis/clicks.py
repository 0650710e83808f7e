"""What parameters and data bring on Globo's clicks, and ids."""

import json
from collections.abc import Mapping
from typing import Any

from analysis import plots, scaling, tables
from analysis.performance import Shown
from fmjax.scaling.reports import study_figure, study_text


def figure() -> Shown:
  """Sizes by lengths of training on Globo's clicks."""
  content = scaling.read("globo")
  return scaling.drawn(
    lambda path: study_figure.draw(content, path), figure.__doc__
  )


def answers() -> Shown:
  """What ten times the data and ten times the parameters bring."""
  content = scaling.read("globo")
  lines = [*study_text.sentences(content), _to_popularity(content)]
  return Shown(
    about=answers.__doc__ or "",
    markdown="\n".join(f"* {line}" for line in lines),
  )


def ids() -> dict[str, Mapping[str, Any]]:
  """Of the study of Globo's ids, by name of the arm."""
  folder = plots.RESULTS / "globo_ids"
  found = map(json.loads, (p.read_text() for p in folder.glob("*.json")))
  return {result["arm"]: result for result in found}


def table_of_ids() -> Shown:
  """Shares of articles that a step of training goes without, at two rates."""
  rows = []
  for arm, result in ids().items():
    config = result["config"]
    dropped = config["model"]["items"]["mixer"]["id_dropout"]
    part = result["slices"]["all"]
    rows.append(
      (
        f"{dropped:.0%}",
        f"{config['optim']['learning_rate']:g}",
        f"{result['validation']['nll']:.3f}",
        f"{result['validation']['ndcg@10']:.4f}",
        tables.value(part, "nll", digits=3),
        tables.value(part, "ndcg@10"),
        "chosen" if arm == "reference" else "",
      )
    )
  head = (
    "without id",
    "learning rate",
    "validation NLL",
    "validation NDCG@10",
    "test NLL",
    "test NDCG@10",
    "",
  )
  return Shown(
    about=table_of_ids.__doc__ or "",
    markdown=tables.markdown(head, sorted(rows), text=(6,)),
  )


def sentences() -> list[str]:
  """Of tenfold steps those to the largest size and the longest training."""
  content = scaling.read("globo")
  last = content["rungs"][-1]["name"]
  steps = [step for step in content["gains"] if step["to"] == last]
  told = study_text.gains({**content, "gains": steps})
  return [f"Globo: {line}" for line in (*told, _to_popularity(content))]


def _to_popularity(content: Mapping[str, Any]) -> str:
  """The best size beside the baseline that is best on the same queries."""
  baselines = content["baselines"]
  name = max(baselines, key=lambda name: baselines[name]["ndcg@10"])
  low, high = content["compare"][f"best_vs_{name}"]
  gap = content["compare_difference"][f"best_vs_{name}"]
  size = next(r for r in content["rungs"] if r["name"] == content["best"])
  nll = size["test"]["nll"] - baselines[name]["nll"]
  return (
    f"{content['best']} minus `{name}`: NDCG@10 {gap:+.4f} [{low:+.4f},"
    f" {high:+.4f}], NLL {nll:+.3f}."
  )

"""The README's numbers, written between its markers from committed results.

python -m analysis.readme       # also `make figures`

A test holds that the README is what this would write.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis import ablations, baselines, bench, context_and_data, tables
from experiments.baselines import PUBLISHED
from fmjax.scaling.reports import markdown, study_text, transfer

HERE = pathlib.Path(__file__).parent
RESULTS, README = HERE / "results", HERE.parent / "README.md"

_QUICKSTART_BASELINES = {
  "popularity_all": "popularity, all time",
  "popularity_7d_frozen": "popularity, 7 days before the cut",
  "popularity_1d_rolling": "popularity, last day",
  "popularity_3d_rolling": "popularity, last 3 days",
  "popularity_7d_rolling": "popularity, last 7 days",
  "popularity_30d_rolling": "popularity, last 30 days",
  "cooccurrence": "co-occurrence",
}
_ORDER = "experiments/movielens_order.py"
_DIGITS = {"nll": 3, "hr@10": 4, "ndcg@10": 4, "coverage@10": 3}


def quickstart(result: Mapping[str, Any]) -> str:
  """What the command says at its end, and the table of its rungs."""
  head = ("model", "backbone", "parameters", "tokens", "FLOPs")
  metrics = ("nll", "hr@10", "ndcg@10")
  rows = []
  for rung in result["rungs"]:
    chosen = "**" if rung["name"] == result["best"] else ""
    rows.append(
      (
        f"{chosen}{rung['name']}{chosen}",
        f"{rung['params']['backbone']:,}",
        f"{rung['params']['total']:,}",
        f"{rung['tokens']:,}",
        f"{rung['flops']:.1e}",
        *_cells(rung["test"], metrics),
      )
    )
  for name, label in _QUICKSTART_BASELINES.items():
    cells = _cells(result["baselines"][name], metrics)
    rows.append((label, "", "", "", "", *cells))
  facts = result["protocol"]
  lines = [
    "```",
    *markdown.verdicts(result),
    "```",
    "",
    tables.markdown((*head, "test NLL", "HR@10", "NDCG@10"), rows),
    "",
    f"MovieTweetings, temporal split, {facts['users']:,} users, all"
    f" {facts['items']:,} items ranked, seen items left out; bold: chosen on"
    " validation. Brackets: 95 % over users."
    " [Whole result](analysis/results/movietweetings/quickstart.json).",
  ]
  return "\n".join(lines)


def scaling(study: Mapping[str, Any], rates: Mapping[str, Any]) -> str:
  """What the laboratory's own study says, and what its rate rests on."""
  lines = [*study_text.headlines(study), *transfer.verdicts(rates)]
  return "\n".join(
    [
      *(f"* {line}" for line in lines),
      "",
      f"`{study['command']}`, `{rates['command']}`. [Every task's"
      " curve](analysis/scaling_curves.ipynb), [how to spend"
      " compute](analysis/compute_optimal.ipynb).",
    ]
  )


def movielens_1m(
  reference: Mapping[str, Any],
  sasrec: Mapping[str, Any],
  quality: Mapping[str, Any] | None,
) -> str:
  """The model where a log has an order alone, SASRec, and what is published.

  And the whole model beside the peer's, where that has been measured.
  """
  metrics = ("hr@10", "ndcg@10", "coverage@10")
  theirs = PUBLISHED["sasrec_ce"]
  ours, plain = (r["slices"]["all"] for r in (reference, sasrec))
  rows = [
    ("fmjax, `reference`", *_cells(ours, metrics)),
    ("fmjax, `sasrec_ce`", *_cells(plain, metrics)),
    ("SASRec+ as published", f"{theirs.hr:.4f}", f"{theirs.ndcg:.4f}", ""),
  ] + [
    (label, *_cells(sasrec["baselines"][name], metrics[:2]), "")
    for name, label in (
      ("popularity_all", "popularity"),
      ("cooccurrence", "co-occurrence"),
    )
  ]
  seeds = len(reference["seeds"])
  lines = [
    "MovieLens-1M, leave-last-out, order without times, every item ranked, seen"
    f" items left out; means of {seeds} seeds, steps chosen on validation"
    f" (`fmjax sweep {_ORDER}`, then `{reference['command']}`):",
    "",
    tables.markdown(
      ("model", "test HR@10", "test NDCG@10", "coverage@10"), rows
    ),
    "",
    "`reference` has gated blocks of two heads, dropout 0.2, the films' genres"
    " and years, and twice the steps; paired over users, its NDCG@10 minus"
    " `sasrec_ce`'s:"
    f" {tables.signed(ours['to_reference']['ndcg@10'])}.",
    "",
    "The whole model and RecTools' HSTU, on the films that users 1 to 2,999"
    " rated, at their real times, both given the time of the query:",
    "",
  ]
  if quality is None:
    lines.append(bench.not_measured("peer_quality"))
  else:
    curve = quality["peer_curve"]
    best = max(curve, key=lambda point: point["ndcg@10"])["epoch"]
    lines += [
      tables.quality(quality),
      "",
      f"{quality['users']:,} users, {quality['seeds']} seeds of fmjax, one of"
      " RecTools with its tutorial's settings. Each side chose its epoch on"
      f" validation (RecTools: {best} of {len(curve)}). fmjax also reads what"
      " the log says of films and users, and past ratings"
      f" (`{quality['command']}`).",
    ]
  return "\n".join(lines)


def performance(results: Mapping[str, Mapping[str, Any] | None]) -> str:
  """Speed and memory beside the peer, and on which machine."""
  found = [result for result in results.values() if result]
  lines = [tables.performance(results)]
  if found:
    where = bench.distinct(map(bench.machine, found))
    torch = bench.distinct(
      facts["versions"]["torch"]
      for facts in map(bench.peer_facts, found)
      if facts
    )
    jax = bench.distinct(result["versions"]["jax"] for result in found)
    lines += [
      "",
      f"Measured on {where}, with JAX {jax}"
      + (f" and PyTorch {torch}" if torch else "")
      + ". Training: medians of alternating legs, in brackets the least and the"
      " largest ratio of a pair. [Every pair, curve and"
      " part](analysis/performance.ipynb).",
    ]
  if results.get("train_throughput"):
    lines += [
      "",
      "![Tokens per second and peak memory of fmjax and RecTools with three"
      " losses](analysis/figures/throughput.png)",
    ]
  return "\n".join(lines)


def _cells(
  values: Mapping[str, Any], metrics: Sequence[str]
) -> tuple[str, ...]:
  cells = []
  for metric in metrics:
    value, digits = values.get(metric), _DIGITS[metric]
    cell = "–" if value is None else f"{value:.{digits}f}"
    if ends := values.get(f"{metric}_ci"):
      cell += f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    cells.append(cell)
  return tuple(cells)


def _read(source: str) -> dict[str, Any]:
  return json.loads((RESULTS / source).read_text())


# Marker: what stands there.
BLOCKS: dict[str, Callable[[], str]] = {
  "quickstart": lambda: quickstart(_read("movietweetings/quickstart.json")),
  "scaling": lambda: scaling(
    _read("scaling/parameters_data.json"), _read("scaling/mup_transfer.json")
  ),
  "context_and_data": context_and_data.readme,
  "movielens_1m": lambda: movielens_1m(
    _read("movielens_1m/reference.json"),
    _read("movielens_1m/sasrec_ce.json"),
    bench.read("peer_quality"),
  ),
  "baselines": baselines.readme,
  "ablations": ablations.readme,
  "performance": lambda: performance(bench.read_all()),
}


def fill(text: str) -> str:
  """The README with every marked block written anew."""
  for name, render in BLOCKS.items():
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if not re.search(pattern, text, re.DOTALL):
      raise ValueError(f"README.md lacks the markers {begin} and {end}")
    block = f"{begin}\n{render()}\n{end}"
    text = re.sub(pattern, lambda _, b=block: b, text, flags=re.DOTALL)
  return text


def main() -> None:
  README.write_text(fill(README.read_text()))
  print("README.md from analysis/results")


if __name__ == "__main__":
  main()

"""A report's content as Markdown."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fmjax.scaling.reports import study_text

_PARTS = {
  "item_tables": "item tables",
  "features": "features",
  "backbone": "backbone",
  "head": "head",
  "total": "total",
}
_METRICS = {"nll": ("NLL", 3), "hr@10": ("HR@10", 4), "ndcg@10": ("NDCG@10", 4)}
_NONE = "–"
_MAIN_COMPARISONS = (
  "best_vs_popularity_all",
  "best_vs_popularity_7d_rolling",
  "best_vs_cooccurrence",
  "best_vs_smallest",
)
_VAGUE = 1_000  # an interval of three decades says nothing, in many digits


def render(content: Mapping[str, Any], *, out: pathlib.Path) -> str:
  """The report; `out` is where it will lie, for the figure's address."""
  figure = pathlib.Path(content["figure"]).resolve()
  address = os.path.relpath(figure, out.resolve())
  return "\n".join(
    [
      f"# {content['protocol']['data']}: does a larger model help?",
      "",
      f"![Relative improvement against backbone parameters]({address})",
      "",
      table(content),
      "",
      *(f"* **{m.upper()}**: {s}." for m, s in content["findings"].items()),
      *(f"* {line}" for line in _comparisons(content)),
      *(f"* {line}" for line in _laws(content)),
      "",
      *([*study_text.section(content), ""] if "grid" in content else []),
      _protocol(content),
      *(f"Note: {note}." for note in content.get("notes", ())),
      "",
    ]
  )


def table(content: Mapping[str, Any]) -> str:
  """Rungs, then baselines."""
  head = (
    "model",
    *_PARTS.values(),
    "tokens",
    "FLOPs",
    *(f"test {label}" for label, _ in _METRICS.values()),
    "coverage@10",
  )
  rows: list[Sequence[str]] = []
  for rung in content["rungs"]:
    name = rung["name"]
    if len(rung["seeds"]) > 1:
      name += f" ({len(rung['seeds'])} seeds)"
    if rung["name"] == content["best"]:
      name = f"**{name}**"
    rows.append(
      (
        name,
        *(f"{rung['params'][part]:,}" for part in _PARTS),
        f"{rung['tokens']:,}",
        f"{rung['flops']:.2e}",
        *_metrics(rung["test"]),
      )
    )
  blank = (_NONE,) * (len(_PARTS) + 2)
  for name, metrics in content["baselines"].items():
    rows.append((name, *blank, *_metrics(metrics)))
  lines = [head, ("---", *("---:",) * (len(head) - 1)), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(content: Mapping[str, Any]) -> list[str]:
  """What a report says in a terminal, below its table: the main comparisons.

  All of them are in report.md.
  """
  lines = [
    f"{metric.upper()}: {finding}"
    for metric, finding in content["findings"].items()
  ]
  best, metric = content["best"], content["compare_metric"]
  for name in _MAIN_COMPARISONS:
    if name not in content["compare"]:
      continue
    low, high = content["compare"][name]
    lines.append(
      f"{best} {name.removeprefix('best_').replace('_', ' ', 1)}, {metric}:"
      f" {content['compare_difference'][name]:+.4f} [{low:+.4f}, {high:+.4f}]"
    )
  return lines + (study_text.sentences(content) if "grid" in content else [])


def _metrics(test: Mapping[str, Any]) -> list[str]:
  cells = []
  for metric, (_, digits) in _METRICS.items():
    value, ends = test.get(metric), test.get(f"{metric}_ci")
    if value is None:
      cells.append(_NONE)
    elif ends is None:
      cells.append(f"{value:.{digits}f}")
    else:
      low, high = ends
      cells.append(f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
  coverage = test.get("coverage@10")
  return [*cells, _NONE if coverage is None else f"{coverage:.3f}"]


def _comparisons(content: Mapping[str, Any]) -> list[str]:
  best, metric = content["best"], content["compare_metric"].upper()
  lines = []
  for name, (low, high) in content["compare"].items():
    other = name.removeprefix("best_vs_")
    other = content["rungs"][0]["name"] if other == "smallest" else other
    verdict = "ahead" if low > 0 else "behind" if high < 0 else "not separated"
    difference = content["compare_difference"][name]
    lines.append(
      f"{best} against {other}, {metric}: {difference:+.4f}"
      f" [{low:+.4f}, {high:+.4f}], {verdict}."
    )
  return lines


def _laws(content: Mapping[str, Any]) -> list[str]:
  lines = []
  for metric, law in content["fit"].items():
    if metric == "x":
      continue
    text = f"Law of {metric.upper()} over backbone parameters"
    if "parameters" in law:
      values = ", ".join(
        f"{name} = {value:.4g}{_ends(law['intervals'][name])}"
        for name, value in law["parameters"].items()
      )
      text += f", {law['equation']}: {values}"
    if not law["good"]:
      text += "; **not to be relied on**"
    lines.append("; ".join([text, *law["warnings"]]) + ".")
  agreement = content["rank_correlation_nll_ndcg"]
  if agreement is not None:
    lines.append(
      f"Rank correlation of loss and NDCG@10 over rungs: {agreement:+.2f}"
      " (1: they agree which rung is better)."
    )
  return lines


def _ends(interval: Sequence[float | None]) -> str:
  low, high = interval
  if low is None or high is None or high > _VAGUE * low:
    return " [unknown]"
  return f" [{low:.4g}, {high:.4g}]"


def _protocol(content: Mapping[str, Any]) -> str:
  facts = content["protocol"]
  seen = "left out" if facts["seen_filtered"] else "kept"
  return (
    f"{facts['queries']:,} queries of {facts['users']:,} users"
    f" ({facts['targets']} target of each), ranked among all"
    f" {facts['items']:,} items, seen items {seen}; {facts['split']}. Each"
    " run's step was selected on validation NDCG@10, and so was the best rung"
    " (bold). Intervals: 95 %, bootstrap over users; differences are paired."
    " Laws: 90 %. FLOPs: matrix products of training, forward and backward."
    " NLL of baselines: counts plus one; co-occurrence interpolated with"
    " popularity (Witten and Bell). Data"
    f" {facts['data_checksum']}, code {facts['code_hash']},"
    f" {facts['device']}."
  )

"""Finished runs as a table, a JSON file and the scaling figure."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from fmjax.data.schema import DataError
from fmjax.eval.compare import compare
from fmjax.eval.ranked import Ranked
from fmjax.scaling import fit, forms, measure, records
from fmjax.scaling.reports import figure, markdown, study, study_figure
from fmjax.scaling.rungs import (
  SELECTED_ON,
  Rung,
  find_runs,
  is_run,
  on_common_seeds,
  read_rungs,
  refuse_mixture,
)
from fmjax.scaling.uncertainty import Samples, band, sample

METRICS = ("nll", "hr@10", "ndcg@10")
FITTED = ("nll", "ndcg@10")
COMPARED = "ndcg@10"


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  *,
  figure_path: pathlib.Path | None = None,
  result_path: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """Writes `report.json`, `report.md`, the figure and the records.

  Of a grid of sizes and lengths the ladder is that of the longest training, and
  the rest of the content is the study's (study.py); its records are committed
  beside the result, in a folder of the same name.

  Args:
    places: run directories, or folders of them (a sweep's root).
    out: where to.
    figure_path: of the PNG, an SVG goes beside it; `out`/figure.png if None.
    result_path: also write the result to be committed there.
    command: regenerates that result.

  Returns:
    The content of `report.json`.
  """
  run_dirs, notes = find_runs(places)
  rungs = read_rungs(run_dirs)
  grid = study.is_grid(rungs)
  if grid or not all(map(is_run, places)):
    refuse_mixture(rungs, places, lengths=grid)
  baseline_dir = measure.baselines_of_result(
    rungs[0].first, root=run_dirs[0].parent
  )
  ladder = study.longest(on_common_seeds(rungs)) if grid else rungs
  content = analyze(
    ladder,
    baselines=measure.read_baselines(baseline_dir),
    baseline_metrics=records.read_json(baseline_dir / "summary.json") or {},
  )
  if grid:
    floor = content["baselines"].get("oracle", {}).get("nll")
    content |= study.analyze(rungs, floor=floor)
  content["notes"] = notes
  path = figure_path or out / "figure.png"
  content["figure"] = str(path)
  (study_figure.draw if grid else figure.draw)(content, path)
  records.write_tables(run_dirs, out)
  records.write_json(out / "report.json", content)
  (out / "report.md").write_text(markdown.render(content, out=out))
  if result_path is not None:
    _commit(result_path, ladder, content, command=command)
    if grid:
      records.write_tables(run_dirs, result_path.with_suffix(""))
  return records.finite(content)


def _commit(
  path: pathlib.Path,
  rungs: Sequence[Rung],
  content: dict[str, Any],
  *,
  command: str,
) -> None:
  """Writes `analysis/results/<study>/<name>.json`.

  Of one run its record; of a ladder the record of the best rung and, beside it,
  all that the report says.
  """
  best = next(rung for rung in rungs if rung.name == content["best"])
  extra = {key: content[key] for key in ("compare", "protocol")}
  if len(rungs) > 1:
    extra = {key: content[key] for key in content if key != "baselines"}
    # As seen from the repository's root, where it is committed.
    extra["figure"] = os.path.relpath(content["figure"])
  records.write_result(
    path,
    command=command,
    result=best.first,
    baselines=content["baselines"],
    extra=extra,
  )


def analyze(
  rungs: Sequence[Rung],
  *,
  baselines: dict[str, Ranked],
  baseline_metrics: dict[str, Any],
) -> dict[str, Any]:
  """Everything the table and the figure show; JSON-ready."""
  samples = {
    metric: sample([rung.ranked for rung in rungs], metric)
    for metric in METRICS
  }
  # By validation: the best of several test results flatters itself.
  best = int(np.argmax([rung.validation for rung in rungs]))
  against = {f"best_vs_{name}": ranked for name, ranked in baselines.items()}
  comparisons = {
    name: compare(rungs[best].ranked, ranked, metric=COMPARED)
    for name, ranked in against.items()
  }
  if best:
    comparisons["best_vs_smallest"] = compare(
      rungs[best].ranked, rungs[0].ranked, metric=COMPARED
    )
  fits = {
    metric: fit_rungs(rungs, samples[metric], metric=metric)
    for metric in FITTED
  }
  return {
    "rungs": [
      _rung(rung, samples, number) for number, rung in enumerate(rungs)
    ],
    "baselines": baseline_metrics,
    "best": rungs[best].name,
    "best_on": f"validation {SELECTED_ON}",
    "compare": {name: list(c.interval) for name, c in comparisons.items()},
    "compare_difference": {n: c.difference for n, c in comparisons.items()},
    "compare_metric": COMPARED,
    "fit": {"x": "backbone", **fits},
    "findings": findings(rungs, samples),
    "rank_correlation_nll_ndcg": _rank_correlation(samples),
    "protocol": _protocol(rungs[0]),
  }


def fit_rungs(
  rungs: Sequence[Rung], samples: Samples, *, metric: str
) -> dict[str, Any]:
  """The law over backbone parameters, its band, and what it looks like."""
  x_n = np.array([rung.backbone for rung in rungs], float)
  total_n = np.array([r.first["params"]["total"] for r in rungs], float)
  form = forms.form("power_offset", rising=metric != "nll")
  gain = samples.improvement()
  result: dict[str, Any] = {
    "improvement": gain.value_n.tolist(),
    "improvement_ci": gain.interval_n().tolist(),
  }
  try:
    law = fit.fit(
      x_n, samples.value_n, form=form, x_name="backbone", y_name=metric
    )
    against_total = fit.fit(
      total_n, samples.value_n, form=form, x_name="total", y_name=metric
    )
  except DataError as error:
    return {
      **result,
      "form": form.name,
      "converged": False,
      "good": False,
      "warnings": [f"not fitted: {error}"],
    }
  spread = band(law, x_n, samples, relative=True)
  return {
    **result,
    **law.to_dict(),
    "against_total": against_total.to_dict(),
    "band": {
      "level": spread.level,
      "of": "refits to resampled test users"
      + (" and seeds" if any(len(r.ranked) > 1 for r in rungs) else ""),
      "x": spread.x.tolist(),
      "improvement": spread.y.tolist(),
      "low": spread.low.tolist(),
      "high": spread.high.tolist(),
    },
  }


def findings(
  rungs: Sequence[Rung], samples: dict[str, Samples]
) -> dict[str, str]:
  """Does bigger help? One sentence a metric, from paired intervals."""
  return {
    metric: _finding([r.name for r in rungs], samples[metric])
    for metric in FITTED
  }


def _finding(names: Sequence[str], samples: Samples) -> str:
  if len(names) < 2:
    return "one rung: nothing to compare"
  last = len(names) - 1
  stop = next(
    rung
    for rung in range(last + 1)
    if not any(_better(samples, j, rung) for j in range(rung + 1, last + 1))
  )
  if stop == last:
    gain = samples.improvement()
    low, high = gain.interval_n()[last]
    return (
      f"still improves at the largest rung: {names[last]} is"
      f" {gain.value_n[last]:.1%} [{low:.1%}, {high:.1%}] better than"
      f" {names[0]}"
    )
  worse = [
    names[j] for j in range(stop + 1, last + 1) if _better(samples, stop, j)
  ]
  verb = "is" if len(worse) == 1 else "are"
  tail = f"; {' and '.join(worse)} {verb} worse" if worse else ""
  return f"no gain beyond {names[stop]}, by paired 95 % intervals{tail}"


def _better(samples: Samples, rung: int, other: int) -> bool:
  low, high = samples.difference(rung, other)
  return bool(high < 0 if samples.metric == "nll" else low > 0)


def _rung(
  rung: Rung, samples: dict[str, Samples], number: int
) -> dict[str, Any]:
  test: dict[str, Any] = {}
  for metric, drawn in samples.items():
    test[metric] = float(drawn.value_n[number])
    test[f"{metric}_ci"] = drawn.interval_n()[number].tolist()
  # Of several seeds the mean, of the interval's ends, too.
  for name in ("coverage@10", "coverage@10_ci"):
    values = [result["test"][name] for result in rung.results]
    test[name] = np.mean(values, axis=0).tolist()
  first = rung.first
  return {
    "name": rung.name,
    "params": first["params"],
    "tokens": round(rung.mean("tokens")),
    "unique_tokens": round(rung.mean("unique_tokens")),
    "epochs": rung.mean("epochs"),
    "flops": first["flops"]["model"],
    "flops_six_nd": first["flops"]["six_nd"],
    "flops_xla": first["flops"]["xla"],
    "seeds": [result["seed"] for result in rung.results],
    "run_ids": [result["run_id"] for result in rung.results],
    "selected_step": [result["selected_step"] for result in rung.results],
    "steps": first["config"]["run"]["steps"],
    "wall_s": rung.mean("wall_s"),
    "validation": {SELECTED_ON: rung.validation},
    "test": test,
  }


def _protocol(rung: Rung) -> dict[str, Any]:
  ranked, config = rung.ranked[0], rung.first["config"]
  return {
    "data": config["data"]["source"]["type"],
    "split": config["data"]["split"]["type"],
    "data_checksum": rung.first["data_checksum"],
    "items": ranked.catalog_items,
    "queries": len(ranked.rank),
    "users": len(np.unique(ranked.user)),
    "targets": ranked.targets,
    "seen_filtered": ranked.seen_filtered,
    "code_hash": rung.first["code_hash"],
    "device": rung.first["device"],
  }


def _rank_correlation(samples: dict[str, Samples]) -> float | None:
  """Spearman's, of -nll and ndcg@10 over rungs: 1 if loss and metric agree."""
  loss_n, metric_n = samples["nll"].value_n, samples["ndcg@10"].value_n
  if len(loss_n) < 3 or np.ptp(loss_n) == 0 or np.ptp(metric_n) == 0:
    return None
  # Spearman's is Pearson's of the ranks.
  ranks = scipy.stats.rankdata([-loss_n, metric_n], axis=1)
  return float(np.corrcoef(ranks)[0, 1])

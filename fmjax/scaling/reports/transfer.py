"""Does the best learning rate of a narrow model serve a wide one?

Read off runs of several widths at several rates. μP (Yang et al. 2022, "Tensor
Programs V", arXiv 2203.03466) says that it does; without, the best rate should
fall as the width grows.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.config import MaximalUpdate, StandardScale, from_dict
from fmjax.data.schema import DataError
from fmjax.scaling import records
from fmjax.scaling.reports.figure import (
  BLUE,
  GRID,
  INK,
  PALE,
  new_figure,
)
from fmjax.scaling.rungs import Rung, find_runs, read_rungs, refuse_mixture

_FREE = ("optim.learning_rate", "model.scale.type", "model.scale.base_width")
NAMES = {
  StandardScale.__name__: "standard parametrization",
  MaximalUpdate.__name__: "μP",
}
_LIGHTEST = 0.3


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  *,
  figure_path: pathlib.Path | None = None,
  result_path: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """Writes `transfer.json`, the figure and the records.

  Args:
    places: run directories, folders of them, or the list of a sweep's runs.
    out: where to.
    figure_path: of the PNG, an SVG goes beside it; `out`/figure.png if None.
    result_path: also write the result to be committed there, and the records
      in a folder of the same name.
    command: regenerates that result.

  Returns:
    The content of `transfer.json`.
  """
  run_dirs, notes = find_runs(places)
  rungs = read_rungs(run_dirs)
  refuse_mixture(rungs, places, free=_FREE)
  content = {**analyze(rungs), "notes": notes}
  path = figure_path or out / "figure.png"
  draw(content, path)
  records.write_tables(run_dirs, out)
  records.write_json(out / "transfer.json", content)
  if result_path is not None:
    lowest = min(rungs, key=_validation)
    records.write_result(
      result_path,
      command=command,
      result=lowest.first,
      baselines={},
      extra=content,
    )
    records.write_tables(run_dirs, result_path.with_suffix(""))
  return records.finite({**content, "figure": str(path)})


def analyze(rungs: Sequence[Rung]) -> dict[str, Any]:
  """The best rate of each width under each parametrization; JSON-ready.

  The narrowest width of μP is that which the others are scaled from; there both
  parametrizations are the same model, so its curve starts either.

  Returns:
    "curves", by parametrization a list from the narrowest width: its rates,
    losses and best rate, by validation, as powers of two from the narrowest's
    best; "at_edge" where the best is the lowest or highest that was tried.

  Raises:
    DataError: there are fewer than two widths, or three rates at one.
  """
  found: dict[str, dict[int, list[Rung]]] = {}
  for rung in rungs:
    config = from_dict(rung.first["config"]).model
    scale = type(config.scale).__name__
    found.setdefault(scale, {}).setdefault(config.width, []).append(rung)
  mup = found.get(MaximalUpdate.__name__, {})
  if len(mup) < 2:
    raise DataError(
      f"the runs have {len(mup)} widths with model.scale=MaximalUpdate(): a"
      " rate's transfer is read off two or more"
    )
  narrowest = min(mup)
  for by_width in found.values():
    by_width.setdefault(narrowest, mup[narrowest])
  start = _curve(mup[narrowest])["best_rate"]
  curves = {}
  for scale, by_width in found.items():
    curves[scale] = [_curve(by_width[width]) for width in sorted(by_width)]
    for curve in curves[scale]:
      curve["steps_from_narrowest"] = float(np.log2(curve["best_rate"] / start))
  return {"curves": curves, "chosen_on": "validation nll"}


def _curve(rungs: Sequence[Rung]) -> dict[str, Any]:
  rungs = sorted(rungs, key=_rate)
  first = rungs[0].first
  width = first["config"]["model"]["width"]
  if len(rungs) < 3:
    raise DataError(
      f"width {width} was trained at {len(rungs)} rates: a best one is told"
      " from three or more"
    )
  loss = [_validation(rung) for rung in rungs]
  best = int(np.argmin(loss))
  return {
    "width": width,
    "backbone": first["params"]["backbone"],
    "rates": [_rate(rung) for rung in rungs],
    "validation_nll": loss,
    "test_nll": [
      float(np.mean([r["test"]["nll"] for r in rung.results])) for rung in rungs
    ],
    "best_rate": _rate(rungs[best]),
    "at_edge": best in (0, len(rungs) - 1),
  }


def _rate(rung: Rung) -> float:
  return rung.first["config"]["optim"]["learning_rate"]


def _validation(rung: Rung) -> float:
  return float(np.mean([r["validation"]["nll"] for r in rung.results]))


def verdicts(content: Mapping[str, Any]) -> list[str]:
  """A sentence a parametrization: how far the best rate moves."""
  said = []
  for scale, curves in content["curves"].items():
    widest, narrowest = curves[-1], curves[0]
    times = widest["width"] / narrowest["width"]
    edge = ", at the edge of what was tried" if widest["at_edge"] else ""
    said.append(
      f"{NAMES[scale]}: at {times:g}× the width the best learning rate is"
      f" {widest['best_rate']:g} against {narrowest['best_rate']:g}"
      f" ({widest['steps_from_narrowest']:+g} steps of ×2){edge}"
    )
  return said


def draw(content: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes `path` (PNG) and the same as SVG beside it: a panel a scale."""
  panels = content["curves"]
  with new_figure(path, size=(6 * len(panels), 4.8)) as figure:
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(
      left=0.08, right=0.97, bottom=0.14, top=0.82, wspace=0.08
    )
    for axis, (scale, curves) in zip(axes, panels.items(), strict=True):
      _panel(axis, curves)
      axis.set_title(NAMES[scale], loc="left", fontsize=12, color=INK)
    axes[0].set_ylabel("validation NLL, nats")
    axes[0].legend(frameon=False, fontsize=9)
    figure.text(
      0.08,
      0.93,
      "The best learning rate by width: a ring; dashed: of the narrowest",
      fontsize=13,
      color=INK,
    )


def _panel(axis, curves: Sequence[dict[str, Any]]) -> None:
  shades = np.linspace(_LIGHTEST, 1, len(curves))
  for curve, shade in zip(curves, shades, strict=True):
    loss, place = curve["validation_nll"], curve["rates"].index
    axis.plot(
      curve["rates"],
      loss,
      "o-",
      color=BLUE,
      alpha=shade,
      markersize=4,
      label=f"width {curve['width']}",
    )
    axis.plot(
      curve["best_rate"],
      loss[place(curve["best_rate"])],
      "o",
      markersize=11,
      markerfacecolor="none",
      markeredgecolor=INK,
    )
  axis.axvline(
    curves[0]["best_rate"], color=PALE, linewidth=1.4, linestyle=(0, (4, 3))
  )
  rates = sorted({rate for curve in curves for rate in curve["rates"]})
  axis.set_xscale("log", base=2)
  axis.set_xticks(rates, [f"{1_000 * rate:.3g}" for rate in rates])
  axis.set_xlabel("learning rate of the recipe, thousandths")
  axis.grid(True, color=GRID, linewidth=0.8)
  axis.set_axisbelow(True)
  axis.tick_params(length=0)
  axis.minorticks_off()
  for side in ("top", "right"):
    axis.spines[side].set_visible(False)

"""How the ladder ranks new titles, with metadata and without."""

import json
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import plots, scaling, slices, tables
from analysis.performance import Shown
from analysis.plots import BLUE, GREEN, RED
from experiments import cold_items

_MIXERS = {"metadata": ("id and metadata", BLUE), "ids": ("ids alone", RED)}
_PARTS = {
  "all": "All titles",
  "unseen": "Titles never trained on",
  "warm": "Titles trained on 20 times or more",
}


def ladder(mixer: str) -> dict[int, Mapping[str, Any]]:
  """Of the items of that kind, by backbone parameters."""
  folder = plots.RESULTS / "cold_items"
  found = [
    json.loads((folder / f"synthetic_d{width}_{mixer}.json").read_text())
    for width in cold_items.WIDTHS
  ]
  return {result["params"]["backbone"]: result for result in found}


def draw() -> Figure:
  """NDCG@10 by size: of all titles, of new ones, and of the others."""
  canvas, axes = plots.panels(13, 4.6, len(_PARTS))
  for axis, (part, title) in zip(axes, _PARTS.items(), strict=True):
    for mixer, (label, color) in _MIXERS.items():
      told = {
        size: slices.level(result["slices"][part], "ndcg@10")
        for size, result in ladder(mixer).items()
      }
      slices.curve(
        axis, list(told), list(told.values()), color=color, label=label
      )
    best = next(iter(ladder("ids").values()))["slices"][part]["baselines"]
    axis.axhline(
      best["oracle"]["ndcg@10"],
      color=GREEN,
      linestyle=(0, (5, 2)),
      label="the oracle",
    )
    axis.set_xscale("log")
    axis.set_xlabel("backbone parameters")
    axis.set_ylabel("test NDCG@10")
    plots.headline(axis, title)
  axes[0].legend(fontsize=9, frameon=False)
  return canvas


def figure() -> Shown:
  """The ladder with metadata and without; bars: 95 % over users."""
  return scaling.shown(draw, figure.__doc__)


def table() -> Shown:
  """Id and metadata minus ids alone, at every size, on the same users."""
  rows = []
  for size, result in ladder("metadata").items():
    parts = [result["slices"][part] for part in _PARTS]
    rows.append(
      (
        f"{size:,}",
        *(
          slices.signed(part, metric)
          for part in parts
          for metric in slices.METRICS
        ),
      )
    )
  head = (
    "backbone",
    *(
      f"{name}, {title.lower()}"
      for title in _PARTS.values()
      for name in slices.METRICS.values()
    ),
  )
  return Shown(
    about=table.__doc__ or "",
    markdown=tables.markdown(head, rows, text=()),
  )


def sentences() -> list[str]:
  """At the smallest size and the largest, and the difference at the largest."""
  ends = {}
  for mixer, (label, _) in _MIXERS.items():
    found = list(ladder(mixer).values())
    first, last = (
      r["slices"]["unseen"]["ndcg@10"] for r in (found[0], found[-1])
    )
    ends[label] = f"{first:.3f} to {last:.3f} with {label}"
  found = ladder("metadata")
  largest = found[max(found)]["slices"]
  return [
    f"Titles never trained on, {min(found):,} to {max(found):,} backbone"
    f" parameters: NDCG@10 {', '.join(ends.values())}. At the largest, id and"
    f" metadata minus ids alone: {slices.gains(largest['unseen'])}; over all"
    f" titles {slices.gains(largest['all'])}."
  ]

"""What a longer context is worth at equal compute."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import plots, scaling, slices, tables
from analysis.performance import Shown
from analysis.plots import BLUE, INK, RED
from experiments import context

_KINDS = {"full": ("full attention", BLUE), "low_rank": ("low-rank", RED)}
_LABELS = {"nll": "test NLL, nats", "ndcg@10": "NDCG@10"}


def arms() -> Mapping[str, Any]:
  """Of the study of contexts, by name."""
  return scaling.read("context")["arms"]


def by_kind() -> dict[str, dict[int, Mapping[str, Any]]]:
  """Arms by how they attend, then by their window."""
  found = arms()
  return {
    kind: {
      window: found[f"{kind}_{window}"]
      for window in context.WINDOWS
      if f"{kind}_{window}" in found
    }
    for kind in _KINDS
  }


def draw() -> Figure:
  """Differences to the reference, by window."""
  reference = scaling.read("context")["reference"]
  canvas, axes = plots.panels(13, 4.6, 2)
  for axis, metric in zip(axes, _LABELS, strict=True):
    axis.axhline(0, color=INK, linewidth=1)
    for kind, of_kind in by_kind().items():
      label, color = _KINDS[kind]
      told = {
        window: slices.difference(arm["slices"]["all"], metric)
        for window, arm in of_kind.items()
      }
      slices.curve(
        axis, list(told), list(told.values()), color=color, label=label
      )
    axis.set_xscale("log", base=2)
    axis.set_xticks(context.WINDOWS, [f"{w:,}" for w in context.WINDOWS])
    axis.set_xlabel("window, events")
    axis.set_ylabel(f"{_LABELS[metric]}, minus {reference.replace('_', ' ')}'s")
  plots.headline(axes[0], "Equal compute: below 0 is better")
  plots.headline(axes[1], "Equal compute: above 0 is better")
  axes[0].legend(fontsize=9, frameon=False)
  return canvas


def figure() -> Shown:
  """NLL and NDCG@10 by window, at equal compute; bars: 95 % over users."""
  return scaling.shown(draw, figure.__doc__)


def table() -> Shown:
  """What each window costs, and what it brings."""
  rows = [
    (
      f"{window:,}",
      _KINDS[kind][0],
      f"{arm['tokens']:,}",
      tables.value(arm["slices"]["all"], "nll"),
      slices.signed(arm["slices"]["all"], "nll"),
      slices.signed(arm["slices"]["all"], "ndcg@10"),
    )
    for kind, of_kind in by_kind().items()
    for window, arm in of_kind.items()
  ]
  head = (
    "window",
    "attention",
    "tokens",
    "test NLL",
    "NLL − the reference's",
    "NDCG@10 − the reference's",
  )
  return Shown(
    about=table.__doc__ or "",
    markdown=tables.markdown(head, rows, text=(1,)),
  )


def sentences() -> list[str]:
  """The window that validation chooses, and the ends, each way to attend."""
  reference = scaling.read("context")["reference"]
  lines = []
  for kind, of_kind in by_kind().items():
    best = max(of_kind, key=lambda window: _validation(of_kind[window]))
    shown = [
      window
      for window in dict.fromkeys((best, min(of_kind), max(of_kind)))
      if f"{kind}_{window}" != reference
    ]
    told = "; ".join(
      f"at {window:,} {slices.gains(of_kind[window]['slices']['all'])}"
      for window in shown
    )
    lines.append(
      f"Equal compute, {_KINDS[kind][0]}: validation chooses a window of"
      f" {best:,} events. Minus `{reference}`'s: {told}."
    )
  return lines


def _validation(arm: Mapping[str, Any]) -> float:
  return arm["validation_mean"]["ndcg@10"]

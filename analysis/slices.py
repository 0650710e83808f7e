"""What curves, tables and sentences tell of a result's slices."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from analysis import tables

METRICS = {"nll": "NLL", "ndcg@10": "NDCG@10"}


def level(
  part: Mapping[str, Any], metric: str
) -> tuple[float, Sequence[float]]:
  """With its interval."""
  return part[metric], part[f"{metric}_ci"]


def difference(
  part: Mapping[str, Any], metric: str
) -> tuple[float, Sequence[float]]:
  """To the reference; of itself none."""
  told = part.get("to_reference", {}).get(metric)
  return (told["difference"], told["interval"]) if told else (0.0, (0.0, 0.0))


def signed(part: Mapping[str, Any], metric: str) -> str:
  """The difference to the reference; bold where it separates from 0."""
  told = part.get("to_reference", {}).get(metric)
  return tables.signed(told, bold=True) if told else "the reference"


def gains(part: Mapping[str, Any]) -> str:
  """Differences by every metric."""
  return ", ".join(
    f"{name} {signed(part, metric)}" for metric, name in METRICS.items()
  )


def curve(
  axis: Axes,
  places: Sequence[int],
  told: Sequence[tuple[float, Sequence[float]]],
  *,
  color: str,
  label: str,
) -> None:
  """Values by their places, with the ends of their intervals."""
  axis.plot(
    places,
    [value for value, _ in told],
    "o-",
    color=color,
    markersize=5,
    linewidth=1.6,
    label=label,
  )
  for place, (_, ends) in zip(places, told, strict=True):
    axis.plot([place, place], ends, color=color, linewidth=1.2, alpha=0.6)

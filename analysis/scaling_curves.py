"""What a larger backbone brings, task by task, and whether it was foreseen.

python -m analysis.scaling_curves   # draws its figures; also `make figures`
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import plots, scaling, tables
from analysis.performance import Shown
from fmjax.scaling.reports import study_figure, tasks, transfer

_HEADS = ("genre", "action")
_TITLES = {
  "all": "Next title, all queries",
  "cold": "Next title, never trained on",
  "genre": "Genre head",
  "action": "Action head",
}


def study() -> scaling.Study:
  return scaling.read("parameters_data")


def told() -> dict[str, Any]:
  """The curve of each task, by its name."""
  found = dict(study()["tasks"])
  ladder = found["all"]
  for head in _HEADS:
    results = [scaling.read(f"heads/d{w}_{head}") for w in widths()]
    found[head] = tasks.curve(
      ladder["params"],
      tasks.from_intervals(
        "nll", [result["asked"]["model"] for result in results]
      ),
      held_out=ladder["held_out"],
    )
  return found


def widths() -> list[int]:
  """Of the ladder, from the smallest."""
  return sorted({rung["width"] for rung in study()["grid"]})


def draw_tasks(found: Mapping[str, Any]) -> Figure:
  """A panel a task."""
  canvas, axes = plots.panels(16, 4.2, len(found))
  for axis, (name, of) in zip(axes, found.items(), strict=True):
    scaling.task(axis, of, _TITLES[name])
  axes[0].legend(fontsize=9, frameon=False, loc="lower right")
  return canvas


def figure() -> Shown:
  """Relative improvement against parameters, a panel a task."""
  return scaling.shown(lambda: draw_tasks(told()), figure.__doc__)


def held_out() -> Shown:
  """The largest rungs, predicted from the smaller ones."""
  content = study()
  rows = [
    (
      each["name"],
      f"{each['params']:,.0f}",
      f"{each['measured']:.4f}",
      f"{each['predicted']:.4f} ({scaling.interval(each['interval'], 4)})",
      _share(law),
      f"{each['straight_line']:.4f}",
      _share(line),
    )
    for each, law, line in zip(
      content["held_out"],
      content["holdout_error_over_drop"],
      content["straight_line_error_over_drop"],
      strict=True,
    )
  ]
  head = (
    "rung",
    "backbone",
    "test NLL",
    "by the law (90 %)",
    "error / drop",
    "by a straight line",
    "error / drop",
  )
  return Shown(
    about=held_out.__doc__ or "", markdown=tables.markdown(head, rows)
  )


def law() -> Shown:
  """The law through all runs, and the floor beneath it."""
  content = study()
  found = content["law"]
  rows = [
    (name, f"{found['parameters'][name]:.4g}", scaling.interval(ends, 3))
    for name, ends in found["bootstrap"]["intervals"].items()
  ]
  head = ("parameter", "fitted", "90 %, by trunk")
  lines = [
    tables.markdown(head, rows),
    "",
    f"Known floor, the oracle's NLL: {content['known_floor']:.4f} nats. Fitted"
    f" irreducible loss: {content['irreducible']:.4f}"
    f" ({scaling.interval(content['irreducible_ci'], 4)}).",
  ]
  lines += [f"* {warning}" for warning in found["warnings"]]
  return Shown(about=law.__doc__ or "", markdown="\n".join(lines))


def ceilings() -> Shown:
  """Where each task ends, and how far its largest rung has come."""
  rows = [
    (
      _TITLES[name],
      f"{100 * of['improvement'][-1]:.2f} %",
      f"{100 * of['ceiling']:.2f} %" if "ceiling" in of else "",
      "yes" if of["good"] else f"no: {of['warnings'][0]}",
    )
    for name, of in told().items()
  ]
  head = ("task", "largest rung over the smallest", "ceiling", "good fit")
  return Shown(
    about=ceilings.__doc__ or "",
    markdown=tables.markdown(head, rows, text=(0, 3)),
  )


def rates() -> Shown:
  """The best learning rate by width, with μP and without."""
  content = scaling.read("mup_transfer")
  return Shown(
    about=rates.__doc__ or "",
    markdown="\n".join(f"* {line}" for line in transfer.verdicts(content)),
  )


def _share(error: float | None) -> str:
  return "no drop" if error is None else f"{100 * error:.0f} %"


def main() -> None:
  study_figure.draw(study(), plots.FIGURES / "scaling.png")
  transfer.draw(
    scaling.read("mup_transfer"), plots.FIGURES / "mup_transfer.png"
  )
  scaling.save(lambda: draw_tasks(told()), "tasks")


if __name__ == "__main__":
  main()

r"""What is time worth: the hour, how long ago, and how long since?

  fmjax sweep experiments/ablate_time.py --runs runs/ablations
  fmjax report experiments/ablate_time.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_time \
    --result analysis/results/ablate_time

The reference knows the calendar at the request, weighs past events by how long
ago they were, and knows the gap since the event before.

  no_calendar  no hour, weekday and date
  no_relative  attention goes by order and content
  no_gap       nothing tells the time since the event before
  no_time      none of the three
"""

from experiments import ablations
from fmjax.config import Experiment, NoGap, NoRelativeTime, NoTime


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    dict.fromkeys(("synthetic", "movietweetings"), changes())
  )


def changes() -> ablations.Changes:
  off = {
    "no_calendar": {"model.time": NoTime()},
    "no_relative": {"model.relative_time": NoRelativeTime()},
    "no_gap": {"model.gap": NoGap()},
  }
  every = {
    path: part for change in off.values() for path, part in change.items()
  }
  return {**off, "no_time": every}

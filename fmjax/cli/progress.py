"""How far a sweep is, told while its runs go on in other processes."""

import math
import time
import types
from collections.abc import Mapping, Sequence

import rich.progress

from fmjax.cli.terminal import Terminal
from fmjax.scaling.sweep.standing import Standing, counts

_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


class SweepProgress:
  """Runs done, running and failed, and an ETA: a bar, or lines in a file.

  The ETA is by FLOPs, since the runs of a ladder are anything but equal. What
  was done before the first look does not count as speed.
  """

  def __init__(self, terminal: Terminal):
    self._terminal = terminal
    self._bar = terminal.bar()
    self._task: rich.progress.TaskID | None = None
    self._began_s = self._told_s = time.monotonic()
    self._flops_before: float | None = None
    self._told = ""

  def __enter__(self) -> "SweepProgress":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    if self._bar is not None:
      self._bar.stop()

  def update(self, standings: Sequence[Standing]) -> None:
    """Tells how all runs stand; may be called as often as one likes."""
    done = sum(one.flops_done for one in standings)
    if self._flops_before is None:
      self._flops_before = done
    text = in_words(counts(standings), total=len(standings))
    over = sum(one.over for one in standings)
    left = self._left(done=done, total=sum(one.flops for one in standings))
    if self._bar is not None:
      if self._task is None:
        self._bar.start()
        self._task = self._bar.add_task("sweep", total=len(standings))
      self._bar.update(self._task, completed=over, description=f"{text}{left}")
      return
    now = time.monotonic()
    last = over == len(standings) and text != self._told
    if last or now - self._told_s >= _PLAIN_SECONDS:
      self._told_s, self._told = now, text
      self._terminal.say(f"{text}{left}")

  def _left(self, *, done: float, total: float) -> str:
    """` · 1:23:45 left`; nothing if all is done or no speed is known."""
    speed = (done - (self._flops_before or 0.0)) / (
      time.monotonic() - self._began_s
    )
    if speed <= 0 or done >= total:
      return ""
    minutes, seconds = divmod(math.ceil((total - done) / speed), 60)
    hours, minutes = divmod(minutes, 60)
    return f" · {hours}:{minutes:02d}:{seconds:02d} left"


def in_words(counted: Mapping[str, int], *, total: int) -> str:
  """`3 of 12 done · 2 running · 1 failed · 6 new`."""
  others = [
    f"{number} {state}" for state, number in counted.items() if state != "done"
  ]
  return " · ".join([f"{counted.get('done', 0)} of {total} done", *others])

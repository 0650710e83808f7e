"""SIGTERM as a wish: work stops at the next point where nothing is lost."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class Stop:
  """Attributes: requested: whether SIGTERM has arrived."""

  requested: bool = False


_active: Stop | None = None


@contextlib.contextmanager
def on_sigterm() -> Iterator[Stop]:
  """Notes SIGTERM instead of dying of it.

  Nested uses share the outermost, so a signal that one run notices also ends
  the sweep around it. Outside the main thread, where Python takes no signals,
  nothing is ever requested.
  """
  global _active
  if _active is not None:
    yield _active
    return
  if threading.current_thread() is not threading.main_thread():
    yield Stop()
    return
  stop = _active = Stop()

  def note(*_) -> None:
    stop.requested = True

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield stop
  finally:
    _active = None
    signal.signal(signal.SIGTERM, before)

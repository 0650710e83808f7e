"""How a driver and its workers talk: one JSON object a line, both ways.

A worker is a process that owns a model in training. It says who it is, then
waits on its standard input and does what it is told:

  {"do": "train"}     one leg, a fixed number of steps  → what the leg took
  {"do": "evaluate"}  validation NDCG@10                → the value, seconds
  {"do": "quit"}      or the end of its input

While one worker works, the others wait and take no processor time. Only the
standard library is imported here: workers run in environments of their own.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]

Answer = dict[str, Any]

# Both sides get malloc on huge pages, as `fmjax train` sees to by itself: to
# compare with a peer whose machine was set up less well would prove nothing.
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Worker:
  """A worker as its driver sees it.

  Attributes:
    facts: what it said of itself.
  """

  def __init__(self, python: str, module: str, settings: dict[str, Any]):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    self._module = module
    self._process = subprocess.Popen(
      [python, "-m", module, json.dumps(settings)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={
        **ENVIRONMENT,
        **os.environ,
        "PYTHONPATH": path.rstrip(os.pathsep),
      },
    )
    self.facts = self._answer()

  def ask(self, what: str) -> Answer:
    """Waits for the answer; nothing else happens meanwhile."""
    self._stdin.write(json.dumps({"do": what}) + "\n")
    self._stdin.flush()
    return self._answer()

  def close(self) -> None:
    """Ends it, which is all that the end of its input asks for."""
    with self._process:  # closes the pipes, then waits
      pass

  def __enter__(self) -> "Worker":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  @property
  def _stdin(self) -> Any:
    return self._process.stdin

  def _answer(self) -> Answer:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      self.close()
      raise RuntimeError(
        f"{self._module} ended with status {self._process.returncode}; what it"
        " said is above"
      )
    return json.loads(line)


class Wire:
  """The worker's end; whatever else is printed goes to standard error."""

  def __init__(self):
    self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

  def tell(self, **answer: Any) -> None:
    self._out.write(json.dumps(answer) + "\n")
    self._out.flush()

  def wait(self, evaluate: Callable[[], Answer]) -> None:
    """Evaluates as often as asked; returns when a leg is to be trained."""
    while True:
      line = sys.stdin.readline()
      asked = json.loads(line)["do"] if line else "quit"
      if asked == "train":
        return
      if asked == "evaluate":
        began = time.perf_counter()
        answer = evaluate()
        self.tell(**answer, seconds=time.perf_counter() - began)
      elif asked == "quit":
        sys.exit(0)
      else:
        raise ValueError(f"a worker cannot {asked!r}")


def cpu_s() -> float:
  """Processor seconds of this process and its finished children."""
  spent = os.times()
  return spent.user + spent.system + spent.children_user + spent.children_system


def peak_rss_bytes() -> int:
  """Largest memory held by this process so far, and by its children.

  The children (a loader's workers) each count in full.
  """
  children = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
  pids = {pid for path in children for pid in path.read_text().split()}
  living = [_high_water(pathlib.Path(f"/proc/{pid}")) for pid in pids]
  ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
  return _high_water(pathlib.Path("/proc/self")) + max(sum(living), ended)


def _high_water(process: pathlib.Path) -> int:
  for line in (process / "status").read_text().splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  return 0

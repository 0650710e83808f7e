"""How the runs of a sweep stand, read from their directories as others write.

Nothing is locked or changed: looking disturbs no run.
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from fmjax.scaling import records
from fmjax.scaling.count import step_flops
from fmjax.scaling.sweep import run_state
from fmjax.scaling.sweep.plan import Entry

# Of the end of a metrics.jsonl: several records.
_TAIL_BYTES = 8_192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
  """How one experiment stands.

  Attributes:
    name: of the experiment.
    run_dir: of its run.
    state: of the run, or "queued" where a cluster has it waiting.
    step: the last one that its log or its end tells of.
    steps: that it has in all.
    tokens_per_s: lately, or over all its training once it is done.
    wall_s: seconds over every resumption, once it is done.
    starts: how many processes have worked on it.
    cause: of a failure: "crashed" or "out of memory".
    error: of a failure, one sentence.
    flops: of the whole run.
  """

  name: str
  run_dir: pathlib.Path
  state: str
  step: int
  steps: int
  tokens_per_s: float | None
  wall_s: float | None
  starts: int
  cause: str | None
  error: str | None
  flops: float

  @property
  def over(self) -> bool:
    return self.state in ("done", "failed")

  @property
  def flops_done(self) -> float:
    return self.flops if self.over else self.flops * self.step / self.steps

  def to_dict(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "run_dir": str(self.run_dir)}


def standing(entry: Entry, *, queued: bool = False) -> Standing:
  """How an experiment stands now; `queued`: a cluster has its job."""
  run_dir, run = entry.run_dir, entry.experiment.run
  state: str = run_state.state_of(run_dir)
  status = records.read_json(run_dir / "status.json") or {}
  result = records.read_json(run_dir / "result.json") or {}
  last = last_record(run_dir / "metrics.jsonl")
  rate = last.get("tokens_per_s")
  if state == "done" and result.get("train_s"):
    rate = result["tokens"] / result["train_s"]
  if queued and state not in ("done", "running"):
    state = "queued"
  data = entry.experiment.data
  flops = step_flops(
    entry.experiment.model,
    entry.prepared.spec,
    objective=entry.experiment.objective,
    rows=data.rows,
    window=data.window,
  )
  return Standing(
    name=entry.name,
    run_dir=run_dir,
    state=state,
    step=status.get("step") or last.get("step", 0),
    steps=run.steps,
    tokens_per_s=rate,
    wall_s=result.get("wall_s") if state == "done" else None,
    starts=len(status.get("starts", [])),
    cause=status.get("cause"),
    error=status.get("error"),
    flops=float(run.steps * flops.model.total),
  )


def counts(standings: Iterable[Standing]) -> dict[str, int]:
  """How many are in each state, in the order of first appearance."""
  return dict(collections.Counter(one.state for one in standings))


def last_record(path: pathlib.Path) -> Mapping[str, Any]:
  """The last whole record of a training step in a `metrics.jsonl`, or {}.

  Only the end of the file is read, and a line that is being written is no
  record yet.
  """
  try:
    with path.open("rb") as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(max(0, size - _TAIL_BYTES))
      lines = file.read().splitlines()
  except FileNotFoundError:
    return {}
  for line in reversed(lines):
    try:
      record = json.loads(line)
    except ValueError:
      continue
    if isinstance(record, dict) and "tokens_per_s" in record:
      return record
  return {}

"""Arms: runs that differ from a reference by one change, and their names.

An arm is named `data-arm-sSEED`, as `arms` makes it: one data set, one change
of the reference, one seed.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fmjax.config import Experiment, override
from fmjax.data.schema import DataError
from fmjax.eval.ranked import Ranked
from fmjax.scaling import records
from fmjax.scaling.rungs import Rung, but_seed, find_runs, read_rungs
from fmjax.scaling.sweep import plan

_NAME = re.compile(r"(?P<data>[a-z0-9_]+)-(?P<arm>[a-z0-9_]+)-s(?P<seed>\d+)")


def arms(
  data: str, entries: Mapping[str, Experiment], *, seeds: int
) -> dict[str, Experiment]:
  """Every arm with `seeds` seeds, by the names that a report reads."""
  return {
    f"{data}-{arm}-s{seed}": override(experiment, {"run.seed": seed})
    for arm, experiment in entries.items()
    for seed in range(seeds)
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
  """One configuration on one data set, with all its seeds.

  Attributes:
    data: name of the data set.
    name: of the arm.
    rung: its runs.
    root: the folder that they lie in.
  """

  data: str
  name: str
  rung: Rung
  root: pathlib.Path

  @property
  def ranked(self) -> list[Ranked]:
    return self.rung.ranked

  @property
  def granularity(self) -> dict[str, Any]:
    return self.rung.first["config"]["data"]["granularity"]


def read_arms(
  places: Sequence[pathlib.Path],
) -> tuple[dict[str, list[Arm]], list[str]]:
  """Arms by data set, and a sentence on each run that was left out.

  An arm is called as the experiment files among the places call it: files that
  share a folder may have other names for a run.

  Raises:
    DataError: a run has no arm's name, or two arms have the same.
  """
  run_dirs, notes = find_runs(places)
  called = _called(places)
  members: dict[tuple[str, str], list[pathlib.Path]] = {}
  for run_dir in run_dirs:
    result = records.read_json(run_dir / "result.json") or {}
    named = _parse(called.get(but_seed(run_dir)) or result.get("name", ""))
    members.setdefault((named["data"], named["arm"]), []).append(run_dir)
  found: dict[str, list[Arm]] = {}
  for (data, name), seeds in members.items():
    rungs = read_rungs(seeds)
    if len(rungs) > 1:
      raise DataError(
        f"the seeds of {data}-{name} differ by more than their seed; name the"
        " run directories that belong together"
      )
    arm = Arm(data=data, name=name, rung=rungs[0], root=seeds[0].parent)
    found.setdefault(data, []).append(arm)
  for data, of_data in found.items():
    codes = sorted({arm.rung.first["code_hash"] for arm in of_data})
    if len(codes) > 1:
      notes.append(f"the arms on {data} are of other code: {', '.join(codes)}")
  return found, notes


def _called(places: Sequence[pathlib.Path]) -> dict[Any, str]:
  """What experiment files call their runs, by all of these but the seed."""
  lists = [p for p in places if p.name.endswith(plan.LIST_SUFFIX)]
  return {
    but_seed(path.parent / run): name
    for path in lists
    for name, run in (plan.read_list(path) or {}).items()
  }


def _parse(name: str) -> Mapping[str, str]:
  matched = _NAME.fullmatch(name)
  if matched is None:
    raise DataError(
      f"{name!r} is no arm of an ablation; an arm is called data-arm-sSEED, as"
      " `fmjax.scaling.reports.arms.arms` names it"
    )
  return matched.groupdict()

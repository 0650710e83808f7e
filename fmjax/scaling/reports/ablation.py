"""Arms of an ablation: each against the reference, on the same users.

Seeds are averaged first, then users are resampled: the intervals are of the
difference between two methods on the same people, not of the luck of a seed.

An arm of another granularity is asked other queries. It is compared on those
that both are asked: the same user, second and item.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.config import (
  ConfigError,
  EqualWeights,
  from_dict,
  suggest,
)
from fmjax.data.prepare import ensure_prepared
from fmjax.data.schema import DataError
from fmjax.data.weighting import importance_of
from fmjax.eval.popularity import LIFT
from fmjax.eval.ranked import Ranked
from fmjax.scaling import measure, records
from fmjax.scaling.paired import (
  COLD,
  METRICS,
  SLICES,
  Known,
  describe,
  difference,
)
from fmjax.scaling.reports.arms import Arm, read_arms
from fmjax.scaling.rungs import (
  SELECTED_ON,
  find_runs,
)


def compare_arms(
  found: Sequence[Arm],
  *,
  reference: str,
  baselines: Mapping[str, Ranked] | None = None,
) -> dict[str, dict[str, Any]]:
  """What a result file says of each arm of one data set, by its name.

  Args:
    found: arms of one data set.
    reference: the arm that the others are compared with.
    baselines: their ranks of the reference's queries.
  """
  base = find_reference(found, reference)
  baselines = baselines or {}
  known = {name: Known.of(baselines, name) for name in SLICES}
  content = {}
  for arm in found:
    facts = {
      "name": f"{arm.data}-{arm.name}",
      "arm": arm.name,
      "data": arm.data,
      "reference": reference,
      "seeds": [result["seed"] for result in arm.rung.results],
      "run_ids": [result["run_id"] for result in arm.rung.results],
      "selected_steps": [r["selected_step"] for r in arm.rung.results],
      "tokens": round(arm.rung.mean("tokens")),
      "train_s": arm.rung.mean("train_s"),
      "cold_below": COLD,
      "validation_mean": {SELECTED_ON: arm.rung.validation},
      "validation_seeds": {
        SELECTED_ON: [r["validation"][SELECTED_ON] for r in arm.rung.results]
      },
      "test_mean": {LIFT: _test_mean(arm, LIFT)},
    }
    mine, theirs, of_slice = arm.ranked, base.ranked, known
    if arm.granularity != base.granularity:
      mine, theirs, asked_n = on_common_queries(mine, theirs)
      facts["left_out_queries"] = {
        arm.name: len(arm.ranked[0].rank) - len(mine[0].rank),
        reference: len(base.ranked[0].rank) - len(mine[0].rank),
      }
      common = {name: r.where(asked_n) for name, r in baselines.items()}
      of_slice = {name: Known.of(common, name) for name in SLICES}
    slices = {
      name: describe(
        mine, None if arm is base else theirs, name, known=of_slice[name]
      )
      for name in SLICES
    }
    content[arm.name] = {**facts, **_headline(slices), "slices": slices}
    if gate := _gate(arm):
      content[arm.name]["gate"] = gate
  return content


def _test_mean(arm: Arm, metric: str) -> float | None:
  """A metric of the whole test over seeds; None where a run has none."""
  values = [result["test"].get(metric) for result in arm.rung.results]
  return None if None in values else float(np.mean(values))


def find_reference(found: Sequence[Arm], reference: str) -> Arm:
  """The arm of that name.

  Raises:
    ConfigError: there is none.
  """
  by_name = {arm.name: arm for arm in found}
  if reference not in by_name:
    raise ConfigError(
      f"no arm {reference!r} on {found[0].data}"
      + suggest(reference, sorted(by_name))
    )
  return by_name[reference]


def on_common_queries(
  mine: Sequence[Ranked], theirs: Sequence[Ranked]
) -> tuple[list[Ranked], list[Ranked], np.ndarray]:
  """Answers to the queries that two granularities share.

  A query is shared if user, second and item are; what its history and its
  item's training tokens count is then told as `theirs` counts it.

  Returns:
    Both sides, and which queries of `theirs` are shared, bool [n].

  Raises:
    DataError: they share none.
  """

  def names(ranked: Ranked) -> np.ndarray:
    columns = ("user", "time_s", "item")
    query_n = np.empty(len(ranked.rank), [(name, "i4") for name in columns])
    for name in columns:
      query_n[name] = getattr(ranked, name)
    return query_n

  _, one_n, other_n = np.intersect1d(
    names(mine[0]), names(theirs[0]), return_indices=True
  )
  if not len(one_n):
    raise DataError(
      "the arms of two granularities share no query: prepare both from one log"
    )
  # Rising, as every run's queries are: a user has one of them.
  asked_n = np.zeros(len(theirs[0].rank), bool)
  asked_n[other_n] = True
  order = one_n[np.argsort(other_n)]
  theirs = [ranked.where(asked_n) for ranked in theirs]
  same = {
    name: getattr(theirs[0], name)
    for name in ("history_length", "train_count", "data_checksum")
  }
  return (
    [dataclasses.replace(run.where(order), **same) for run in mine],
    theirs,
    asked_n,
  )


def _headline(slices: Mapping[str, Any]) -> dict[str, Any]:
  """Of the slices, what an arm is first asked for."""
  content = {}
  if "compare" in slices["all"]:
    content["compare"] = slices["all"]["compare"]
  for name, suffix in (("all", ""), ("cold", "_cold")):
    for key in ("gap_closed", "gap_closed_ci"):
      if key in slices[name]:
        content[key.replace("closed", f"closed{suffix}")] = slices[name][key]
  return content


def _gate(arm: Arm) -> dict[str, Any] | None:
  """The learned weight of the id by age, mean over seeds; None without."""
  gates = [r["gate"] for r in arm.rung.results if r.get("gate")]
  if not gates:
    return None
  by_seed = [gate["id_weight"] for gate in gates]
  return {
    "first_days": gates[0]["first_days"],
    "id_weight": np.mean(by_seed, axis=0).tolist(),
    "id_weight_by_seed": by_seed,
  }


def report(
  places: Sequence[pathlib.Path],
  out: pathlib.Path,
  *,
  reference: str,
  result: pathlib.Path | None = None,
  command: str = "",
) -> dict[str, Any]:
  """Writes `ablation.json`, and results to be committed.

  Args:
    places: run directories, folders of them (a sweep's root), or the list of an
      experiment file's runs (`plan.list_path`).
    out: where to.
    reference: the arm that the others are compared with, on every data set.
    result: a folder, for one file an arm (see `result_path`); or a .json file,
      for all arms of one data set and, beside it, the records.
    command: regenerates those results.

  Returns:
    By data set, the arms; and "notes" on runs that were left out.
  """
  found, notes = read_arms(places)
  content: dict[str, Any] = {}
  for data, members in found.items():
    base = find_reference(members, reference)
    for arm in members:
      if arm.granularity != base.granularity:
        _require_same_rows(arm, base)
    content[data] = compare_arms(
      members,
      reference=reference,
      baselines=measure.read_baselines(
        measure.baselines_of_result(base.rung.first, root=base.root)
      ),
    )
    for arm in members:
      if arm is not base and (weighted := _weighted(arm, base)):
        content[data][arm.name]["weighted_to_reference"] = weighted
  if result is not None and result.suffix == ".json":
    _commit_together(result, found, content, reference, command=command)
    # Arms may be of other granularities, which are asked other queries.
    records.write_tables(
      find_runs(places)[0], result.with_suffix(""), together=False
    )
  elif result is not None:
    for data, members in found.items():
      for arm in members:
        said = content[data][arm.name]
        records.write_result(
          result_path(result, arm),
          command=command,
          result=arm.rung.first,
          baselines=said["slices"]["all"].get("baselines", {}),
          extra=said,
        )
  out.mkdir(parents=True, exist_ok=True)
  records.write_json(out / "ablation.json", {"arms": content, "notes": notes})
  return {"arms": content, "notes": notes}


def _commit_together(
  path: pathlib.Path,
  found: Mapping[str, Sequence[Arm]],
  content: Mapping[str, Any],
  reference: str,
  *,
  command: str,
) -> None:
  """All arms in one file, whose run is the reference's first."""
  if len(found) > 1:
    raise DataError(
      f"{path} would hold arms of {', '.join(found)}: name a folder, or the"
      " runs of one data set"
    )
  ((data, members),) = found.items()
  records.write_result(
    path,
    command=command,
    result=find_reference(members, reference).rung.first,
    baselines=content[data][reference]["slices"]["all"].get("baselines", {}),
    extra={"reference": reference, "arms": content[data]},
  )


def result_path(folder: pathlib.Path, arm: Arm) -> pathlib.Path:
  """`<study>/<data>_<arm>.json`; in the folder of its own data `<arm>.json`."""
  own = folder.name == arm.data
  return folder / (f"{arm.name}.json" if own else f"{arm.data}_{arm.name}.json")


def _weighted(arm: Arm, base: Arm) -> dict[str, Any] | None:
  """`to_reference` where a query counts as much as it would in training.

  None of an arm to which every target is as important as any other, and of one
  that is asked other queries than the reference.
  """
  data = from_dict(arm.rung.first["config"]).data
  same = arm.granularity == base.granularity
  if isinstance(data.weighting, EqualWeights) or not same:
    return None
  mine = arm.ranked
  prepared = ensure_prepared(data)
  if prepared.checksum != mine[0].data_checksum:
    raise DataError(
      f"the data of {arm.data}-{arm.name} have changed since it was trained"
      f" ({mine[0].data_checksum}, now {prepared.checksum}): sweep again"
    )
  weight_n = importance_of(
    prepared, data.weighting, mine[0].user, mine[0].history_length
  )
  return {
    metric: difference(mine, base.ranked, metric, weight_n=weight_n)
    for metric in METRICS
  }


def _require_same_rows(arm: Arm, base: Arm) -> None:
  """Users and items have the same rows in both preparations of the log."""
  one, other = (
    ensure_prepared(from_dict(a.rung.first["config"]).data) for a in (arm, base)
  )
  for what, mine, theirs in (
    ("users", one.user_ids, other.user_ids),
    ("items", one.catalog.item_ids, other.catalog.item_ids),
  ):
    if not np.array_equal(mine, theirs):
      raise DataError(
        f"{arm.name} and {base.name} on {arm.data} number their {what}"
        " differently, so their queries cannot be paired; prepare both from one"
        " log"
      )

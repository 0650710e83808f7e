"""Tables and sentences of a study's arms, each a function of results."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from analysis import forests, tables
from analysis.forests import NAMES, Arms, Result
from experiments.ablations import SEEDS

_MIXERS = {
  "age_gate": "age gate",
  "sum": "sum",
  "concat": "concatenation",
  "fixed_gate": "fixed gate, half the id",
  "id_only": "id only",
  "metadata_only": "metadata only",
}
_PARTS = ("all", "cold", "warm")
# By kind of block, the arms with two and with eight of them.
_BLOCKS = {
  "gated": ("reference", "gated_8"),
  "plain": ("plain_2", "plain_8"),
  "SASRec's": ("sasrec_2", "sasrec_8"),
}


def differences(arms: Arms) -> str:
  """NLL and NDCG@10 minus the reference's, all and cold, a row an arm."""
  rows = []
  for data, found in arms.items():
    for arm in forests.arm_order(arms):
      if arm in found:
        rows.append(
          (
            NAMES[data],
            arm,
            *(
              difference(found[arm], part, metric)
              for metric in ("nll", "ndcg@10")
              for part in ("all", "cold")
            ),
          )
        )
  head = ("data", "arm", "NLL, all", "NLL, cold", "NDCG@10, all")
  return tables.markdown((*head, "NDCG@10, cold"), rows, text=(0, 1))


def verdicts(arms: Arms) -> str:
  """A line an arm: the data sets and slices on which NDCG@10 rises or falls.

  Where the paired interval excludes 0; slices are named where they differ from
  the whole. And what validation says: the mean difference over seeds and its
  95 % interval, by Student's t. Above 0, the reference takes the part over.
  """
  lines = [
    f"* `{arm}`: {_helps(found)}; validation: {_validation(found, arms)}"
    for arm in forests.arm_order(arms)
    if (found := {d: of[arm] for d, of in arms.items() if arm in of})
  ]
  return "\n".join(lines)


def depth(arms: Arms) -> str:
  """NDCG@10 of two and eight blocks, a row a block and data set."""
  rows = []
  for data, found in arms.items():
    for block, (two, eight) in _BLOCKS.items():
      if two in found and eight in found:
        parts = [found[arm]["slices"]["all"] for arm in (two, eight)]
        kept = parts[1]["ndcg@10"] / parts[0]["ndcg@10"]
        values = [tables.value(part, "ndcg@10") for part in parts]
        seeds = str(len(found[eight]["seeds"]))
        rows.append((NAMES[data], block, *values, f"{kept:.0%}", seeds))
  head = ("data", "residual", "2 blocks", "8 blocks", "kept", "seeds of 8")
  return tables.markdown(head, rows, text=(0, 1))


def coverage(arms: Arms) -> str:
  """NDCG@10, coverage and popularity lift; the reference first."""
  rows = []
  for data, found in arms.items():
    references = {result["reference"] for result in found.values()}
    for arm in (*references, *forests.arm_order(arms)):
      if arm in found:
        part, mean = found[arm]["slices"]["all"], found[arm].get("test_mean")
        rows.append(
          (
            NAMES[data],
            arm,
            tables.value(part, "ndcg@10"),
            _mean(part, "coverage@10", digits=3),
            _mean(mean, "popularity_lift@10", digits=2),
          )
        )
  head = ("data", "arm", "NDCG@10", "coverage@10", "popularity lift@10")
  return tables.markdown(head, rows, text=(0, 1))


def weighted(arms: Arms) -> str:
  """NDCG@10 minus the reference's, a row an arm."""
  rows = [
    (
      NAMES[data],
      arm,
      difference(found[arm], "all", "ndcg@10"),
      tables.signed(found[arm]["weighted_to_reference"]["ndcg@10"], bold=True),
    )
    for data, found in arms.items()
    for arm in forests.arm_order(arms)
    if "weighted_to_reference" in found.get(arm, {})
  ]
  head = ("data", "arm", "all targets alike", "weighted as in training")
  return tables.markdown(head, rows, text=(0, 1))


def mixers(arms: Mapping[str, Result]) -> str:
  """Share of the NLL between static baseline and oracle, by slice.

  And how much the NLL is above the gate's on cold and warm items.
  """
  rows = []
  for arm, label in _MIXERS.items():
    if arm in arms:
      parts = arms[arm]["slices"]
      gaps = [gap(parts[part]) for part in ("all", "cold", "warm")]
      above = [
        tables.signed(paired["nll"])
        if (paired := parts[part].get("to_reference"))
        else ""
        for part in ("cold", "warm")
      ]
      rows.append((label, *gaps, *above))
  head = ("mixer", "all", "cold", "warm")
  nll = ("NLL - the age gate's, cold", "NLL - the age gate's, warm")
  return tables.markdown((*head, *nll), rows)


def difference(result: Result, part: str, metric: str) -> str:
  of_part = result["slices"][part]
  if "to_reference" not in of_part or not forests.says(result, metric):
    return ""
  text = tables.signed(of_part["to_reference"][metric], bold=True)
  return text + fewer_seeds(result)


def gap(part: Result) -> str:
  return tables.value(part, "gap_closed", digits=3)


def fewer_seeds(result: Result) -> str:
  """Where an arm has fewer seeds than all studies are meant to have."""
  seeds = len(result["seeds"])
  plural = "" if seeds == 1 else "s"
  return "" if seeds >= SEEDS else f" ({seeds} seed{plural})"


def _helps(found: Mapping[str, Result]) -> str:
  helps, hurts, neither = [], [], []
  for data, result in found.items():
    name = NAMES[data] + fewer_seeds(result)
    signs = {part: _sign(result["slices"][part]) for part in _PARTS}
    whole = signs.pop("all")
    told = [part for part, sign in signs.items() if sign not in (0, whole)]
    for sign, places in ((1, helps), (-1, hurts)):
      here = [part for part in told if signs[part] == sign]
      if whole == sign:
        places.append(f"{name}, overall" if told else name)
      elif here:
        places.append(f"{name}, {' and '.join(here)} items")
    if not whole and not told:
      neither.append(name)
  said = [
    f"{verb} (NDCG@10) on {' and on '.join(places)}"
    for verb, places in (("helps", helps), ("hurts", hurts))
    if places
  ]
  if neither:
    said.append(f"no difference in NDCG@10 shown on {' and on '.join(neither)}")
  return "; ".join(said)


def _validation(found: Mapping[str, Result], arms: Arms) -> str:
  """NDCG@10 minus the reference's, by data set, the same seeds of both."""
  said = []
  for data, result in found.items():
    both = result, arms[data][result["reference"]]
    if all("validation_seeds" in one for one in both):
      values = [one["validation_seeds"]["ndcg@10"] for one in both]
    else:  # older results have the mean of as many seeds
      values = [[one["validation_mean"]["ndcg@10"]] for one in both]
    found_s = [mine - base for mine, base in zip(*values, strict=False)]
    said.append(f"{_mean_interval(found_s)} ({NAMES[data]})")
  return ", ".join(said)


def _mean_interval(values: Sequence[float]) -> str:
  """Of one value the value alone."""
  mean = float(np.mean(values))
  if len(values) == 1:
    return f"{mean:+.4f}"
  reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]"


def _sign(part: Result) -> int:
  """1 where NDCG@10 is raised, -1 where it is lowered, 0: nothing shown."""
  paired = part.get("to_reference", {}).get("ndcg@10")
  if paired is None or not paired["separates"]:
    return 0
  return 1 if paired["difference"] > 0 else -1


def _mean(
  values: Mapping[str, float] | None, metric: str, *, digits: int
) -> str:
  """Of all seeds; empty where none tells."""
  value = (values or {}).get(metric)
  return "" if value is None else f"{value:.{digits}f}"

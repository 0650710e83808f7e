"""What ablations.ipynb and the README show of the ablations.

python -m analysis.ablations    # redraws their figures; also `make figures`

Read from the committed results alone. Where nobody has run a study, a sentence
says what runs it.
"""

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from PIL import Image

from analysis import asked, costs, forests, plots, tables
from analysis.forests import NAMES, Arms, Result
from analysis.performance import Shown
from experiments.ablations import SEEDS

RESULTS = pathlib.Path(__file__).parent / "results"

# Study: what it asks. It is experiments/ablate_<study>.py.
STUDIES = {
  "age_gate": "Does the age gate matter, and for which items?",
  "id_dropout": "How many ids should a training step go without?",
  "request_features": "What is it worth to know where and on what people ask?",
  "time": "What is time worth?",
  "dynamics": "What do age, recent counts and recent training bring?",
  "granularity": "Should a run of events on one item be one token?",
  "attention": "How far back must attention look, and how exactly?",
  "positions": "Should positions be learned or rotate queries and keys?",
  "horizons": "Does it help to predict more than the next token?",
  "heads": "Does it help to predict more of the next item?",
  "weighting": "Should what was played longer teach more?",
  "loss": "What does it cost to train against a few negatives?",
  "depth": "What lets a transformer be deep?",
  "surface": "Can the surface be left open?",
}
# Those that the README tells in one table.
_OTHERS = [study for study in STUDIES if study != "age_gate"]
# Of one configuration alone: data, experiment file and arm; its result is
# <data>/<arm>.json.
REFERENCES = {
  "synthetic": ("synthetic", "reference"),
  "movietweetings": ("movietweetings", "reference"),
  "movielens_1m": ("unseen", "unseen"),
}
# What the arms of a study are compared with, unless it is the reference.
_BASES = {"age_gate": "age_gate", "id_dropout": "age_gate"}
_GENRE = "popularity_genre"
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
_DPI = 80
_COLORS = 64


def read(study: str) -> Arms:
  """Its arms by data set; empty where nobody has run it.

  Raises:
    ValueError: a file compares with another arm than the study does.
  """
  found: dict[str, dict[str, Result]] = {}
  for path in sorted((RESULTS / f"ablate_{study}").glob("*.json")):
    result = json.loads(path.read_text())
    if result["reference"] != base(study):
      raise ValueError(
        f"{path} compares with {result['reference']!r} instead of"
        f" {base(study)!r}; remove it and report again"
      )
    found.setdefault(result["data"], {})[result["arm"]] = result
  return {data: found[data] for data in NAMES if data in found}


def reference(data: str) -> Result | None:
  """The result of a data set's reference, or of its unseen items."""
  _, arm = REFERENCES[data]
  path = RESULTS / data / f"{arm}.json"
  return json.loads(path.read_text()) if path.is_file() else None


def commands(study: str) -> tuple[str, str]:
  """What trains the arms of a study, and what writes its results."""
  file, name = f"experiments/ablate_{study}.py", f"ablate_{study}"
  return (
    f"fmjax sweep {file} --runs runs/ablations",
    f"fmjax report {file} --runs runs/ablations --reference {base(study)}"
    f" --out runs/ablations/{name} --result analysis/results/{name}",
  )


def base(study: str) -> str:
  """The arm that the others of a study are compared with."""
  return _BASES.get(study, "reference")


def reference_commands(data: str) -> tuple[str, str]:
  """Likewise of a data set's reference."""
  stem, arm = REFERENCES[data]
  return (
    f"fmjax sweep experiments/{stem}.py",
    f"fmjax report experiments/{stem}.py --reference {arm} --out runs/{stem}"
    f" --result analysis/results/{data}",
  )


def forest(study: str) -> Shown:
  """The figure of a study."""
  arms = read(study)
  if not arms:
    return _absent(*commands(study))
  return _drawn(STUDIES[study], forests.forest, arms)


def attention_cost() -> Shown:
  """Quality against cost of the kinds of attention."""
  arms = read("attention")
  if not arms:
    return _absent(*commands("attention"))
  return _drawn("What does attention cost?", costs.attention, arms)


def differences(study: str) -> Shown:
  """The table of a study: each arm minus the reference."""
  arms = read(study)
  if not arms:
    return _absent(*commands(study))
  rows = []
  for data, found in arms.items():
    for arm in forests.arm_order(arms):
      if arm in found:
        rows.append(
          (
            NAMES[data],
            arm,
            *(
              _difference(found[arm], part, metric)
              for metric in ("nll", "ndcg@10")
              for part in ("all", "cold")
            ),
          )
        )
  head = ("data", "arm", "NLL, all", "NLL, cold", "NDCG@10, all")
  text = tables.markdown((*head, "NDCG@10, cold"), rows, text=(0, 1))
  return Shown(about=STUDIES[study], markdown=text)


def verdict(study: str) -> Shown:
  """Where each arm helps and where it hurts: a sentence an arm."""
  arms = read(study)
  if not arms:
    return _absent(*commands(study))
  lines = [f"* {line}" for line in verdicts(arms)]
  return Shown(about=STUDIES[study], markdown="\n".join(lines))


def verdicts(arms: Arms) -> list[str]:
  """By arm, the data sets and slices on which NDCG@10 rises or falls.

  Where the paired interval excludes 0; slices are named where they differ from
  the whole.
  """
  return [
    f"`{arm}`: {_helps(found)}"
    for arm in forests.arm_order(arms)
    if (found := {d: of[arm] for d, of in arms.items() if arm in of})
  ]


def _helps(found: Mapping[str, Result]) -> str:
  helps, hurts, neither = [], [], []
  for data, result in found.items():
    name = NAMES[data] + _fewer_seeds(result)
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


def _fewer_seeds(result: Result) -> str:
  """Where an arm has fewer seeds than all studies are meant to have."""
  seeds = len(result["seeds"])
  plural = "" if seeds == 1 else "s"
  return "" if seeds >= SEEDS else f" ({seeds} seed{plural})"


def _sign(part: Result) -> int:
  """1 where NDCG@10 is raised, -1 where it is lowered, 0: nothing shown."""
  paired = part.get("to_reference", {}).get("ndcg@10")
  if paired is None or not paired["separates"]:
    return 0
  return 1 if paired["difference"] > 0 else -1


def depth() -> Shown:
  """What eight blocks do to each kind of block."""
  arms = read("depth")
  if not arms:
    return _absent(*commands("depth"))
  return Shown(about=STUDIES["depth"], markdown=depth_table(arms))


def depth_table(arms: Arms) -> str:
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


def coverage(study: str) -> Shown:
  """Whether the arms of a study rank better, or only what is popular."""
  arms = read(study)
  if not arms:
    return _absent(*commands(study))
  rows = []
  for data, found in arms.items():
    for arm in (base(study), *forests.arm_order(arms)):
      if arm in found:
        part, mean = found[arm]["slices"]["all"], found[arm].get("test_mean")
        rows.append(
          (
            NAMES[data],
            arm,
            tables.value(part, "ndcg@10"),
            _mean(mean, "coverage@10", digits=3),
            _mean(mean, "popularity_lift@10", digits=2),
          )
        )
  head = ("data", "arm", "NDCG@10", "coverage@10", "popularity lift@10")
  text = tables.markdown(head, rows, text=(0, 1))
  return Shown(about="coverage by arm", markdown=text)


def weighted() -> Shown:
  """What weights bring by their own measure, beside all targets alike."""
  arms = read("weighting")
  text = weighted_table(arms) if arms else _sentence(*commands("weighting"))
  return Shown(about="targets weighted as in training", markdown=text)


def weighted_table(arms: Arms) -> str:
  """NDCG@10 minus the reference's, a row an arm."""
  rows = [
    (
      NAMES[data],
      arm,
      _difference(found[arm], "all", "ndcg@10"),
      tables.signed(found[arm]["weighted_to_reference"]["ndcg@10"], bold=True),
    )
    for data, found in arms.items()
    for arm in forests.arm_order(arms)
    if "weighted_to_reference" in found.get(arm, {})
  ]
  head = ("data", "arm", "all targets alike", "weighted as in training")
  return tables.markdown(head, rows, text=(0, 1))


def gate() -> Shown:
  """What the id weighs by age, on every data set with a gated model."""
  found = _gated()
  if not found:
    return _absent(*reference_commands("synthetic"))
  return _drawn("What does the id weigh by age?", forests.gate, found)


def mixers() -> Shown:
  """How much of what can be known each mixer learns."""
  arms = read("age_gate").get("synthetic", {})
  text = mixers_table(arms) if arms else _sentence(*commands("age_gate"))
  return Shown(about="gap closed by mixer", markdown=text)


def unseen() -> Shown:
  """How items are ranked that training never saw."""
  return Shown(about="items never seen in training", markdown=unseen_table())


def mixers_table(arms: Mapping[str, Result]) -> str:
  """Share of the NLL between static baseline and oracle, by slice.

  And how much the NLL is above the gate's on cold and warm items.
  """
  rows = []
  for arm, label in _MIXERS.items():
    if arm in arms:
      parts = arms[arm]["slices"]
      gaps = [_gap(parts[part]) for part in ("all", "cold", "warm")]
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


def arms_table() -> str:
  """Each arm minus its reference, but for the mixers; a row an arm."""
  rows = []
  for study in _OTHERS:
    arms = read(study)
    for arm in forests.arm_order(arms):
      cells = [
        _difference(found[arm], "all", metric) if arm in found else ""
        for found in (arms.get("synthetic", {}), _real(arms))
        for metric in ("nll", "ndcg@10")
      ]
      rows.append((study.replace("_", " "), f"`{arm}`", *cells))
  head = ("", "arm", "NLL, synthetic", "NDCG@10, synthetic")
  return tables.markdown(
    (*head, "NLL, real log", "NDCG@10, real log"), rows, text=(0, 1)
  )


def unseen_table() -> str:
  """NDCG@10 on targets without a training token, a row a data set."""
  rows = []
  for data in REFERENCES:
    # On MovieTweetings the reference has no ids, so no gate.
    gated = data == "movietweetings"
    result = _of_mixers(data) if gated else reference(data)
    if result is None:
      needed = commands("age_gate") if gated else reference_commands(data)
      rows.append((NAMES[data], "", _sentence(*needed), "", "", "", "", ""))
      continue
    part = result["slices"]["unseen"]
    known = part.get("baselines", {})
    oracle = known.get("oracle")
    share = f"{part['ndcg@10'] / oracle['ndcg@10']:.2f}" if oracle else ""
    rows.append(
      (
        NAMES[data],
        str(len(result["seeds"])),
        f"{part['queries']:,}",
        tables.value(part, "ndcg@10"),
        tables.value(known[_GENRE], "ndcg@10") if _GENRE in known else "",
        tables.signed(part["compare"][_GENRE]) if _GENRE in known else "",
        tables.value(oracle, "ndcg@10") if oracle else "",
        share,
      )
    )
  head = ("data", "seeds", "targets", "fmjax", "popularity by genre", "gain")
  return tables.markdown((*head, "oracle", "of the oracle's"), rows)


def readme() -> str:
  """The README's block: the references, the mixers, the unseen items."""
  lines = [_references(), ""]
  arms = read("age_gate")
  lines.append(
    "Share of the NLL between popularity by age and hour and the oracle that"
    " each mixer closes on the synthetic service, on the small budget of the"
    " ablations, overall, on cold items and on warm ones; and the difference in"
    " NLL to the age gate (above 0: the gate is better):"
  )
  lines += ["", mixers().markdown or "", ""]
  if arms:
    lines += [
      "![Difference of every mixer to the age gate in NLL and NDCG@10, overall"
      " and on cold items](analysis/figures/ablate_age_gate.png)",
      "",
    ]
  lines += [
    "What else can be taken from a reference or changed in it: each arm minus"
    " its reference, bold where the interval excludes 0. The real log is"
    " KuaiRand-Pure for request features, granularity, weighting and surface,"
    " MovieLens-1M for attention, positions, horizons, loss and depth, else"
    " MovieTweetings."
    " In the rows of id dropout the reference has an age gate, and a cell"
    " without a number is that reference itself. Scores of BCE, of gBCE and of"
    " a softmax without the whole of logQ are no logarithms of probabilities:"
    " their arms have no NLL. In the others MovieTweetings'"
    " reference has no ids: without counts nothing tells which of two films of"
    " like genres and year is watched more:",
    "",
  ]
  if any(map(read, _OTHERS)):
    lines += [arms_table(), ""]
  if depth_arms := read("depth"):
    lines += [
      "What eight blocks keep of the NDCG@10 of two, by residual:",
      "",
      depth_table(depth_arms),
      "",
    ]
  for study in _OTHERS:
    if not read(study):
      lines += [f"`ablate_{study}` is {_sentence(*commands(study))}.", ""]
  lines += [asked.readme(), ""]
  lines += ["NDCG@10 on items that training never saw:", "", unseen_table(), ""]
  lines.append(
    "Brackets: 95 % over users, paired where two methods are compared, seeds"
    " averaged. [Every arm of every question](analysis/ablations.ipynb)."
  )
  return "\n".join(lines)


def _real(arms: Arms) -> Mapping[str, Result]:
  """The arms on the log that is not synthetic."""
  return next((arms[data] for data in arms if data != "synthetic"), {})


def _references() -> str:
  """What the whole models reach, against what must be beaten."""
  rows = []
  for data in ("synthetic", "movietweetings"):
    result = reference(data)
    if result is None:
      absent = _sentence(*reference_commands(data))
      rows.append((NAMES[data], "", absent, "", "", "", ""))
      continue
    part = result["slices"]["all"]
    rival = max(
      (n for n in part["baselines"] if n.endswith("_rolling")),
      key=lambda name: part["baselines"][name]["ndcg@10"],
    )
    rows.append(
      (
        NAMES[data],
        str(len(result["seeds"])),
        tables.value(part, "nll", digits=3),
        tables.value(part, "ndcg@10"),
        f"{tables.signed(result['compare'][rival])} (`{rival}`)",
        _gap(part),
        _gap(result["slices"]["cold"]),
      )
    )
  head = ("reference on", "seeds", "test NLL", "NDCG@10")
  return tables.markdown(
    (
      *head,
      "minus the best rolling popularity",
      "gap closed",
      "gap closed, cold",
    ),
    rows,
  )


def _gated() -> dict[str, Result]:
  """By data set, its reference if that has a gate, else that of the study."""
  found = {}
  for data in ("synthetic", "movietweetings"):
    for result in (reference(data), _of_mixers(data)):
      if result and result.get("gate"):
        found.setdefault(data, result)
  return found


def _of_mixers(data: str) -> Result | None:
  """The age gate of the study of the mixers."""
  return read("age_gate").get(data, {}).get("age_gate")


def save_figures(folder: pathlib.Path) -> list[str]:
  """Draws what there are results of; a line on each figure."""
  told = []
  for study in STUDIES:
    name = f"ablate_{study}.png"
    if arms := read(study):
      plots.both(forests.forest)(arms, folder / name)
      told.append(f"{name} from results/ablate_{study}")
    else:
      told.append(f"no {name}: {_sentence(*commands(study))}")
  if arms := read("attention"):
    plots.both(costs.attention)(arms, folder / "attention_cost.png")
    told.append("attention_cost.png from results/ablate_attention")
  if found := _gated():
    plots.both(forests.gate)(found, folder / "age_gate_weights.png")
    told.append("age_gate_weights.png from results of references")
  else:
    absent = _sentence(*reference_commands("synthetic"))
    told.append(f"no age_gate_weights.png: {absent}")
  return told


def main() -> None:
  plots.FIGURES.mkdir(parents=True, exist_ok=True)
  for line in save_figures(plots.FIGURES):
    print(line)


def _drawn(about: str, draw: Any, result: Any) -> Shown:
  """A figure in few colors: a third of the bytes, and a notebook has many."""
  drawn, small = io.BytesIO(), io.BytesIO()
  plots.write(draw, result, drawn, dpi=_DPI)
  image = Image.open(drawn).convert("RGB").quantize(_COLORS)
  image.save(small, "png", optimize=True)
  return Shown(about=about, png=small.getvalue())


def _absent(*needed: str) -> Shown:
  sentence = _sentence(*needed)
  return Shown(about=sentence, markdown=sentence)


def _sentence(sweep: str, report: str) -> str:
  return f"not measured: run `{sweep}`, then `{report}`"


def _difference(result: Result, part: str, metric: str) -> str:
  of_part = result["slices"][part]
  if "to_reference" not in of_part or not forests.says(result, metric):
    return ""
  text = tables.signed(of_part["to_reference"][metric], bold=True)
  return text + _fewer_seeds(result)


def _mean(
  values: Mapping[str, float] | None, metric: str, *, digits: int
) -> str:
  """Of all seeds; empty where none tells."""
  value = (values or {}).get(metric)
  return "" if value is None else f"{value:.{digits}f}"


def _gap(part: Result) -> str:
  return tables.value(part, "gap_closed", digits=3)


if __name__ == "__main__":
  main()

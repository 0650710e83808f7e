"""What ablations.ipynb and the README show of the ablations.

python -m analysis.ablations    # redraws their figures; also `make figures`

Read from the committed results alone. Where nobody has run a study, a sentence
says what runs it.
"""

import io
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from analysis import arms as arms_lib
from analysis import asked, costs, forests, plots, tables
from analysis.forests import NAMES, Arms, Result
from analysis.performance import Shown

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
  return _table(study, STUDIES[study], arms_lib.differences)


def verdict(study: str) -> Shown:
  """Where each arm helps and where it hurts: a sentence an arm."""
  return _table(study, STUDIES[study], arms_lib.verdicts)


def depth() -> Shown:
  """What eight blocks do to each kind of block."""
  return _table("depth", STUDIES["depth"], arms_lib.depth)


def coverage(study: str) -> Shown:
  """Whether the arms of a study rank better, or only what is popular."""
  return _table(study, "coverage by arm", arms_lib.coverage)


def weighted() -> Shown:
  """What weights bring by their own measure, beside all targets alike."""
  about = "targets weighted as in training"
  return _table("weighting", about, arms_lib.weighted)


def gate() -> Shown:
  """What the id weighs by age, on every data set with a gated model."""
  found = _gated()
  if not found:
    return _absent(*reference_commands("synthetic"))
  return _drawn("What does the id weigh by age?", forests.gate, found)


def mixers() -> Shown:
  """How much of what can be known each mixer learns."""
  arms = read("age_gate").get("synthetic", {})
  text = arms_lib.mixers(arms) if arms else _sentence(*commands("age_gate"))
  return Shown(about="gap closed by mixer", markdown=text)


def unseen() -> Shown:
  """How items are ranked that training never saw."""
  return Shown(about="items never seen in training", markdown=unseen_table())


def arms_table() -> str:
  """Each arm minus its reference, but for the mixers; a row an arm."""
  rows = []
  for study in _OTHERS:
    arms = read(study)
    for arm in forests.arm_order(arms):
      cells = [
        arms_lib.difference(found[arm], "all", metric) if arm in found else ""
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


def trained() -> tuple[int, float]:
  """Runs of all studies, and the hours that they trained for, one core each."""
  hours = {
    run: result["train_s"] / 3_600
    for study in STUDIES
    for found in read(study).values()
    for result in found.values()
    for run in result["run_ids"]
  }
  return len(hours), sum(hours.values())


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
      arms_lib.depth(depth_arms),
      "",
    ]
  for study in _OTHERS:
    if not read(study):
      lines += [f"`ablate_{study}` is {_sentence(*commands(study))}.", ""]
  lines += [asked.readme(), ""]
  lines += ["NDCG@10 on items that training never saw:", "", unseen_table(), ""]
  runs, hours = trained()
  lines.append(
    "Brackets: 95 % over users, paired where two methods are compared, seeds"
    f" averaged. The arms are {runs} runs, which trained for {hours:.1f} hours"
    " of one core. [Every arm of every question](analysis/ablations.ipynb)."
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
        arms_lib.gap(part),
        arms_lib.gap(result["slices"]["cold"]),
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


def _table(study: str, about: str, make: Callable[[Arms], str]) -> Shown:
  """Of a study's arms, where somebody has run it."""
  arms = read(study)
  if not arms:
    return _absent(*commands(study))
  return Shown(about=about, markdown=make(arms))


def _absent(*needed: str) -> Shown:
  sentence = _sentence(*needed)
  return Shown(about=sentence, markdown=sentence)


def _sentence(sweep: str, report: str) -> str:
  return f"not measured: run `{sweep}`, then `{report}`"


if __name__ == "__main__":
  main()

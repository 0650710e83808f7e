"""The models of the literature, ours and as published, from committed results.

python -m analysis.baselines    # redraws their figure; also `make figures`
"""

import json
import pathlib
from collections.abc import Mapping

from matplotlib.figure import Figure

from analysis import plots, tables
from analysis.forests import Result
from experiments.baselines import PUBLISHED, gsasrec

RESULTS = pathlib.Path(__file__).parent / "results" / "baselines"
COMMANDS = (
  "fmjax sweep experiments/baselines.py",
  "fmjax report experiments/baselines.py --reference sasrec_ce"
  " --out runs/baselines --result analysis/results/baselines",
)
LABELS = {
  "sasrec_bce": "SASRec, BCE",
  "sasrec_ce": "SASRec, cross-entropy",
  "gsasrec": "gSASRec",
  "bert4rec": "BERT4Rec",
  "hstu": "HSTU without time",
}
_COLORS = {
  "sasrec_bce": plots.PALE,
  "sasrec_ce": plots.BLUE,
  "gsasrec": plots.GREEN,
  "bert4rec": "#CC79A7",
  "hstu": plots.RED,
}


def read() -> dict[str, Result]:
  """By model, those that somebody has trained."""
  found = {}
  for name in LABELS:
    path = RESULTS / f"movielens_1m_{name}.json"
    if path.is_file():
      found[name] = json.loads(path.read_text())
  return found


def curves(results: Mapping[str, Result]) -> Figure:
  """Validation against steps; dashed what is published, on test.

  The marked points are the test of the selected steps.
  """
  canvas, (axis,) = plots.panels(10, 5)
  last = max(r["curve"][-1]["step"] for r in results.values())
  for name, result in results.items():
    color = _COLORS[name]
    test = result["slices"]["all"]["ndcg@10"]
    label = f"{LABELS[name]}: test {test:.4f}"
    label += f", published {PUBLISHED[name].ndcg:.4f}"
    plots.learning(axis, result, color=color, label=label)
    axis.hlines(
      PUBLISHED[name].ndcg, 0, last, color=color, linestyle="--", linewidth=1
    )
  axis.set_ylim(bottom=0)
  axis.set_xlabel("training step, of the tokens of about 128 padded rows")
  axis.set_ylabel("NDCG@10, full ranking")
  plots.headline(axis, "MovieLens-1M, leave-last-out: models of the literature")
  axis.legend(loc="lower right", fontsize=9, frameon=False)
  return canvas


def table(results: Mapping[str, Result]) -> str:
  """Ours and theirs, a row a model."""
  rows = []
  for name, label in LABELS.items():
    theirs = PUBLISHED[name]
    published = (f"{theirs.hr:.4f}", f"{theirs.ndcg:.4f}")
    if name not in results:
      rows.append((label, "not measured", "", *published, "", "", ""))
      continue
    result = results[name]
    part = result["slices"]["all"]
    rows.append(
      (
        label,
        tables.value(part, "hr@10"),
        tables.value(part, "ndcg@10"),
        *published,
        f"{part['ndcg@10'] - theirs.ndcg:+.4f}",
        f"{result['selected_step']:,}",
        f"{result['train_s'] / 60:.0f}",
      )
    )
  head = ("model", "test HR@10", "test NDCG@10", "published HR@10")
  more = ("published NDCG@10", "NDCG@10 minus published", "step", "minutes")
  return tables.markdown((*head, *more), rows)


def readme() -> str:
  """The README's block."""
  results = read()
  if not results:
    sweep, report = COMMANDS
    return f"Not measured: run `{sweep}`, then `{report}`."
  return "\n".join(
    [
      table(results),
      "",
      "![Validation NDCG@10 of five published models against training steps,"
      " with what is published](analysis/figures/baselines.png)",
      "",
      "Each is a frozen configuration of the same parts, with one seed,"
      f" `sasrec_ce` with {len(results['sasrec_ce']['seeds'])}"
      f" (`{COMMANDS[0]}`); steps chosen on"
      " validation, minutes of training on one core. All of ours train with"
      " packed rows, a rate that rises and falls, and AdamW;"
      " `experiments/baselines.py` says what else differs from the published"
      " settings. HSTU was published with time and 128 negatives; RecTools' has"
      " .1718 with positions alone. gSASRec was published after"
      f" {PUBLISHED['gsasrec'].steps:,} steps of 13,700 tokens, ours takes"
      f" {gsasrec().run.steps:,}. Published by: {_sources()}.",
    ]
  )


def _sources() -> str:
  """Who published what."""
  by: dict[str, list[str]] = {}
  for name, published in PUBLISHED.items():
    by.setdefault(published.source, []).append(f"`{name}`")
  return "; ".join(f"{', '.join(of)}: {source}" for source, of in by.items())


def main() -> None:
  if results := read():
    plots.FIGURES.mkdir(parents=True, exist_ok=True)
    plots.both(curves)(results, plots.FIGURES / "baselines.png")
    print("baselines.png from results/baselines")
  else:
    print(f"no baselines.png: {readme()}")


if __name__ == "__main__":
  main()

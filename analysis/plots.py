"""The committed figures, each a function of a committed result.

python -m analysis.plots        # redraws analysis/figures; also `make figures`
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import published
from fmjax.scaling import figure

HERE = pathlib.Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"

_PUBLISHED = {
  "SASRec+ (published)": published.SASREC_CE["ndcg@10"],
  "SASRec, BCE (published)": published.SASREC_BCE["ndcg@10"],
}


def quickstart(result: dict[str, Any], path: pathlib.Path) -> None:
  """Does a larger model help on MovieTweetings?"""
  figure.draw(result, path)


def movielens_1m(result: dict[str, Any], path: pathlib.Path) -> None:
  """Validation curve of SASRec with full cross-entropy, beside published ones.

  The published numbers are on test; so is the marked point.
  """
  curve = result["curve"]
  test, (low, high) = result["test"]["ndcg@10"], result["test"]["ndcg@10_ci"]
  popularity = result["baselines"]["popularity_all"]["ndcg@10"]
  style: Any = {"font.size": 11, "svg.hashsalt": "fmjax"}
  with matplotlib.rc_context(style):
    canvas = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axis = canvas.add_subplot()
    axis.plot(
      [point["step"] for point in curve],
      [point["ndcg@10"] for point in curve],
      color="#0072B2",
      linewidth=1.8,
      label="validation",
    )
    axis.errorbar(
      [result["selected_step"]],
      [test],
      yerr=[[test - low], [high - test]],
      fmt="o",
      color="#222222",
      capsize=3,
      label=f"test of the selected step, {test:.4f} (95 % over users)",
    )
    lines = {**_PUBLISHED, "popularity, all time": popularity}
    for (name, value), color, dashes in zip(
      lines.items(),
      ("#D55E00", "#B07D00", "#CC79A7"),
      ("--", ":", "-."),
      strict=True,
    ):
      axis.axhline(
        value,
        color=color,
        linestyle=dashes,
        linewidth=1.5,
        label=f"{name}, {value:.4f}",
      )
    axis.set_ylim(bottom=0)
    axis.set_xlabel("training step")
    axis.set_ylabel("NDCG@10, full ranking")
    axis.set_title(
      "MovieLens-1M, leave-last-out: SASRec with full cross-entropy",
      loc="left",
      weight="bold",
      fontsize=12,
    )
    axis.grid(True, color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
      axis.spines[side].set_visible(False)
    axis.legend(
      loc="center right", bbox_to_anchor=(1.0, 0.35), fontsize=9, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=160)
    canvas.savefig(path.with_suffix(".svg"), metadata={"Date": None})


# Figure: what it is drawn from, and the function that draws it.
PLOTS: dict[str, tuple[str, Callable[[dict[str, Any], pathlib.Path], None]]] = {
  "quickstart": ("movietweetings/quickstart.json", quickstart),
  "movielens_1m": ("movielens_1m/sasrec_ce.json", movielens_1m),
}


def main() -> None:
  missing = []
  for name, (source, plot) in PLOTS.items():
    path = FIGURES / f"{name}.png"
    if not (RESULTS / source).is_file():
      missing.append(source)
      continue
    plot(json.loads((RESULTS / source).read_text()), path)
    print(f"{path.relative_to(HERE.parent)} from results/{source}")
  if missing:
    raise SystemExit(
      f"analysis/results lacks {' and '.join(missing)}: check out the whole"
      " repository, or run the experiment again"
    )


if __name__ == "__main__":
  main()

"""Mercado Libre's ladder of recommenders, fitted again.

python -m analysis.published    # draws its figure; also `make figures`

119 runs that others trained and published (third_party/mercado-libre): data ×
width × depth. On few data a larger model has the worse loss and the better
ranking, so a law of one says nothing of the other.
"""

import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.csv
import scipy.stats
from matplotlib.figure import Figure

from analysis import plots, tables
from analysis.performance import Shown
from fmjax.scaling.reports.table_fit import fit_table

TABLE = (
  pathlib.Path(__file__).parents[1]
  / "third_party"
  / "mercado-libre"
  / "srt_runs.csv"
)
# Losses over other numbers of negatives are other losses.
NEGATIVES = 300
_PARAMS, _LOSS, _NDCG = (
  "model_non_emb_params",
  "test_eval_loss",
  "test_ndcg_at_5",
)
_SHADES = ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08306b")
_DPI = 80

Run = dict[str, Any]


@functools.cache
def runs(negatives: int = NEGATIVES) -> dict[str, list[Run]]:
  """Runs by data set, from the smallest; each from the smallest model."""
  rows = pyarrow.csv.read_csv(TABLE).to_pylist()
  chosen = [row for row in rows if row["nce_num_negatives"] == negatives]
  chosen.sort(key=lambda row: (row["n_inters"], row[_PARAMS]))
  found: dict[str, list[Run]] = {}
  for row in chosen:
    found.setdefault(row["dataset"], []).append(row)
  return found


def sign(of: Sequence[Run]) -> float:
  """Rank correlation of a lower loss and a higher NDCG@5: 1, they agree."""
  loss = [-row[_LOSS] for row in of]
  ndcg = [row[_NDCG] for row in of]
  return float(np.asarray(scipy.stats.spearmanr(loss, ndcg))[0])


def best_by_width(of: Sequence[Run]) -> list[Run]:
  """The deep or shallow run of each width that ranks best."""
  best: dict[int, Run] = {}
  for row in of:
    width = row["hidden_size"]
    if width not in best or row[_NDCG] > best[width][_NDCG]:
      best[width] = row
  return [best[width] for width in sorted(best)]


def law(data: str, *, metric: bool) -> dict[str, Any]:
  """The offset law over parameters, as `fmjax fit` gives it."""
  response = {"metric": _NDCG} if metric else {"loss": _LOSS}
  return fit_table(
    TABLE,
    "power_offset",
    {**response, "params": _PARAMS},
    where={"dataset": data, "nce_num_negatives": str(NEGATIVES)},
  )


def draw(found: dict[str, list[Run]]) -> Figure:
  """Loss and NDCG@5 against parameters, a line a data set."""
  canvas, (left, right) = plots.panels(12, 4.6, 2)
  for color, (data, of) in zip(_SHADES, found.items(), strict=True):
    label = f"{data.removeprefix('amazon-')} interactions"
    for axis, column in ((left, _LOSS), (right, _NDCG)):
      axis.plot(
        [row[_PARAMS] for row in of],
        [row[column] for row in of],
        "o-",
        color=color,
        markersize=4,
        linewidth=1.2,
        label=label,
      )
  for axis in (left, right):
    axis.set_xscale("log")
    axis.set_xlabel("parameters without item tables")
  left.set_ylabel(f"test loss, nats, over {NEGATIVES} negatives")
  right.set_ylabel("test NDCG@5 among 10,000 items")
  plots.headline(left, "On few data a larger model has the worse loss,")
  ends = [
    _told(sign(found[data]))
    for data in (min(found, key=_data), max(found, key=_data))
  ]
  plots.headline(right, f"and ranks better: agreement {' to '.join(ends)}")
  right.legend(fontsize=9, frameon=False)
  return canvas


def figure() -> Shown:
  """Loss and NDCG@5 against parameters."""
  file = io.BytesIO()
  plots.write(draw, runs(), file, dpi=_DPI)
  return Shown(about=figure.__doc__ or "", png=file.getvalue())


def signs() -> Shown:
  """Do loss and ranking agree which model is better?"""
  rows = []
  for data, few in runs(100).items():
    many = runs()[data]
    rows.append(
      (
        data,
        str(len(few) + len(many)),
        _told(sign(few)),
        _told(sign(many)),
      )
    )
  head = ("data", "runs", "100 negatives", f"{NEGATIVES} negatives")
  return Shown(about=signs.__doc__ or "", markdown=tables.markdown(head, rows))


def widths(data: str = "amazon-1M") -> Shown:
  """The best run of each width, relative to the narrowest."""
  best = best_by_width(runs()[data])
  base = best[0][_NDCG]
  rows = [
    (
      str(row["hidden_size"]),
      f"{row['model_total_params'] / 1e6:.1f} M",
      str(row["n_layers"]),
      f"{row[_NDCG]:.4f}",
      f"{100 * (row[_NDCG] / base - 1):+.0f} %",
    )
    for row in best
  ]
  head = ("width", "parameters in all", "layers", "NDCG@5", "gain")
  return Shown(about=widths.__doc__ or "", markdown=tables.markdown(head, rows))


def laws() -> Shown:
  """The offset law of either, and whether it may be relied on."""
  rows = []
  for data in runs():
    for metric in (True, False):
      found = law(data, metric=metric)
      limit = "R_inf" if metric else "E"
      low, high = found["intervals"][limit]
      ends = "unknown" if None in (low, high) else f"{low:.3g} to {high:.3g}"
      rows.append(
        (
          data,
          "NDCG@5" if metric else "loss",
          f"{found['parameters'][limit]:.3g} ({ends})",
          f"{found['parameters']['alpha']:.3g}",
          "yes" if found["good"] else f"no: {found['warnings'][0]}",
        )
      )
  head = ("data", "of", "limit (90 %)", "alpha", "good")
  return Shown(about=laws.__doc__ or "", markdown=tables.markdown(head, rows))


def _data(name: str) -> int:
  return runs()[name][0]["n_inters"]


def _told(correlation: float) -> str:
  return f"{correlation:+.2f}".replace("-", "−")


def main() -> None:
  plots.both(draw)(runs(), plots.FIGURES / "published.png")
  print(f"published.png from {TABLE.parent.name}/{TABLE.name}")


if __name__ == "__main__":
  main()

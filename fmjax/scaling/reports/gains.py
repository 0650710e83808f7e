"""What more parameters or tokens bring, and whether loss and metric agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from fmjax.scaling.rungs import Rung
from fmjax.scaling.uncertainty import Samples

METRICS = ("nll", "ndcg@10")
_TENFOLD = (8.0, 12.5)  # of what is called ten times as much
_NORMAL_95 = 1.96  # standard errors in half a 95 % interval


def tenfold(
  rungs: Sequence[Rung],
  samples: Mapping[str, Samples],
  noise: Mapping[str, Any],
) -> list[dict[str, Any]]:
  """Of about ten times the parameters, or the tokens, on the same users."""
  found = []
  for place, rung in enumerate(rungs):
    for other, larger in enumerate(rungs):
      more = {
        "params": larger.backbone / rung.backbone,
        "tokens": larger.mean("tokens") / rung.mean("tokens"),
      }
      for axis, of in (("params", "tokens"), ("tokens", "params")):
        same = 0.98 < more[of] < 1.02
        if not same or not _TENFOLD[0] <= more[axis] <= _TENFOLD[1]:
          continue
        found.append(
          {
            "of": axis,
            "factor": more[axis],
            "from": rung.name,
            "to": larger.name,
            **{
              metric: _gain(
                samples[metric], other, place, seed_sd=noise[metric]
              )
              for metric in METRICS
            },
          }
        )
  return found


def _gain(
  samples: Samples, rung: int, other: int, *, seed_sd: float | None
) -> dict[str, Any]:
  """Of `rung` over `other`, paired by user; and with what a seed moves."""
  gap = float(samples.value_n[rung] - samples.value_n[other])
  low, high = samples.difference(rung, other).tolist()
  with_seeds = None
  if seed_sd is not None:
    error = (high - low) / (2 * _NORMAL_95)
    reach = _NORMAL_95 * float(np.sqrt(error**2 + 2 * seed_sd**2))
    with_seeds = [gap - reach, gap + reach]
  return {
    "difference": gap,
    "interval": [low, high],
    "interval_with_seeds": with_seeds,
  }


def agreement(
  rungs: Sequence[Rung], samples: Mapping[str, Samples]
) -> dict[str, Any]:
  """Do loss and metric order the rungs alike? 1: a lower loss ranks better.

  Over the sizes of each length, and over the lengths of each size, then the
  mean: pooled, a strong order of one axis would hide what the other says.
  """
  axes = {
    "over_sizes": [rung.steps for rung in rungs],
    "over_lengths": [rung.backbone for rung in rungs],
  }
  return {name: ordered(samples, groups) for name, groups in axes.items()}


def ordered(
  samples: Mapping[str, Samples], groups: Sequence[int]
) -> dict[str, Any]:
  label = np.array(groups)
  parts = [
    np.flatnonzero(label == group)
    for group in np.unique(label)
    if (label == group).sum() > 2
  ]
  if not parts:
    return {"rank_correlation": None, "interval": None, "agree_in_sign": None}

  def mean(nll_sn: np.ndarray, ndcg_sn: np.ndarray) -> np.ndarray:
    found = [_spearman(-nll_sn[:, p], ndcg_sn[:, p]) for p in parts]
    return np.mean(found, axis=0)

  nll, ndcg = samples["nll"], samples["ndcg@10"]
  value = float(mean(nll.value_n[None], ndcg.value_n[None])[0])
  low, high = np.percentile(mean(nll.draw_sn, ndcg.draw_sn), [2.5, 97.5])
  return {
    "rank_correlation": value,
    "interval": [float(low), float(high)],
    "agree_in_sign": value > 0,
  }


def _spearman(left_sn: np.ndarray, right_sn: np.ndarray) -> np.ndarray:
  """Rank correlation of each row, [s]; 0 where one says nothing."""
  ranks = [scipy.stats.rankdata(x, axis=1) for x in (left_sn, right_sn)]
  left, right = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
  size_s = np.sqrt((left**2).sum(1) * (right**2).sum(1))
  return (left * right).sum(1) / np.where(size_s > 0, size_s, 1.0)

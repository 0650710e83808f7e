"""A grid of sizes and lengths: its law, and how far that can be trusted.

A law E + A·N^(-alpha) + B·D^(-beta) of the test NLL is fitted twice: to all
runs, and without the largest rungs, which it then has to predict. The second
tells whether to believe the first.

Axes: r runs, n rungs of one size and length (seeds averaged).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from fmjax.data.schema import DataError
from fmjax.scaling import allocation, choice, curves, fit
from fmjax.scaling.bootstrap import Refits, bootstrap
from fmjax.scaling.broken import BrokenPower
from fmjax.scaling.checklist import checklist
from fmjax.scaling.law import Fit, known
from fmjax.scaling.polynomial import Power
from fmjax.scaling.profile import profile
from fmjax.scaling.rungs import Rung
from fmjax.scaling.sensitivity import sensitivity
from fmjax.scaling.surfaces import Chinchilla, OverTraining
from fmjax.scaling.uncertainty import Samples, sample

INPUTS = ("params", "tokens")
HELD_OUT = 2  # the largest sizes
METRICS = ("nll", "hr@10", "ndcg@10")
_TENFOLD = (8.0, 12.5)  # of what is called ten times as much
_GRID = 60  # sizes at which a curve is told
_OF = {"nll": "falls", "ndcg@10": "rises"}


def is_grid(rungs: Sequence[Rung]) -> bool:
  """Rungs of one size were trained on several lengths."""
  lengths: dict[int, set[int]] = {}
  for rung in rungs:
    lengths.setdefault(rung.backbone, set()).add(_steps(rung))
  return any(len(found) > 1 for found in lengths.values())


def longest(rungs: Sequence[Rung]) -> list[Rung]:
  """The ladder of the longest training."""
  most = max(map(_steps, rungs))
  return [rung for rung in rungs if _steps(rung) == most]


def analyze(rungs: Sequence[Rung], *, floor: float | None) -> dict[str, Any]:
  """What a study of sizes and lengths reports beside its ladder; JSON-ready.

  Args:
    rungs: of every size and length, from the smallest backbone.
    floor: NLL of the best that any model can do, where it is known.

  Raises:
    DataError: the grid is too small for a law and two sizes held out.
  """
  runs = _runs(rungs)
  sizes = np.unique(runs["params"])
  if len(sizes) < HELD_OUT + 3:
    raise DataError(
      f"{len(sizes)} sizes do not carry a law and {HELD_OUT} sizes held out of"
      f" it: train at least {HELD_OUT + 3}"
    )
  x_rk = np.stack([runs[name] for name in INPUTS], axis=1)
  law = fit.fit(x_rk, runs["nll"], form=Chinchilla())
  refits = bootstrap(law, cluster=runs["trunk"])
  samples = {m: sample([r.ranked for r in rungs], m) for m in METRICS}
  held_out = _held_out(rungs, runs)
  return {
    "grid": [_rung(r, samples, place) for place, r in enumerate(rungs)],
    "noise": _noise(rungs),
    "law": {**law.to_dict(), "bootstrap": refits.to_dict()},
    "irreducible": law.parameters["E"],
    "irreducible_ci": list(known({"": refits.intervals()["E"]})[""]),
    "irreducible_profile": _profile(law, "E"),
    "known_floor": floor,
    **held_out,
    "curves": _curves(law, refits, runs),
    "choice": _choice(runs),
    "against": _other_counts(runs),
    "allocation": _allocation(law, rungs, runs),
    "sensitivity": sensitivity(
      law,
      definitions={
        "all parameters, item tables too": _other(runs, "total"),
        "without repeated tokens": _other(runs, "params", "unique"),
      },
    ),
    "ceiling": _ceiling(rungs, samples["ndcg@10"]),
    "gains": _gains(rungs, samples),
    "loss_and_metric": _agreement(samples),
    "checklist": checklist(
      law,
      clusters=len(np.unique(runs["trunk"])),
      refits=refits,
      answers=_answers(rungs[0]),
    ),
  }


def _steps(rung: Rung) -> int:
  return rung.first["config"]["run"]["steps"]


def _runs(rungs: Sequence[Rung]) -> dict[str, np.ndarray]:
  """Columns, a row a run."""
  results = [result for rung in rungs for result in rung.results]

  def column(get) -> np.ndarray:
    return np.array([get(result) for result in results])

  return {
    "params": column(lambda r: float(r["params"]["backbone"])),
    "total": column(lambda r: float(r["params"]["total"])),
    "tokens": column(lambda r: float(r["tokens"])),
    "unique": column(lambda r: float(r["unique_tokens"])),
    "flops": column(lambda r: float(r["flops"]["model"])),
    "steps": column(lambda r: r["config"]["run"]["steps"]),
    "nll": column(lambda r: r["test"]["nll"]),
    "trunk": column(lambda r: r["trunk"]),
    "name": column(lambda r: r["name"]),
  }


def _other(
  runs: Mapping[str, np.ndarray], params: str, tokens: str = "tokens"
) -> np.ndarray:
  return np.stack([runs[params], runs[tokens]], axis=1)


def _rung(
  rung: Rung, samples: Mapping[str, Samples], place: int
) -> dict[str, Any]:
  return {
    "name": rung.name,
    "seeds": [result["seed"] for result in rung.results],
    "params": rung.first["params"],
    "width": rung.first["config"]["model"]["width"],
    "steps": _steps(rung),
    "tokens": round(rung.mean("tokens")),
    "epochs": rung.mean("epochs"),
    "flops": rung.first["flops"]["model"],
    "validation_nll": float(
      np.mean([r["validation"]["nll"] for r in rung.results])
    ),
    **{
      key: value
      for metric, found in samples.items()
      for key, value in {
        metric: float(found.value_n[place]),
        f"{metric}_ci": found.interval_n()[place].tolist(),
      }.items()
    },
    "cold": _cold(rung),
  }


def _cold(rung: Rung) -> dict[str, Any]:
  """Items that training never met."""
  found = [result["slices"]["item"]["0"] for result in rung.results]
  if not found[0]["queries"]:
    return {"queries": 0}
  return {
    "queries": found[0]["queries"],
    **{
      metric: float(np.mean([each[metric] for each in found]))
      for metric in METRICS
    },
    **{f"{metric}_ci": found[0][f"{metric}_ci"] for metric in METRICS},
  }


def _noise(rungs: Sequence[Rung]) -> dict[str, Any]:
  """What a seed moves: standard deviation of the test NLL, pooled."""
  groups = [
    np.array([result["test"]["nll"] for result in rung.results])
    for rung in rungs
    if len(rung.results) > 1
  ]
  if not groups:
    return {"rungs": 0, "nll_sd": None}
  freedom = sum(len(group) - 1 for group in groups)
  squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
  return {"rungs": len(groups), "nll_sd": float(np.sqrt(squares / freedom))}


def _held_out(
  rungs: Sequence[Rung], runs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """The largest sizes, predicted at the most training from the others.

  An error is told as a share of how far the NLL drops from the last size that
  the law was fitted to.
  """
  sizes = np.unique(runs["params"])
  largest = sizes[-HELD_OUT:]
  most = runs["steps"].max()
  seen_r = ~np.isin(runs["params"], largest)
  x_rk = np.stack([runs[name] for name in INPUTS], axis=1)

  def at(size: float) -> np.ndarray:
    return (runs["params"] == size) & (runs["steps"] == most)

  last = runs["nll"][at(sizes[-HELD_OUT - 1])].mean()
  laws = {
    name: fit.fit(x_rk[seen_r], runs["nll"][seen_r], form=form)
    for name, form in {
      "chinchilla": Chinchilla(),
      "power": Power(INPUTS),
    }.items()
  }
  told = []
  for size in largest:
    asked_r = at(size)
    measured = runs["nll"][asked_r].mean()
    predicted = {
      name: float(law.predict(x_rk[asked_r]).mean())
      for name, law in laws.items()
    }
    ends = laws["chinchilla"].predict_interval(x_rk[asked_r], new_run=True)
    told.append(
      {
        "name": _rung_at(rungs, size, most).name,
        "params": float(size),
        "measured": float(measured),
        "predicted": predicted["chinchilla"],
        "interval": ends.mean(axis=0).tolist(),
        "straight_line": predicted["power"],
        "drop": float(last - measured),
      }
    )

  def error(each: Mapping[str, float], by: str) -> float:
    return abs(each[by] - each["measured"]) / abs(each["drop"])

  tokens = float(runs["tokens"][runs["steps"] == most].mean())
  size_n = np.geomspace(sizes[0], sizes[-1], _GRID)
  at_nk = np.stack([size_n, np.full_like(size_n, tokens)], axis=1)
  refits = bootstrap(laws["chinchilla"], cluster=runs["trunk"][seen_r])
  return {
    "held_out": told,
    "held_out_law": laws["chinchilla"].to_dict(),
    "held_out_curve": {
      "tokens": tokens,
      "params": size_n.tolist(),
      "nll": laws["chinchilla"].predict(at_nk).tolist(),
      "band": refits.predict_interval(at_nk).tolist(),
      "straight_line": laws["power"].predict(at_nk).tolist(),
      "limit": _limit(laws["chinchilla"], tokens),
    },
    "holdout_error_over_drop": [error(each, "predicted") for each in told],
    "straight_line_error_over_drop": [
      error(each, "straight_line") for each in told
    ],
  }


def _rung_at(rungs: Sequence[Rung], size: float, steps: int) -> Rung:
  return next(
    rung for rung in rungs if rung.backbone == size and _steps(rung) == steps
  )


def _curves(
  law: Fit, refits: Refits, runs: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """The law over sizes, at each length of training, with its band."""
  size = np.geomspace(runs["params"].min(), runs["params"].max(), _GRID)
  found = []
  for steps in np.unique(runs["steps"]):
    tokens = float(runs["tokens"][runs["steps"] == steps].mean())
    x_nk = np.stack([size, np.full_like(size, tokens)], axis=1)
    found.append(
      {
        "steps": int(steps),
        "tokens": tokens,
        "params": size.tolist(),
        "nll": law.predict(x_nk).tolist(),
        "band": refits.predict_interval(x_nk).tolist(),
        # Of endless parameters, at this length.
        "limit": _limit(law, tokens),
      }
    )
  return found


def _limit(law: Fit, tokens: float) -> float:
  """E + B·D^(-beta)."""
  of = law.parameters
  return of["E"] + of["B"] * tokens ** -of["beta"]


def _choice(runs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """Laws by what they say of the largest sizes, unseen."""
  x = {name: runs[name] for name in INPUTS}
  forms = (
    Chinchilla(),
    OverTraining(),
    curves.PowerOffset(("params",)),
    BrokenPower(1, ("params",)),
  )
  return choice.leave_largest_out(
    x, runs["nll"], forms=forms, count=HELD_OUT, size="params"
  ).rows()


def _other_counts(runs: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The same law over all parameters: exponents depend on what is counted."""
  law = fit.fit(_other(runs, "total"), runs["nll"], form=Chinchilla())
  return {"total": law.to_dict()}


def _allocation(
  law: Fit, rungs: Sequence[Rung], runs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """The best size of a budget by three approaches; C = 6·N·D."""
  found, notes = [], []
  for attempt in (
    lambda: _envelope(rungs),
    lambda: _isoflop(runs, "quadratic"),
    lambda: _isoflop(runs, "akima"),
    lambda: allocation.parametric(law),
  ):
    try:
      found.append(attempt())
    except DataError as error:
      notes.append(str(error))
  return {**allocation.compare(found), "notes": notes}


def _envelope(rungs: Sequence[Rung]) -> allocation.Allocation:
  """Over the lengths of each size: each is the end of a run of its own."""
  of_size: dict[int, list[Rung]] = {}
  for rung in rungs:
    of_size.setdefault(rung.backbone, []).append(rung)
  whole = {
    size: sorted(found, key=_steps)
    for size, found in of_size.items()
    if len(found) > 1
  }
  return allocation.envelope(
    [
      np.array([6 * size * rung.mean("tokens") for rung in found])
      for size, found in whole.items()
    ],
    [
      np.array(
        [np.mean([r["test"]["nll"] for r in rung.results]) for rung in f]
      )
      for f in whole.values()
    ],
    list(whole),
  )


def _isoflop(
  runs: Mapping[str, np.ndarray], curve: str
) -> allocation.Allocation:
  """At budgets that several sizes span, read off each size's own lengths.

  Sizes were not trained to budgets: a size's loss at one is interpolated
  between its lengths, linearly in logs.
  """
  log_c = np.log(6 * runs["params"] * runs["tokens"])
  sizes = np.unique(runs["params"])
  budgets = np.linspace(log_c.min(), log_c.max(), 12)[1:-1]
  rows = []
  for size in sizes:
    of = runs["params"] == size
    order = np.argsort(log_c[of])
    at, loss = log_c[of][order], np.log(runs["nll"][of][order])
    rows += [
      (np.exp(b), size, float(np.exp(np.interp(b, at, loss))))
      for b in budgets
      if at[0] <= b <= at[-1]
    ]
  compute_n, params_n, loss_n = np.array(rows).T
  return allocation.isoflop(compute_n, params_n, loss_n, curve=curve)


def _ceiling(rungs: Sequence[Rung], samples: Samples) -> dict[str, Any]:
  """NDCG@10 of endless parameters at the longest training."""
  most = max(map(_steps, rungs))
  places = [i for i, rung in enumerate(rungs) if _steps(rung) == most]
  size_n = np.array([rungs[place].backbone for place in places], float)
  form = curves.RisingOffset(("params",))
  try:
    law = fit.fit(size_n, samples.value_n[places], form=form, y_name="NDCG@10")
  except DataError as error:
    return {"good": False, "warnings": [str(error)]}
  return law.to_dict()


def _gains(
  rungs: Sequence[Rung], samples: Mapping[str, Samples]
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
              metric: {
                "difference": float(
                  samples[metric].value_n[other]
                  - samples[metric].value_n[place]
                ),
                "interval": samples[metric].difference(other, place).tolist(),
              }
              for metric in _OF
            },
          }
        )
  return found


def _agreement(samples: Mapping[str, Samples]) -> dict[str, Any]:
  """Do loss and metric order the rungs alike? 1: a lower loss ranks better."""
  loss, metric = samples["nll"].value_n, samples["ndcg@10"].value_n
  drawn = [
    _correlation(-nll, ndcg)
    for nll, ndcg in zip(
      samples["nll"].draw_sn, samples["ndcg@10"].draw_sn, strict=True
    )
  ]
  low, high = np.percentile(drawn, [2.5, 97.5])
  value = _correlation(-loss, metric)
  return {
    "rank_correlation": value,
    "interval": [float(low), float(high)],
    "agree_in_sign": bool(value > 0),
  }


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
  return float(np.asarray(scipy.stats.spearmanr(left, right))[0])


def _profile(law: Fit, name: str) -> list[float | None] | None:
  """Its interval by profile likelihood; None where there is no noise."""
  try:
    found = profile(law, name)
  except ValueError:
    return None
  return known({"": (found.low, found.high)})[""]


def _answers(rung: Rung) -> dict[str, str]:
  """To the questions of the checklist that runs can answer."""
  config, result = rung.first["config"], rung.first
  model, optim, data = config["model"], config["optim"], config["data"]
  return {
    "How are parameters, tokens and FLOPs counted; are item tables in?": (
      "parameters are the backbone's, without item tables, embedders and heads"
      " (the same law over all of them is beside it); tokens are targets that"
      " were trained on, padding left out; compute is 6·N·D, and the model's"
      " exact FLOPs are in the records."
    ),
    "Is any data repeated, within a run or between runs?": (
      "runs of one width and seed share a trunk and are one cluster; epochs are"
      f" a column (here {result['epochs']:.2f} in the first run)."
    ),
    "How were learning rate, batch size and schedule chosen at each size?": (
      f"learning rate {optim['learning_rate']:g} by {model['scale']['type']},"
      f" {data['rows']} rows of {data['window']} positions in a batch,"
      f" {optim['schedule']['type']}, at every size."
    ),
    "On which data, split and catalog is y measured?": (
      f"{data['source']['type']}, {data['split']['type']}, full softmax over"
      f" {result['catalog']['items']:,} items, {result['catalog']['targets']}"
      " targets of each user in the test part."
    ),
  }

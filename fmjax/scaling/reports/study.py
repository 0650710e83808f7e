"""A grid of sizes and lengths: its law, and how far that can be trusted.

A law E + A·N^(-alpha) + B·D^(-beta) of the test NLL is fitted twice: to all
runs, and without the largest rungs, which it then has to predict. The second
tells whether to believe the first.

Axes: r runs, n rungs of one size and length (seeds averaged).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.data.schema import DataError
from fmjax.scaling import fit
from fmjax.scaling.laws import curves
from fmjax.scaling.laws.broken import BrokenPower
from fmjax.scaling.laws.law import LEVEL, Fit, known
from fmjax.scaling.laws.surfaces import Chinchilla, OverTraining
from fmjax.scaling.reports import budgets, gains, held_out, tasks
from fmjax.scaling.reports.held_out import GRID, HELD_OUT, INPUTS
from fmjax.scaling.rungs import Rung, on_common_seeds
from fmjax.scaling.trust import choice
from fmjax.scaling.trust.bootstrap import Refits, bootstrap
from fmjax.scaling.trust.checklist import checklist
from fmjax.scaling.trust.profile import profile
from fmjax.scaling.trust.sensitivity import sensitivity
from fmjax.scaling.uncertainty import Samples, sample

METRICS = ("nll", "hr@10", "ndcg@10")


def is_grid(rungs: Sequence[Rung]) -> bool:
  """Rungs of one size, each called by its own name, have several lengths."""
  if len({rung.first["name"] for rung in rungs}) < len(rungs):
    return False  # the same experiment, once with another length
  lengths: dict[int, set[int]] = {}
  for rung in rungs:
    lengths.setdefault(rung.backbone, set()).add(rung.steps)
  return any(len(found) > 1 for found in lengths.values())


def longest(rungs: Sequence[Rung]) -> list[Rung]:
  """The ladder of the longest training."""
  most = max(rung.steps for rung in rungs)
  return [rung for rung in rungs if rung.steps == most]


def analyze(rungs: Sequence[Rung], *, floor: float | None) -> dict[str, Any]:
  """What a study of sizes and lengths reports beside its ladder; JSON-ready.

  Args:
    rungs: of every size and length, from the smallest backbone. They are
      compared on the seeds that all have; others tell what a seed moves.
    floor: NLL of the best that any model can do, where it is known.

  Raises:
    DataError: the grid is too small for a law and two sizes held out.
  """
  noise = _noise(rungs)  # of all seeds, and nothing else
  rungs = on_common_seeds(rungs)
  runs = columns(rungs)
  _require_cells(runs)
  x_rk = np.stack([runs[name] for name in INPUTS], axis=1)
  law = fit.fit(x_rk, runs["nll"], form=Chinchilla())
  refits = bootstrap(law, cluster=runs["trunk"])
  samples = {m: sample([r.ranked for r in rungs], m) for m in METRICS}
  return {
    "levels": {"laws": LEVEL, "rungs and gains": 0.95},
    "grid": _grid(rungs, samples),
    "noise": noise,
    "law": {**law.to_dict(), "bootstrap": refits.to_dict()},
    "irreducible": law.parameters["E"],
    "irreducible_ci": list(known({"": refits.intervals()["E"]})[""]),
    # As if runs of one trunk were separate luck: narrower than they may be.
    "irreducible_profile": _profile(law, "E"),
    "known_floor": floor,
    **held_out.foresee(rungs, runs),
    "curves": _curves(law, refits, runs),
    "choice": _choice(runs),
    "against": _other_counts(runs),
    "allocation": budgets.compare(law, rungs),
    "sensitivity": sensitivity(
      law,
      definitions={
        "all parameters, item tables too": _other(runs, "total"),
        "without repeated tokens": _other(runs, "params", "unique"),
      },
    ),
    "ceiling": _ceiling(rungs, samples["ndcg@10"]),
    "tasks": _tasks(longest(rungs)),
    "gains": gains.tenfold(rungs, samples, noise),
    "loss_and_metric": gains.agreement(rungs, samples),
    "checklist": checklist(
      law,
      clusters=len(np.unique(runs["trunk"])),
      refits=refits,
      answers=_answers(rungs),
    ),
  }


def _require_cells(runs: Mapping[str, np.ndarray]) -> None:
  sizes = np.unique(runs["params"])
  if len(sizes) < HELD_OUT + 3:
    raise DataError(
      f"{len(sizes)} sizes do not carry a law and {HELD_OUT} sizes held out of"
      f" it: train at least {HELD_OUT + 3}, or report on the runs of one length"
    )
  most = runs["steps"].max()
  for size in sizes[-HELD_OUT - 1 :]:
    if not ((runs["params"] == size) & (runs["steps"] == most)).any():
      raise DataError(
        f"no run of {size:,.0f} backbone parameters has the longest training,"
        f" {most:,} steps, at which the largest sizes are to be predicted:"
        " sweep again"
      )


def columns(rungs: Sequence[Rung]) -> dict[str, np.ndarray]:
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
    "validation": column(lambda r: r["validation"]["nll"]),
    "trunk": column(lambda r: r["trunk"]),
    "name": column(lambda r: r["name"]),
  }


def _other(
  runs: Mapping[str, np.ndarray], params: str, tokens: str = "tokens"
) -> np.ndarray:
  return np.stack([runs[params], runs[tokens]], axis=1)


def _grid(
  rungs: Sequence[Rung], samples: Mapping[str, Samples]
) -> list[dict[str, Any]]:
  cold = _cold(rungs)
  return [
    {
      "name": rung.name,
      "seeds": [result["seed"] for result in rung.results],
      "params": rung.first["params"],
      "width": rung.first["config"]["model"]["width"],
      "steps": rung.steps,
      "tokens": round(rung.mean("tokens")),
      "epochs": rung.mean("epochs"),
      "flops": rung.first["flops"]["model"],
      "validation_nll": float(
        np.mean([r["validation"]["nll"] for r in rung.results])
      ),
      **_measured(samples, place),
      "cold": {
        "queries": cold["queries"],
        **_measured(cold["samples"], place),
      },
    }
    for place, rung in enumerate(rungs)
  ]


def _measured(samples: Mapping[str, Samples], place: int) -> dict[str, Any]:
  return {
    key: value
    for metric, found in samples.items()
    for key, value in {
      metric: float(found.value_n[place]),
      f"{metric}_ci": found.interval_n()[place].tolist(),
    }.items()
  }


def _tasks(ladder: Sequence[Rung]) -> dict[str, Any]:
  """What size brings on all queries, and where training never met the item."""
  params_n = [rung.backbone for rung in ladder]
  found = {"all": sample([rung.ranked for rung in ladder], "nll")}
  cold = _cold(ladder)
  if cold["queries"]:
    found["cold"] = cold["samples"]["nll"]
  return {
    name: tasks.curve(params_n, samples, held_out=HELD_OUT)
    for name, samples in found.items()
  }


def _cold(rungs: Sequence[Rung]) -> dict[str, Any]:
  """Of items that training never met."""
  asked = rungs[0].ranked[0].train_count == 0
  if not asked.any():
    return {"queries": 0, "samples": {}}
  ranked = [[run.where(asked) for run in rung.ranked] for rung in rungs]
  return {
    "queries": int(asked.sum()),
    "samples": {metric: sample(ranked, metric) for metric in METRICS},
  }


def _noise(rungs: Sequence[Rung]) -> dict[str, Any]:
  """What a seed moves: standard deviation of test metrics, pooled."""
  several = [rung for rung in rungs if len(rung.results) > 1]
  found: dict[str, Any] = {"rungs": len(several)}
  for metric in gains.METRICS:
    groups = [
      np.array([result["test"][metric] for result in rung.results])
      for rung in several
    ]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    found[metric] = float(np.sqrt(squares / freedom)) if freedom else None
  return found


def _curves(
  law: Fit, refits: Refits, runs: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """The law over sizes, at each length of training, with its band."""
  size = np.geomspace(runs["params"].min(), runs["params"].max(), GRID)
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
        "limit": held_out.limit(law, tokens),
      }
    )
  return found


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


def _ceiling(rungs: Sequence[Rung], samples: Samples) -> dict[str, Any]:
  """NDCG@10 of endless parameters at the longest training."""
  most = max(rung.steps for rung in rungs)
  places = [i for i, rung in enumerate(rungs) if rung.steps == most]
  size_n = np.array([rungs[place].backbone for place in places], float)
  form = curves.RisingOffset(("params",))
  try:
    law = fit.fit(size_n, samples.value_n[places], form=form, y_name="NDCG@10")
  except DataError as error:
    return {"good": False, "warnings": [str(error)]}
  return law.to_dict()


def _profile(law: Fit, name: str) -> list[float | None] | None:
  """Its interval by profile likelihood; None where there is no noise."""
  try:
    found = profile(law, name)
  except ValueError:
    return None
  return known({"": (found.low, found.high)})[""]


def _answers(rungs: Sequence[Rung]) -> dict[str, str]:
  """To the questions of the checklist that runs can answer."""
  results = [result for rung in rungs for result in rung.results]
  config, result = results[0]["config"], results[0]
  model, optim, data = config["model"], config["optim"], config["data"]
  epochs = [result["epochs"] for result in results]
  trunks = len({result["trunk"] for result in results})
  return {
    "How are parameters, tokens and FLOPs counted; are item tables in?": (
      "Parameters are the backbone's, without item tables, embedders and heads"
      " (the same law over all of them is beside it); tokens are targets that"
      " were trained on, padding left out; compute is 6·N·D, and the model's"
      " exact FLOPs are in the records."
    ),
    "Is any data repeated, within a run or between runs?": (
      f"Runs saw {min(epochs):.2f} to {max(epochs):.2f} epochs; all see the"
      f" same log, those of a seed in the same order; the {len(results)} runs"
      f" share {trunks} trunks, which are resampled whole."
    ),
    "How were learning rate, batch size and schedule chosen at each size?": (
      f"Learning rates {_span(results, 'optim', 'learning_rate')} by"
      f" {model['scale']['type']}, {_span(results, 'data', 'rows')} rows of"
      f" {_span(results, 'data', 'window')} positions in a batch,"
      f" {optim['schedule']['type']}."
    ),
    "On which data, split and catalog is y measured?": (
      f"{data['source']['type']}, {data['split']['type']}, full softmax over"
      f" {result['catalog']['items']:,} items, {result['catalog']['targets']}"
      " targets of each user in the test part."
    ),
  }


def _span(results: Sequence[Mapping[str, Any]], part: str, name: str) -> str:
  """`4`, or `0.001 to 0.004`."""
  values = [result["config"][part][name] for result in results]
  low, high = min(values), max(values)
  return f"{low:g}" if low == high else f"{low:g} to {high:g}"

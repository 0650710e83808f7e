"""What a scaling-law study should say of itself, answered from its facts.

The questions are those of the checklist of "(Mis)fitting: a survey of scaling
laws" (Li et al. 2025, arXiv 2502.18969, appendix), shortened. What a fit cannot
know (how models were trained) is said to be the author's to answer.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fmjax.scaling.laws.law import LEVEL, Fit
from fmjax.scaling.trust.bootstrap import Refits

# Questions that no table of runs answers, by heading.
BY_AUTHOR = {
  "Why this form, and which others were considered?": "hypothesis",
  "How are parameters, tokens and FLOPs counted; are item tables in?": "setup",
  "Is any data repeated, within a run or between runs?": "setup",
  "How were learning rate, batch size and schedule chosen at each size?": (
    "setup"
  ),
  "Are code, runs and checkpoints open?": "setup",
  "On which data, split and catalog is y measured?": "data",
}

_HOW = {
  "huber": "Damped Gauss-Newton steps",
  "varpro": "Variable projection",
}


def checklist(
  law: Fit,
  *,
  clusters: int | None = None,
  refits: Refits | None = None,
  answers: Mapping[str, str] | None = None,
) -> list[str]:
  """Markdown lines, a question and its answer each.

  Args:
    law: the fit.
    clusters: trunks that the points come from, if known.
    refits: of the bootstrap, if there was one.
    answers: to the questions of `BY_AUTHOR`.
  """
  given = answers or {}
  unknown = given.keys() - BY_AUTHOR.keys()
  if unknown:
    raise ValueError(
      f"{sorted(unknown)[0]!r} is no question of the checklist; known:"
      f" {', '.join(BY_AUTHOR)}"
    )
  lines = [
    f"* {question} {answer}" for question, answer in _answered(law, clusters)
  ]
  lines.append(f"* How sure are the parameters? {_sureness(law, refits)}")
  lines += [
    f"* {question} {given.get(question, 'Not said: the author must.')}"
    for question in BY_AUTHOR
  ]
  return lines


def _answered(law: Fit, clusters: int | None) -> Sequence[tuple[str, str]]:
  data, form = law.data, law.form
  spans = [
    f"{name} {x_n.min():.3g} to {x_n.max():.3g}"
    f" ({len(np.unique(x_n))} values, {np.log10(x_n.max() / x_n.min()):.1f}"
    " decades)"
    for name, x_n in zip(data.x_names, data.x_nk.T, strict=True)
  ]
  freedom = law.points - len(law.theta_i)
  return (
    ("What is the form?", f"{data.y_name} = {form.equation}."),
    ("Which variables does it relate?", f"{'; '.join(spans)}."),
    (
      "Which parameters are fitted?",
      f"{', '.join(form.parameters)}: {len(form.parameters)} to"
      f" {law.points} points, {freedom} left to judge them by.",
    ),
    (
      "How many models are they from?",
      "Not said; each point counts as a model of its own."
      if clusters is None
      else f"{clusters} clusters of points that share a trunk.",
    ),
    ("Are all points used?", f"All {law.points} of the rows asked for."),
    (
      "What is minimized?",
      f"{_minimized(law)}: {law.objective:.6g}.",
    ),
    (
      "How, and from where?",
      f"{_HOW[law.fitter]} from {law.starts} fixed starts;"
      f" {law.agreement:.0%} agree; gradient {law.gradient_norm:.1e} of its"
      " largest possible size.",
    ),
    (
      "Is it the law, or the fit, that speaks?",
      "A good fit: it converged, off its bounds, with every parameter"
      " identified."
      if law.good
      else f"Not a good fit: {'; '.join(law.warnings) or 'see its facts'}.",
    ),
    (
      "How well does it fit, and predict?",
      f"{law.unexplained:.1%} of the spread of log {data.y_name} is left"
      f" unexplained, noise {_share(law.noise)}; what it predicts beyond the"
      " points is told by leaving the largest out.",
    ),
  )


def _share(noise: float) -> str:
  return f"{noise:.2%}" if np.isfinite(noise) else "unknown"


def _minimized(law: Fit) -> str:
  if law.fitter == "varpro":
    return f"Half the sum of squared relative residuals of {law.data.y_name}"
  return (
    f"The sum of Huber losses (delta {law.delta:g}) over residuals of log"
    f" {law.data.y_name}"
  )


def _sureness(law: Fit, refits: Refits | None) -> str:
  how = (
    f"{len(refits.theta_si)} bootstrap draws of {refits.clusters} clusters"
    if refits is not None and refits.enough
    else "covariance at the optimum"
  )
  ends = (
    refits.intervals()
    if refits is not None and refits.enough
    else law.intervals
  )
  shown = ", ".join(
    f"{name} [{low:.4g}, {high:.4g}]"
    if np.isfinite(low + high)
    else f"{name} unknown"
    for name, (low, high) in ends.items()
  )
  return f"{LEVEL:.0%} intervals ({how}): {shown}."

"""What a study says in words: for report.md, and for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_UNRELIABLE = "not to be relied on"


def sentences(content: Mapping[str, Any]) -> list[str]:
  """The study's answers, one each."""
  return [
    *headlines(content),
    *gains(content),
    *_allocation(content["allocation"]),
    _choice(content["choice"]),
  ]


def headlines(content: Mapping[str, Any]) -> list[str]:
  """The law, where it ends, and whether it foresaw the largest sizes."""
  return [_law(content), _floor(content), *_held_out(content)]


def gains(content: Mapping[str, Any]) -> list[str]:
  """What size and data bring, where that ends, and by which measure."""
  return [
    *_tenfold(content["gains"]),
    _ceiling(content["ceiling"]),
    *_agreement(content["loss_and_metric"]),
  ]


def section(content: Mapping[str, Any]) -> list[str]:
  """Markdown lines: the answers, what moves the law, and the checklist."""
  return [
    "## Sizes and lengths",
    "",
    *(f"* {sentence}" for sentence in sentences(content)),
    "",
    *_sensitivity(content),
    "",
    "### Checklist",
    "",
    "After Li et al. (2025), (Mis)fitting: a survey of scaling laws.",
    "",
    *content["checklist"],
  ]


def _law(content: Mapping[str, Any]) -> str:
  law = content["law"]
  ends = law["bootstrap"]["intervals"]
  told = ", ".join(
    f"{name} = {value:.4g} {_ends(ends[name])}"
    for name, value in law["parameters"].items()
  )
  text = f"Test NLL, {law['equation']}: {told}"
  if not law["good"]:
    text += f"; {_UNRELIABLE}"
  facts = [*law["warnings"], *law["bootstrap"]["warnings"]]
  return "; ".join([text, *facts]) + "."


def _floor(content: Mapping[str, Any]) -> str:
  low, high = content["irreducible_ci"]
  text = f"Irreducible loss {content['irreducible']:.3f} {_ends((low, high))}"
  floor = content["known_floor"]
  if floor is None:
    return text + "."
  gap = content["irreducible"] - floor
  return (
    f"{text}; the best that any model can do is {floor:.3f}, {gap:+.3f} away:"
    " what this family would still miss with endless parameters and data."
  )


def _held_out(content: Mapping[str, Any]) -> list[str]:
  chosen = content["held_out_form"]
  lines = [
    f"The smaller sizes choose {chosen['form']}, {chosen['equation']}, to"
    f" predict the {len(content['held_out'])} largest."
  ]
  for each, error, line in zip(
    content["held_out"],
    content["holdout_error_over_drop"],
    content["straight_line_error_over_drop"],
    strict=True,
  ):
    text = (
      f"{each['name']}, not seen by the law: {each['measured']:.4f} measured,"
      f" {each['predicted']:.4f} {_ends(each['interval'], 4)} predicted"
    )
    if error is None:
      lines.append(f"{text}; it is no better than the last size seen.")
    else:
      lines.append(
        f"{text}, off by {error:.0%} of its drop from the last size seen; a"
        f" straight line in logs by {line:.0%}."
      )
  if not content["held_out_law"]["good"]:
    lines.append(f"The law without the largest sizes is {_UNRELIABLE}.")
  return lines


def _tenfold(gains: Sequence[Mapping[str, Any]]) -> list[str]:
  return [
    f"{gain['factor']:.1f} times the {gain['of']}, {gain['from']} to"
    f" {gain['to']}: NLL {_signed(gain['nll'])}, NDCG@10"
    f" {_signed(gain['ndcg@10'])}."
    for gain in gains
  ]


def _signed(gain: Mapping[str, Any]) -> str:
  ends = gain["interval_with_seeds"] or gain["interval"]
  low, high = ends
  seeds = "" if gain["interval_with_seeds"] else ", users alone"
  return f"{gain['difference']:+.4f} [{low:+.4f}, {high:+.4f}{seeds}]"


def _ceiling(law: Mapping[str, Any]) -> str:
  if "parameters" not in law:
    return f"Ceiling of NDCG@10: not fitted ({'; '.join(law['warnings'])})."
  ends = law["intervals"]["R_inf"]
  text = (
    "Ceiling of NDCG@10 with endless parameters at the longest training:"
    f" {law['parameters']['R_inf']:.4f} {_ends(ends, 4)}"
  )
  return text + ("." if law["good"] else f"; {_UNRELIABLE}.")


def _agreement(found: Mapping[str, Any]) -> list[str]:
  lines = []
  for name, axis in (
    ("over_sizes", "sizes at equal length"),
    ("over_lengths", "lengths at equal size"),
  ):
    of = found[name]
    if of["rank_correlation"] is None:
      continue
    low, high = of["interval"]
    word = "agree" if of["agree_in_sign"] else "disagree"
    lines.append(
      f"Loss and NDCG@10 {word} in sign over {axis}: rank correlation"
      f" {of['rank_correlation']:+.2f} [{low:+.2f}, {high:+.2f}]."
    )
  return lines


def _allocation(found: Mapping[str, Any]) -> list[str]:
  lines = [
    f"Best size grows as C^{each['params_exponent']:.2f}, approach"
    f" {each['approach']}"
    + "".join(f"; {warning}" for warning in each["warnings"])
    + "."
    for each in found["approaches"]
  ]
  return lines + [f"{each}." for each in (*found["warnings"], *found["notes"])]


def _choice(rows: Sequence[Mapping[str, Any]]) -> str:
  told = ", ".join(
    f"{row['form']} {_share(row['error'])}"
    + (" (refused)" if row["refused"] else "")
    for row in rows
  )
  return f"Forms by their error at the largest sizes, unseen: {told}."


def _share(error: float | None) -> str:
  return "not fitted" if error is None else f"{error:.2%}"


def _sensitivity(content: Mapping[str, Any]) -> list[str]:
  rows = content["sensitivity"]
  names = list(content["law"]["parameters"])
  lines = [
    "### What else was chosen",
    "",
    f"| choice | {' | '.join(names)} | good |",
    f"| --- |{' ---: |' * len(names)} --- |",
  ]
  for row in rows:
    values = " | ".join(f"{row['parameters'][name]:.4g}" for name in names)
    lines.append(
      f"| {row['choice']} | {values} | {'yes' if row['good'] else 'no'} |"
    )
  return lines


def _ends(ends: Sequence[float | None], digits: int = 3) -> str:
  low, high = ends
  if low is None or high is None:
    return "[unknown]"
  return (
    f"[{low:.{digits}g}, {high:.{digits}g}]"
    if digits == 3
    else (f"[{low:.{digits}f}, {high:.{digits}f}]")
  )

"""`fmjax fit`: a law through the columns of a table, shown to a person."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fmjax.cli import arguments
from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError
from fmjax.scaling.reports.table_fit import fit_table

_SHOWN = 20  # predictions; the JSON object has them all


def fit(
  path: pathlib.Path,
  form: str,
  columns: Mapping[str, str],
  terminal: Terminal,
  *,
  predict: Sequence[str],
  optimum: Sequence[str],
  delta: float,
  where: Sequence[str],
  draws: int,
  vary: bool,
  hold_out: int,
  fitter: str,
) -> dict[str, Any]:
  """Fits, shows, and returns what `fit_table` does."""
  law = fit_table(
    path,
    form,
    columns,
    predict=_numbers(predict, "--predict"),
    optimum=_numbers(optimum, "--optimum"),
    delta=delta,
    where=_where(where),
    draws=draws,
    vary=vary,
    hold_out=hold_out,
    fitter=fitter,
  )
  _show(law, terminal)
  return law


def _numbers(given: Sequence[str], option: str) -> list[dict[str, float]]:
  """`params=1e9,tokens=2e10` of each."""
  return [
    {
      name: arguments.number(value, f"{option} {name}")
      for name, value in arguments.pairs(words, option).items()
    }
    for words in given
  ]


def _where(conditions: Sequence[str]) -> dict[str, str]:
  """A condition a word: values may hold commas."""
  result = {}
  for condition in conditions:
    name, equals, value = condition.partition("=")
    if not (name and equals):
      raise ConfigError(
        f"--where {condition!r} is no condition: write --where COLUMN=VALUE"
      )
    if name in result:
      raise ConfigError(f"--where asks for two values of {name!r}")
    result[name] = value
  return result


def _show(law: Mapping[str, Any], terminal: Terminal) -> None:
  terminal.show(f"{law['form']}: y = {law['equation']}")
  resampled = law.get("bootstrap", {}).get("intervals", {})
  header = ["parameter", "value", "standard error", f"{law['level']:.0%} from"]
  header += ["to", *(["bootstrap from", "to"] if resampled else [])]
  terminal.table(
    header,
    [
      [
        name,
        value,
        law["standard_errors"][name],
        *law["intervals"][name],
        *resampled.get(name, ()),
      ]
      for name, value in law["parameters"].items()
    ],
  )
  if "allocation" in law:
    best = law["allocation"]
    terminal.show(
      f"Lowest at a budget of C FLOPs: N ~ C^{best['params_exponent']:.3f},"
      f" D ~ C^{best['tokens_exponent']:.3f}"
    )
  if "optima" in law:
    names = list(law["optima"][0])
    terminal.show("The best run of a budget:")
    terminal.table(names, [[row[n] for n in names] for row in law["optima"]])
  noise = "unknown" if law["noise"] is None else f"{law['noise']:.2%}"
  terminal.show(
    f"{law['points']} points, noise {noise}, objective {law['objective']:.6g}"
    f" ({_fitter(law)}); {law['agreement']:.0%} of {law['starts']}"
    f" starts agree, gradient {law['gradient_norm']:.1e}"
  )
  _show_predictions(law, terminal)
  if "sensitivity" in law:
    names = list(law["parameters"])
    terminal.show("Under other choices:")
    terminal.table(
      ["choice", *names, "good"],
      [
        [row["choice"], *(row["parameters"][n] for n in names), row["good"]]
        for row in law["sensitivity"]
      ],
    )
  if "hold_out" in law:
    _show_held_out(law["hold_out"], terminal)
  for line in law["checklist"]:
    terminal.show(line)
  told = [*law["warnings"], *law.get("bootstrap", {}).get("warnings", [])]
  for warning in told:
    terminal.show(f"warning: {warning}")
  terminal.show(
    "The fit is good." if law["good"] else "The fit is not to be relied on."
  )


def _fitter(law: Mapping[str, Any]) -> str:
  if law["fitter"] == "varpro":
    return "variable projection"
  return f"delta {law['delta']:g}"


def _show_held_out(
  rows: Sequence[Mapping[str, Any]], terminal: Terminal
) -> None:
  terminal.show(
    f"Without the largest points, by {rows[0]['largest']}, and asked for them:"
  )
  terminal.table(
    ["form", "error in logs", "good", "refused"],
    [[row["form"], row["error"], row["good"], row["refused"]] for row in rows],
  )


def _show_predictions(law: Mapping[str, Any], terminal: Terminal) -> None:
  rows = law["predictions"]
  names = [name for name in rows[0] if not name.endswith("interval")]
  terminal.show("Predictions, with the interval of a new run:")
  terminal.table(
    [*names, "from", "to"],
    [
      [*(row[name] for name in names), *(row["interval"] or ("", ""))]
      for row in rows[:_SHOWN]
    ],
  )
  if len(rows) > _SHOWN:
    terminal.show(f"and {len(rows) - _SHOWN} more, in the JSON object")

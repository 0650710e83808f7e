"""The laws by the names that a command line gives them."""

from collections.abc import Sequence

from fmjax import config as config_lib
from fmjax.scaling.laws.broken import BrokenPower
from fmjax.scaling.laws.curves import PowerOffset, RisingOffset
from fmjax.scaling.laws.form import Form
from fmjax.scaling.laws.polynomial import Power, Quadratic
from fmjax.scaling.laws.repeated import DataConstrained
from fmjax.scaling.laws.surfaces import Chinchilla, OverTraining

INPUTS = ("params", "tokens", "unique", "flops")
FORMS = (
  "power",
  "power_offset",
  "broken_power_1",
  "broken_power_2",
  "quadratic",
  "chinchilla",
  "over_training",
  "data_constrained",
)


def form(
  name: str, *, rising: bool = False, inputs: Sequence[str] = ("x",)
) -> Form:
  """The law called `name`.

  Args:
    name: one of `FORMS`.
    rising: for a metric, which rises to a ceiling, not for a loss.
    inputs: what it is a law of; names of x.

  Raises:
    ConfigError: there is no such law, or not of these inputs.
  """
  law = _law(name, rising, tuple(inputs))
  if set(law.inputs) != set(inputs):
    raise config_lib.ConfigError(
      f"{name} is a law of {_and(law.inputs)}, not of {_and(inputs)}:"
      f" {law.equation}"
    )
  if rising and law.rises is False:
    raise config_lib.ConfigError(
      f"{name} falls to a floor, as a loss does; for a metric take"
      " power_offset, power, quadratic or broken_power_1"
    )
  return law


def _law(name: str, rising: bool, inputs: tuple[str, ...]) -> Form:
  one = inputs[:1]
  match name:
    case "power":
      return Power(inputs)
    case "power_offset":
      return RisingOffset(one) if rising else PowerOffset(one)
    case "broken_power_1":
      return BrokenPower(1, one)
    case "broken_power_2":
      return BrokenPower(2, one)
    case "quadratic":
      return Quadratic(inputs[:2])
    case "chinchilla":
      return Chinchilla()
    case "over_training":
      return OverTraining()
    case "data_constrained":
      return DataConstrained()
  raise config_lib.ConfigError(
    f"unknown form {name!r}" + config_lib.suggest(name, list(FORMS))
  )


def _and(names: Sequence[str]) -> str:
  return " and ".join(names)

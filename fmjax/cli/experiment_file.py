"""Experiment files: loading one by its path, and overriding its scalars."""

import dataclasses
import difflib
import functools
import importlib.util
import math
import pathlib
import types
import typing
from typing import Any

from fmjax.config import (
  ConfigError,
  Experiment,
  override,
  suggest,
  validate,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentFile:
  """The chosen experiments of a file.

  Attributes:
    path: of the file.
    question: the first line of its docstring.
    experiments: by name; all of them, or the one that `FILE:NAME` chose.
    whole: all of them.
  """

  path: pathlib.Path
  question: str
  experiments: dict[str, Experiment]
  whole: bool


def load(
  place: str, changes: typing.Sequence[tuple[str, str]] = ()
) -> ExperimentFile:
  """The experiments of `FILE` or `FILE:NAME`, with `changes` applied.

  Args:
    place: as typed, e.g. `experiments/quickstart.py:d64`.
    changes: dotted paths and the texts of their new values.
  """
  text, colon, name = place.partition(".py:")
  path = pathlib.Path(text + ".py" if colon else place)
  module = _import(path)
  experiments = _experiments(module, path)
  if colon:
    if name not in experiments:
      raise ConfigError(
        f"{path} has no experiment {name!r}" + suggest(name, list(experiments))
      )
    experiments = {name: experiments[name]}
  for name, experiment in experiments.items():
    try:
      changed = with_texts(experiment, changes)
      validate(changed)
    except ConfigError as error:
      raise ConfigError(f"{path}:{name}: {error}") from None
    experiments[name] = changed
  question = (module.__doc__ or path.stem).strip().splitlines()[0]
  return ExperimentFile(
    path=path, question=question, experiments=experiments, whole=not colon
  )


def with_texts(
  experiment: Experiment, changes: typing.Sequence[tuple[str, str]]
) -> Experiment:
  """`experiment` with scalars replaced by what their texts mean."""
  for path, text in changes:
    kind = _kind(experiment, path)
    experiment = override(experiment, {path: _parse(text, kind, path)})
  return experiment


def scalar_paths(config: Any, prefix: str = "") -> list[str]:
  """Every dotted path that the command line can set."""
  paths = []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      paths += scalar_paths(value, f"{prefix}{field.name}.")
    else:
      paths.append(prefix + field.name)
  return paths


def _import(path: pathlib.Path) -> types.ModuleType:
  if path.suffix != ".py":
    raise ConfigError(
      f"{str(path)!r} is no Python file: name an experiment file such as"
      " experiments/quickstart.py"
    )
  if not path.is_file():
    siblings = [str(p) for p in sorted(path.parent.glob("*.py"))]
    near = difflib.get_close_matches(str(path), siblings, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "check the path"
    raise ConfigError(f"there is no experiment file {str(path)!r}; {remedy}")
  spec = importlib.util.spec_from_file_location(
    f"experiment_{path.stem}", path.resolve()
  )
  assert spec
  assert spec.loader
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ConfigError(
      f"{error.filename}, line {error.lineno}, is no valid Python"
      f" ({error.msg}): correct it"
    ) from error
  except Exception as error:
    raise ConfigError(
      f"{path} cannot be loaded ({_said(error)}): correct it"
    ) from error
  return module


def _experiments(
  module: types.ModuleType, path: pathlib.Path
) -> dict[str, Experiment]:
  remedy = "define experiments(), which returns a dict of named Experiments"
  if not callable(getattr(module, "experiments", None)):
    raise ConfigError(f"{path} has no function experiments(): {remedy}")
  try:
    found = module.experiments()
  except Exception as error:
    raise ConfigError(
      f"experiments() of {path} failed ({_said(error)}): correct it"
    ) from error
  if not isinstance(found, dict) or not found:
    raise ConfigError(f"experiments() of {path} returned {found!r}: {remedy}")
  for name, experiment in found.items():
    # A name is part of a path and of FILE:NAME.
    if not isinstance(name, str) or not name or set(name) & set("/\\: "):
      raise ConfigError(
        f"{path} names an experiment {name!r}: use letters, digits and _"
      )
    if not isinstance(experiment, Experiment):
      raise ConfigError(
        f"{path}:{name} is a {type(experiment).__name__}: {remedy}"
      )
  return dict(found)


def _said(error: Exception) -> str:
  return f"{type(error).__name__}: {error}"


def _kind(experiment: Experiment, path: str) -> Any:
  """The declared type of the scalar at a dotted path."""
  known = scalar_paths(experiment)
  *parents, last = path.split(".")
  if path in known:
    config = functools.reduce(getattr, parents, experiment)
    return typing.get_type_hints(type(config))[last]
  try:
    part = functools.reduce(getattr, (*parents, last), experiment)
  except AttributeError:
    part = None
  if not dataclasses.is_dataclass(part):
    raise ConfigError(
      f"--{path} is no option of this experiment" + _near(path, known)
    )
  below = [f"--{name}" for name in known if name.startswith(path + ".")]
  raise ConfigError(
    f"--{path} is a {type(part).__name__}, and the command line sets numbers"
    " and texts only: choose another type in the experiment file"
    + (f", or set one of {', '.join(below)}" if below else "")
  )


def _near(path: str, known: list[str]) -> str:
  near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
  if near:
    return f"; did you mean --{near[0]}?"
  return f"; known: {', '.join(f'--{name}' for name in known)}"


def _parse(text: str, kind: Any, path: str) -> Any:
  try:
    if kind is bool:
      return {"true": True, "false": False}[text.lower()]
    if kind is int:
      return int(text)
    if kind is float:
      value = float(text)
      if not math.isfinite(value):
        raise ValueError
      return value
  except (KeyError, ValueError):
    raise ConfigError(
      f"--{path} {text!r} is no {_CALLED[kind]}: give one, e.g."
      f" --{path} {_EXAMPLES[kind]}"
    ) from None
  return text


_CALLED = {bool: "truth value", int: "whole number", float: "finite number"}
_EXAMPLES = {bool: "true", int: "200", float: "0.001"}

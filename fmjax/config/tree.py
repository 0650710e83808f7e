"""A configuration as a tree of frozen dataclasses: copied, saved, read back."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A choice: its subclasses add fields only, and no two share a name."""


class ConfigError(ValueError):
  """A configuration that cannot run; one sentence says why (exit code 2)."""


def suggest(name: str, known: list[str]) -> str:
  """`; did you mean 'x'?` for the nearest known name, else the known names."""
  near = difflib.get_close_matches(name, known, n=1)
  if near:
    return f"; did you mean {near[0]!r}?"
  return f"; known: {', '.join(known)}"


def override(config: Any, changes: dict[str, Any]) -> Any:
  """A copy of `config` with dotted paths replaced; unknown paths raise."""
  for path, value in changes.items():
    config = _replace(config, path.split("."), value, path)
  return config


def _replace(config: Any, keys: list[str], value: Any, path: str) -> Any:
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise ConfigError(
      f"{path!r} goes on after a value, {config!r}; leave {keys[0]!r} out"
    )
  names = [field.name for field in dataclasses.fields(config)]
  if keys[0] not in names:
    raise ConfigError(
      f"{type(config).__name__} has no field {keys[0]!r} (in {path!r})"
      + suggest(keys[0], names)
    )
  if len(keys) > 1:
    value = _replace(getattr(config, keys[0]), keys[1:], value, path)
  return dataclasses.replace(config, **{keys[0]: value})


def to_dict(config: Any) -> Any:
  """JSON-ready; a dataclass becomes {"type": its name, field: value, ...}."""
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    fields = {
      field.name: to_dict(getattr(config, field.name))
      for field in dataclasses.fields(config)
    }
    return {"type": type(config).__name__, **fields}
  if isinstance(config, tuple):
    return [to_dict(value) for value in config]
  return config


def from_dict(tree: Any) -> Any:
  """The inverse of `to_dict`."""
  if isinstance(tree, list):
    return tuple(from_dict(value) for value in tree)
  if not isinstance(tree, dict):
    return tree
  known = {kind.__name__: kind for kind in Config.__subclasses__()}
  fields = {key: from_dict(value) for key, value in tree.items()}
  name = fields.pop("type", None)
  if name not in known:
    raise ConfigError(
      f"unknown configuration type {name!r}" + suggest(str(name), list(known))
    )
  try:
    return known[name](**fields)
  except TypeError as error:
    raise ConfigError(
      f"the saved configuration does not fit {name}: {error}; it was written"
      " by another version of fmjax, run the experiment again"
    ) from None


def content_hash(tree: Any) -> str:
  """Twelve hex digits of the canonical JSON of `tree`."""
  text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def require_positive(values: Mapping[str, float]) -> None:
  """Refuses what is not above 0; `values` by path."""
  for path, value in values.items():
    if not value > 0:  # so that NaN is refused, too
      raise ConfigError(f"{path}={value} is not positive")


def require_not_negative(values: Mapping[str, float]) -> None:
  """Refuses what is below 0, or NaN; `values` by path."""
  for path, value in values.items():
    if not value >= 0:
      raise ConfigError(f"{path}={value} is negative")

"""The TOML mapping that says what the columns of a table mean.

A complete mapping; only the four lines marked * are required:

```toml
[events]
file = "clicks.csv"         # beside the mapping; --raw overrides it
delimiter = ","             # of a CSV file
user = "visitor"            # *
item = "product"            # *
timestamp = "time"          # *
time_unit = "s"             # * "s", "ms", "us" or "iso"
action = "event"            # without it every event has default_action
default_action = "click"
duration = "dwell"
duration_unit = "ms"        # "ms" or "s"
target_actions = ["buy"]    # without it every event is a target
repeats = true              # users buy the same again: keep seen items

[features.device]           # the feature's name
column = "device_type"      # without it the column has the feature's name
kind = "categorical"        # "numeric", "timestamp", "bag" or "vector"
when = "request"            # known before the item is shown; "post_action"

[features.price]
kind = "numeric"
when = "request"
log = true                  # spans decades: log1p before standardizing

[features.coupons]
kind = "bag"
when = "post_action"
separator = "|"             # of a bag or vector in one text column

[items]
file = "products.csv"       # beside the mapping
item = "product"
title = "name"
launch_time = "listed"
launch_unit = "iso"

[items.features.brand]      # metadata; `when` does not apply
kind = "categorical"

[items.features.image]
kind = "vector"
width = 2
columns = ["image_0", "image_1"]
```

Times without a zone are UTC. Timestamp features are in `time_unit`, those of
items in `launch_unit`. Parquet may hold lists where CSV needs a separator.
"""

import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

from fmjax.config import suggest
from fmjax.data.schema import DataError, Feature, Kind, When, check_names

EVENT_KEYS = {
  "file": str,
  "delimiter": str,
  "user": str,
  "item": str,
  "timestamp": str,
  "time_unit": str,
  "action": str,
  "default_action": str,
  "duration": str,
  "duration_unit": str,
  "target_actions": list,
  "repeats": bool,
}
ITEM_KEYS = {
  "file": str,
  "delimiter": str,
  "item": str,
  "title": str,
  "launch_time": str,
  "launch_unit": str,
  "features": dict,
}
_FEATURE_KEYS = {
  "column": str,
  "columns": list,
  "kind": str,
  "when": str,
  "log": bool,
  "separator": str,
  "width": int,
}


class Mapping:
  """A table of the TOML file; refuses what it does not know."""

  def __init__(self, tree: Any, known: dict[str, type], place: str):
    self.tree, self.place = tree, place
    for key, value in tree.items():
      if key not in known:
        raise DataError(
          f"{place} has an unknown key {key!r}" + suggest(key, list(known))
        )
      if type(value) is not known[key]:
        raise DataError(
          f"{place}: {key} = {value!r} is no {known[key].__name__}"
        )

  def require(self, key: str) -> Any:
    if key not in self.tree:
      raise DataError(f"{self.place} does not say {key}; add {key} = ...")
    return self.tree[key]

  def get(self, key: str, default: Any = None) -> Any:
    return self.tree.get(key, default)

  def choice(self, key: str, known: Sequence[str], default: str) -> str:
    value = self.tree.get(key, default)
    if value not in known:
      raise DataError(
        f"{self.place}: {key} = {value!r} is unknown" + suggest(value, [*known])
      )
    return value


def parse_mapping(path: pathlib.Path) -> dict[str, Any]:
  """The file's tables: "events", and maybe "features" and "items"."""
  if not path.exists():
    raise DataError(f"the mapping {path} does not exist; check --mapping")
  try:
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
  except UnicodeDecodeError as error:
    raise DataError(f"{path} is not UTF-8 ({error}); convert it") from None
  except tomllib.TOMLDecodeError as error:
    raise DataError(f"{path} is no TOML ({error}); repair it") from None
  known = {"events": dict, "features": dict, "items": dict}
  Mapping(tree, known, str(path.name)).require("events")
  return tree


def parse_features(
  tree: dict[str, Any], place: str, *, items: bool = False
) -> list[tuple[Feature, Mapping]]:
  """Each declared feature with its table, which says where its values are."""
  features = []
  for name, entry in tree.items():
    here = f"{place}, {name!r}"
    if not isinstance(entry, dict):
      raise DataError(f"{here} is no table; write [features.{name}]")
    keys = Mapping(entry, _FEATURE_KEYS, here)
    kind = keys.choice("kind", [k.value for k in Kind], keys.require("kind"))
    when = When.POST_ACTION
    if not items:
      when = keys.choice("when", [w.value for w in When], keys.require("when"))
    elif "when" in entry:
      raise DataError(f"{here}: metadata has no `when`; leave it out")
    width = keys.require("width") if kind == Kind.VECTOR else 0
    if "width" in entry and (kind != Kind.VECTOR or width <= 0):
      raise DataError(
        f"{here}: width = {entry['width']} must be the positive width of a"
        " vector"
      )
    if keys.get("log") and kind != Kind.NUMERIC:
      raise DataError(f"{here}: log = true is for numeric features")
    feature = Feature(
      name=name,
      kind=Kind(kind),
      when=When(when),
      log=keys.get("log", False),
      width=width,
    )
    features.append((feature, keys))
  check_names((feature for feature, _ in features), place=place)
  return features

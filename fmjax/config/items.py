"""What an item is to the model: its id, metadata, age and counts."""

import dataclasses

from fmjax.config.tree import Config, ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdOnly(Config):
  """Item embedding = id embedding; 0 for items without training events."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetadataOnly(Config):
  """Item embedding = metadata embedding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumMixer(Config):
  """Item embedding = id embedding + metadata embedding."""

  id_dropout: float = 0.0  # share of items without their id, drawn every step


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcatMixer(Config):
  """Item embedding = projection of [id embedding ; metadata embedding].

  As in SASRecF (RecBole).
  """

  id_dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedGate(Config):
  """Item embedding = metadata embedding + 2 · w · id embedding.

  So the sum has w = 1/2.
  """

  id_weight: float = 0.25
  id_dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgeGate(Config):
  """Item embedding = metadata embedding + 2 · w(age) · id embedding.

  The weight w in (0, 1) is of attention over {metadata, metadata + 2 · id} with
  a query made from the item's age; the sum has w = 1/2 at every age.
  """

  id_dropout: float = 0.1


Mixer = IdOnly | MetadataOnly | SumMixer | ConcatMixer | FixedGate | AgeGate


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllMetadata(Config):
  """Every field of the catalog's metadata is embedded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SomeMetadata(Config):
  """The named fields of the catalog's metadata are embedded."""

  names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAge(Config):
  """Candidates do not tell their age."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateAge(Config):
  """A candidate's age at the start of the prediction's day, rounded down.

  A small network reads it, together with the counts if there are any
  (model/daily.py).
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoDynamics(Config):
  """Candidates do not tell how often they were chosen lately."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicCounts(Config):
  """How often a candidate was chosen before the prediction's day.

  Its targets in the last 1, 3, 7 and 30 days, rounded down: a small network
  reads their log1p times `strength` (model/daily.py). At 0 all counts look
  alike.
  """

  strength: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemsConfig(Config):
  """What an item is to the model, as input and as candidate."""

  mixer: Mixer = SumMixer()
  metadata: AllMetadata | SomeMetadata = AllMetadata()
  age: NoAge | CandidateAge = NoAge()
  dynamics: NoDynamics | DynamicCounts = NoDynamics()


def validate_items(items: ItemsConfig) -> None:
  """Refuses shares and weights outside their range, and fields named twice."""
  mixer = items.mixer
  rate = getattr(mixer, "id_dropout", 0.0)
  if not 0 <= rate < 1:
    raise ConfigError(f"model.items.mixer.id_dropout={rate} is not in [0, 1)")
  if isinstance(mixer, FixedGate) and not 0 <= mixer.id_weight <= 1:
    raise ConfigError(
      f"model.items.mixer.id_weight={mixer.id_weight} is not in [0, 1]"
    )
  match items.metadata:
    case SomeMetadata(names=names):
      if not names or len(set(names)) < len(names):
        raise ConfigError(
          f"model.items.metadata.names={names} must name fields, each once; for"
          " none use IdOnly()"
        )
  match items.dynamics:
    case DynamicCounts(strength=strength):
      if not 0 <= strength < float("inf"):
        raise ConfigError(
          f"model.items.dynamics.strength={strength} is not in [0, ∞)"
        )

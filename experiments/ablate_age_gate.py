r"""Does the age gate matter, and for which items?

  fmjax sweep experiments/ablate_age_gate.py --runs runs/ablations
  fmjax report experiments/ablate_age_gate.py --runs runs/ablations \
    --reference age_gate --out runs/ablations/ablate_age_gate \
    --result analysis/results/ablate_age_gate

An item is its id and its metadata; the age gate weighs them by its age. Every
other arm mixes them another way, with the same share of dropped ids.

  sum            id + metadata
  concat         a projection of both
  fixed_gate     metadata and half the id, whatever the age
  id_only        no metadata
  metadata_only  no id
"""

from experiments import ablations
from fmjax.config import (
  ConcatMixer,
  Experiment,
  FixedGate,
  IdOnly,
  MetadataOnly,
  Mixer,
  SumMixer,
)


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(
    {
      data: changes(ablations.reference(data, "age_gate"))
      for data in ("synthetic", "movietweetings")
    },
    of="age_gate",
  )


def changes(reference: Experiment) -> ablations.Changes:
  dropped = reference.model.items.mixer.id_dropout
  mixers: dict[str, Mixer] = {
    "sum": SumMixer(id_dropout=dropped),
    "concat": ConcatMixer(id_dropout=dropped),
    "fixed_gate": FixedGate(id_weight=0.25, id_dropout=dropped),
    "id_only": IdOnly(),
    "metadata_only": MetadataOnly(),
  }
  return {arm: {"model.items.mixer": mixer} for arm, mixer in mixers.items()}

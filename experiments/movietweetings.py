"""Does the whole model beat rolling popularity on MovieTweetings?

  fmjax sweep experiments/movietweetings.py
  fmjax report experiments/movietweetings.py --reference reference \
    --out runs/movietweetings --result analysis/results/movietweetings

New films come all the time and most of what people rate is new, so what was
rated in the last days is hard to beat: candidates tell their age and their
recent counts as of the start of the prediction's day.
"""

from experiments import quickstart
from fmjax.config import (
  AgeGate,
  CalendarTime,
  CandidateAge,
  DynamicCounts,
  Experiment,
  ItemsConfig,
  LogBucketBias,
  LogGap,
  MetadataOnly,
  override,
)
from fmjax.scaling.reports.arms import arms

SEEDS = 3


def experiments() -> dict[str, Experiment]:
  return arms("movietweetings", {"reference": reference()}, seeds=SEEDS)


def reference() -> Experiment:
  return override(
    quickstart.base(),
    {
      "model.items": ItemsConfig(
        # Chosen on validation. In training an id knows what became of its film
        # after the event; of a new one it knows nothing.
        mixer=MetadataOnly(),
        age=CandidateAge(),
        dynamics=DynamicCounts(),
      ),
      "model.time": CalendarTime(slow_terms=0),
      "model.relative_time": LogBucketBias(),
      "model.gap": LogGap(),
      "optim.learning_rate": 4e-3,
      "run.steps": 400,
      "run.evaluate_every": 40,
    },
  )


def gated() -> Experiment:
  """With ids, which most films are without in most steps."""
  return override(reference(), {"model.items.mixer": AgeGate(id_dropout=0.9)})

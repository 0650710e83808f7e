r"""What do ten times the parameters, and ten times the data, bring on news?

  fmjax sweep experiments/globo.py --jobs 2
  fmjax report experiments/globo.py --out runs/globo

Three million clicks of G1 (Globo), whose articles live for a day or two: most
of what will be read was never trained on. Articles have no metadata, so those
have their age and their counts alone, as half of all have in each step of
training: globo_ids.py asks how many should, and how fast to learn.
"""

from experiments import parameters_data
from fmjax.config import (
  DataConfig,
  Experiment,
  Globo,
  MixedProposal,
  NoAuxiliary,
  SampledSoftmax,
  SumMixer,
  TemporalSplit,
  override,
)
from fmjax.scaling.ladder import grid

WIDTHS = (16, 32, 48, 96, 160)  # from 16 to 48 and 48 to 160 about tenfold
TOKENS = (240_000, 760_000, 2_400_000)
SEEDS = {16: 3}


def experiments() -> dict[str, Experiment]:
  return {
    name: experiment
    for width in WIDTHS
    for name, experiment in grid(
      base(), widths=[width], tokens=TOKENS, seeds=SEEDS.get(width, 1)
    ).items()
  }


def base() -> Experiment:
  """The model of parameters_data.py, on another log."""
  return override(
    parameters_data.base(),
    {
      "data": DataConfig(
        source=Globo(),
        # Two weeks: validation and test are the last hours.
        split=TemporalSplit(validation=0.03, test=0.06),
        window=64,
        stride=64,
        rows=16,
      ),
      "model.items.mixer": SumMixer(id_dropout=0.5),
      "model.auxiliary": NoAuxiliary(),
      # A full softmax over 46,000 articles costs twenty backbones. Evaluation
      # is over all of them.
      "objective": SampledSoftmax(negatives=1_024, proposal=MixedProposal()),
      "optim.learning_rate": 2e-3,
      "run.targets": "first",
    },
  )

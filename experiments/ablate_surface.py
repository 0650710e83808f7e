r"""What is shown where nobody says on which surface it will be?

  fmjax sweep experiments/ablate_surface.py --runs runs/ablations
  fmjax report experiments/ablate_surface.py --runs runs/ablations \
    --reference reference --out runs/ablations/ablate_surface \
    --result analysis/results/ablate_surface

An app shows other things on other surfaces, so what people click there is its
choice as much as theirs. The reference reads the surface as the log has it.

  sometimes_neutral  a fifth of the training requests does not tell it, so that
                     `fmjax evaluate RUN --neutral surface` can ask without
"""

from experiments import ablations
from fmjax.config import Experiment, SometimesNeutral

DATA = ("synthetic", "kuairand")


def experiments() -> dict[str, Experiment]:
  return ablations.ablate(dict.fromkeys(DATA, changes()))


def changes() -> ablations.Changes:
  return {
    "sometimes_neutral": {
      "model.request": SometimesNeutral(names=("surface",), share=0.2)
    }
  }

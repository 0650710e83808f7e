r"""Is the best learning rate of a narrow model that of a wide one?

  fmjax sweep experiments/mup_transfer.py --jobs 2

With μP (`MaximalUpdate`) it should be, and without it should fall with the
width. Rates are a factor of two apart, widths span a factor of eight.

  mup-dW-rR   width W at rate R, scaled from width 16
  sp-dW-rR    the same without; at width 16 they are one
"""

from experiments import parameters_data
from fmjax.config import Experiment, StandardScale, override
from fmjax.scaling.ladder import rung, train_on

WIDTHS = (16, 32, 128)
RATES = tuple(1e-3 * 2**k for k in range(7))
TOKENS = 500_000


def experiments() -> dict[str, Experiment]:
  base = train_on(parameters_data.base(), TOKENS)
  found = {}
  for width in WIDTHS:
    for rate in RATES:
      made = override(rung(base, width), {"optim.learning_rate": rate})
      name = f"d{width}-r{1_000 * rate:g}"
      found[f"mup-{name}"] = made
      if width != base.model.width:
        plain = {"model.scale": StandardScale()}
        found[f"sp-{name}"] = override(made, plain)
  return found

"""The one-dimensional recipe: what a rung is follows from its width alone."""

from collections.abc import Iterable

from fmjax.config import Experiment, override

_HEAD_WIDTH = 16
_WIDTH_PER_LAYER = 32


def rung(base: Experiment, width: int) -> Experiment:
  """`base` at another width; `rung(base, base.model.width)` keeps its rate.

  What is not named here stays as in `base`: all rungs train for the same steps
  on the same rows in the same order, so they see the same tokens and a
  difference between two of them is one of size.
  """
  # Depth in proportion to width: with a fixed ratio the backbone grows as
  # width³, and losses hardly depend on the ratio within a factor of two or
  # three of the best (Kaplan et al. 2020, section 3.1).
  layers = max(1, width // _WIDTH_PER_LAYER)
  # Heads of equal width keep the scale of attention logits; more of them is
  # what a wider model gains.
  heads = max(1, width // _HEAD_WIDTH)
  # Narrow models want, and stand, larger steps. Between a constant rate and
  # 1/width (Adam's limit for hidden matrices under μP): the item tables, most
  # of the parameters here, would keep theirs.
  rate = base.optim.learning_rate * (base.model.width / width) ** 0.5
  return override(
    base,
    {
      "model.width": width,
      "model.layers": layers,
      "model.heads": heads,
      "optim.learning_rate": rate,
    },
  )


def ladder(base: Experiment, widths: Iterable[int]) -> dict[str, Experiment]:
  """Rungs by name, `d16`, `d32`, …, from the smallest."""
  return {f"d{width}": rung(base, width) for width in sorted(widths)}

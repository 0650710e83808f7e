import pytest

from fmjax.config import Experiment, validate
from fmjax.data.schema import DataSpec
from fmjax.scaling.count import parameters
from fmjax.scaling.ladder import ladder, rung

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 256)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_rung_is_a_valid_experiment_on_the_same_tokens(width):
  base = Experiment()
  made = rung(base, width)
  validate(made)
  assert made.model.width == width
  assert (made.data, made.run, made.objective) == (
    base.data,
    base.run,
    base.objective,
  )


def test_the_backbone_grows_with_every_rung_and_spans_decades():
  spec = DataSpec(items=10_000)
  sizes = [
    parameters(made.model, spec, window=64).backbone
    for made in ladder(Experiment(), WIDTHS).values()
  ]
  assert sizes == sorted(set(sizes))
  assert sizes[5] > 30 * sizes[1]  # 16 to 64
  assert sizes[-1] > 1_000 * sizes[0]


def test_names_tell_the_width_from_the_smallest_on():
  assert list(ladder(Experiment(), (64, 16, 32))) == ["d16", "d32", "d64"]


def test_wider_rungs_take_smaller_steps_and_the_base_keeps_its_own():
  base = Experiment()
  rates = [rung(base, width).optim.learning_rate for width in WIDTHS]
  assert rates == sorted(rates, reverse=True)
  assert rung(base, 64).optim == base.optim
  assert rung(base, 16).optim.learning_rate == pytest.approx(
    2 * base.optim.learning_rate
  )

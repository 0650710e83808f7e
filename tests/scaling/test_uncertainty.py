import numpy as np
import pytest

from fmjax.eval.compare import compare
from fmjax.eval.metrics import summary
from fmjax.eval.ranked import Ranked
from fmjax.scaling import fit
from fmjax.scaling.laws.curves import PowerOffset, RisingOffset
from fmjax.scaling.uncertainty import Samples, band, sample

USERS = 400
SIZES = np.array([4e3, 1.5e4, 1e5, 7e5])


def ranked(*, nll: np.ndarray, rank: np.ndarray) -> Ranked:
  count = len(nll)
  zeros = np.zeros(count, np.int32)
  return Ranked(
    user=np.arange(count, dtype=np.int32),
    history_length=zeros,
    item=zeros + 1,
    time_s=zeros,
    rank=rank.astype(np.int32),
    nll=nll.astype(np.float32),
    train_count=zeros,
    top10_nk=np.zeros((count, 10), np.int32),
    catalog_items=100,
    split="test",
    targets="first",
    seen_filtered=True,
    data_checksum="made for this test",
  )


def rungs(*, seeds: int = 1, seed_noise: float = 0.0) -> list[list[Ranked]]:
  """Users differ by nats, rungs by tenths, seeds by `seed_noise`."""
  generator = np.random.default_rng(0)
  difficulty = 2 * generator.normal(size=USERS)
  place = generator.uniform(size=USERS)
  result = []
  for size in SIZES:
    runs = []
    for _ in range(seeds):
      luck = seed_noise * generator.normal()
      noise = 0.2 * generator.normal(size=USERS)
      nll = 7 + 8 * size**-0.3 + luck + difficulty + noise
      rank = 1 + (400 * size**-0.2 * place**2).astype(int)
      runs.append(ranked(nll=nll, rank=rank))
    result.append(runs)
  return result


def test_measured_values_and_intervals_are_those_of_the_metrics():
  answers = rungs()
  drawn = sample(answers, "ndcg@10")
  expected = summary(answers[2][0])
  assert drawn.value_n[2] == pytest.approx(expected["ndcg@10"])
  assert drawn.interval_n()[2] == pytest.approx(expected["ndcg@10_ci"])


def test_rungs_are_paired_by_user_as_in_a_comparison():
  answers = rungs()
  drawn = sample(answers, "nll")
  paired = drawn.difference(3, 0)
  expected = compare(answers[3], answers[0], metric="nll").interval
  assert paired == pytest.approx(expected)
  # Users differ far more than rungs do; most of it cancels.
  alone = np.diff(drawn.interval_n()[0])[0]
  assert paired[1] - paired[0] < 0.3 * alone


def test_improvement_is_relative_to_the_smallest_rung_and_positive_if_better():
  answers = rungs()
  for metric in ("nll", "ndcg@10"):
    drawn = sample(answers, metric)
    gain = drawn.improvement()
    ratio = drawn.value_n[3] / drawn.value_n[0]
    assert gain.value_n[0] == 0
    assert gain.value_n[3] == pytest.approx(abs(ratio - 1))
    assert np.all(gain.draw_sn[:, 0] == 0)


def test_seeds_are_resampled_with_the_users():
  quiet = sample(rungs(seeds=3), "nll").difference(3, 0)
  noisy = sample(rungs(seeds=3, seed_noise=0.1), "nll").difference(3, 0)
  assert np.diff(noisy)[0] > 2 * np.diff(quiet)[0]


@pytest.mark.parametrize(
  "metric,form",
  [("nll", PowerOffset()), ("ndcg@10", RisingOffset())],
)
def test_the_band_holds_the_law_and_ends_where_the_rungs_end(metric, form):
  drawn = sample(rungs(), metric, draws=200)
  law = fit.fit(SIZES, drawn.value_n, form=form)
  spread = band(law, SIZES, drawn, points=20)
  assert spread.x[0] == pytest.approx(SIZES[0])
  assert spread.x[-1] == pytest.approx(SIZES[-1])
  assert np.all(spread.low <= spread.y)
  assert np.all(spread.y <= spread.high)
  np.testing.assert_allclose(spread.y, law.predict(spread.x))


def test_the_band_of_the_improvement_is_the_narrower_for_pairing():
  drawn = sample(rungs(), "nll", draws=200)
  law = fit.fit(SIZES, drawn.value_n, form=PowerOffset())
  absolute = band(law, SIZES, drawn, points=5)
  relative = band(law, SIZES, drawn, points=5, relative=True)
  width = (absolute.high - absolute.low) / drawn.value_n[0]
  assert np.all(relative.high - relative.low < 0.5 * width)
  # It starts at the smallest rung: its own noise is the unit, not the doubt.
  assert abs(relative.y[0]) < 1e-3


def test_each_draw_is_refitted_as_if_it_were_alone():
  drawn = sample(rungs(), "nll", draws=8)
  law = fit.fit(SIZES, drawn.value_n, form=PowerOffset())
  spread = band(law, SIZES, drawn, points=7)
  alone = [
    fit.fit(SIZES, y_n, form=PowerOffset()).predict(spread.x)
    for y_n in drawn.draw_sn
  ]
  low, high = np.percentile(alone, [5, 95], axis=0)
  np.testing.assert_allclose(spread.low, low, rtol=1e-4)
  np.testing.assert_allclose(spread.high, high, rtol=1e-4)


@pytest.mark.slow
def test_the_band_covers_the_law_that_the_users_were_drawn_from():
  """What it claims: the noise of the test users, given the form."""
  inside, replicates = 0, 40
  generator = np.random.default_rng(3)
  true_n = 7 + 8 * SIZES**-0.3
  for _ in range(replicates):
    difficulty = 2 * generator.normal(size=USERS)
    answers = [
      [
        ranked(
          nll=mean + difficulty + 0.3 * generator.normal(size=USERS),
          rank=np.ones(USERS),
        )
      ]
      for mean in true_n
    ]
    drawn = sample(answers, "nll", draws=100)
    law = fit.fit(SIZES, drawn.value_n, form=PowerOffset(), starts=16)
    spread = band(law, SIZES, drawn, points=3)
    middle = 7 + 8 * spread.x[1] ** -0.3
    inside += spread.low[1] <= middle <= spread.high[1]
  assert 0.75 <= inside / replicates <= 1


def test_draws_in_which_everyone_missed_have_no_ratio():
  samples = Samples(
    metric="ndcg@10",
    value_n=np.array([0.1, 0.2]),
    draw_sn=np.array([[0.1, 0.3], [0.0, 0.2], [0.1, 0.0]]),
  )
  gain = samples.improvement()
  np.testing.assert_allclose(gain.value_n, [0, 1])
  np.testing.assert_allclose(gain.draw_sn, [[0, 2], [0, -1]], atol=1e-12)

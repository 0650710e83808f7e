"""Looks of candidates: their age and counts, rounded down, each once."""

import item_world as world
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax import mesh
from fmjax.config import CandidateAge, DynamicCounts, IdOnly, ItemsConfig
from fmjax.data.dynamic import NOT_SEEN, Dated
from fmjax.model import daily

BOTH = ItemsConfig(age=CandidateAge(), dynamics=DynamicCounts(strength=0.5))
AGES = ItemsConfig(age=CandidateAge())
COUNTS = ItemsConfig(dynamics=DynamicCounts())
each_config = pytest.mark.parametrize(
  "config", [BOTH, AGES, COUNTS], ids=["both", "ages", "counts"]
)
# Tables of a few days and items.
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=20, deadline=None, derandomize=True)


def tables_of(seed: int) -> Dated:
  """Ages and counts of any size, the small ones and the equal ones often."""
  rng = np.random.default_rng(seed)
  shape = tuple(rng.integers(1, 9, 2))

  def numbers(*shape, bits):
    return rng.integers(0, 1 << rng.integers(0, bits, shape)).astype(np.int32)

  return Dated(
    first_day=100,
    age_dv=NOT_SEEN + numbers(*shape, bits=14),
    count_fdv=numbers(4, *shape, bits=30),
  )


def features_yvf(config: ItemsConfig, tables: Dated) -> np.ndarray:
  """Of every candidate on every day."""
  looks = daily.looks(config, tables)
  return looks.feature_lf[looks.look_yv]


@each_config
@few
@seeds
def test_a_candidate_has_the_features_of_its_own_age_and_counts_rounded_down(
  config, seed
):
  tables = tables_of(seed)
  got_yvf = features_yvf(config, tables)
  want_yvf = world.plain_features(
    config, tables.age_dv, np.moveaxis(tables.count_fdv, 0, 2)
  )
  assert got_yvf.dtype == np.float32
  assert got_yvf.shape[2] == daily.features_width(config)
  np.testing.assert_allclose(got_yvf, want_yvf, rtol=1e-5, atol=1e-6)


@each_config
@few
@seeds
def test_looks_are_as_few_as_the_combinations_of_levels(config, seed):
  tables = tables_of(seed)
  looks = daily.looks(config, tables)
  levels = [
    [world.plain_age_level(a) for a in tables.age_dv.flat],
    *(
      [world.plain_count_level(c) for c in count_dv.flat]
      for count_dv in tables.count_fdv
    ),
  ]
  read = {id(BOTH): levels, id(AGES): levels[:1], id(COUNTS): levels[1:]}
  combinations = set(zip(*read[id(config)], strict=True))
  assert len(looks.feature_lf) == len(combinations)
  assert set(looks.look_yv.flat) == set(range(len(combinations)))


@few
@seeds
def test_at_strength_zero_candidates_of_one_age_look_alike(seed):
  tables = tables_of(seed)
  mute = ItemsConfig(age=CandidateAge(), dynamics=DynamicCounts(strength=0.0))
  got_yvf, age_yvf = (features_yvf(c, tables) for c in (mute, AGES))
  ages = age_yvf.shape[2]
  np.testing.assert_array_equal(got_yvf[..., :ages], age_yvf)
  assert not got_yvf[..., ages:].any()


@few
@seeds
def test_later_days_change_nothing_of_the_looks_before_them(seed):
  known, other = tables_of(seed), tables_of(seed)
  days = len(known.age_dv) // 2
  other.age_dv[days:] = 7
  other.count_fdv[:, days:] += 1
  np.testing.assert_array_equal(
    features_yvf(BOTH, other)[:days], features_yvf(BOTH, known)[:days]
  )


def test_candidates_have_equal_values_where_their_looks_are_equal():
  with mesh.use(mesh.make_mesh()):
    table = world.make_table(
      ItemsConfig(mixer=IdOnly(), age=CandidateAge(), dynamics=DynamicCounts())
    )
    value_ymv = jax.jit(lambda t: t.head().parts[0].value_ymv)(table)
  look_yv = np.asarray(table.look_yv[...])
  value_yvm = np.moveaxis(np.asarray(value_ymv), 1, 2)
  one_of_l, places = np.unique(look_yv, return_index=True)
  assert len(one_of_l) == len(table.feature_lf[...]) < look_yv.size / 2
  value_lm = value_yvm.reshape(-1, daily.VALUES)[places]
  np.testing.assert_array_equal(value_yvm, value_lm[look_yv])
  assert len(np.unique(value_lm, axis=0)) == len(value_lm)

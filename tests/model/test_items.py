"""What an item is to the model: every mixer, with and without dated terms."""

import dataclasses
import functools
import json
import typing

import item_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  AllMetadata,
  CandidateAge,
  ConfigError,
  DynamicCounts,
  Experiment,
  FixedGate,
  ItemsConfig,
  MetadataOnly,
  Mixer,
  NoAge,
  NoDynamics,
  SomeMetadata,
  SumMixer,
  from_dict,
  override,
  to_dict,
  validate,
)
from fmjax.data.dynamic import NOT_SEEN
from fmjax.model import age
from fmjax.model.heads import pair_logits
from fmjax.model.items import ItemTable

each_config = pytest.mark.parametrize("config", world.CONFIGS, ids=world.name)


def test_every_mixer_is_in_the_world():
  found = {type(config.mixer) for config in world.CONFIGS}
  assert found == set(typing.get_args(Mixer))


with_ids = pytest.mark.parametrize(
  "config",
  [c for c in world.CONFIGS if c.mixer != MetadataOnly()],
  ids=world.name,
)
# Off the log's ends, too.
DAYS_N = world.FIRST_DAY + np.array([-3, 0, 1, 7, 20, 39, 40], np.int32)
ON_LOG_N = np.clip(DAYS_N, world.FIRST_DAY, world.FIRST_DAY + world.DAYS)
STATES_ND = np.random.default_rng(2).normal(size=(len(DAYS_N), world.WIDTH))
STATES_ND = STATES_ND.astype(np.float32)


@functools.cache
def table_of(config: ItemsConfig) -> ItemTable:
  with mesh.use(mesh.make_mesh()):
    return world.make_table(config)


@jax.jit
def sides(table: ItemTable, day_n: jax.Array) -> dict[str, jax.Array]:
  """Every item as input (at noon of each day) and as candidate."""
  n, v = day_n.shape[0], table.items
  rows = jnp.tile(jnp.arange(v), n)
  days = jnp.repeat(jnp.asarray(day_n), v)
  states = jnp.repeat(jnp.asarray(STATES_ND), v, axis=0)
  head = table.head()
  times = days * world.DAY_S + world.DAY_S // 2

  def pairs(item_nd):
    return pair_logits(states, item_nd).reshape(n, v)

  return {
    "input": table.embed(rows, times).reshape(n, v, -1),
    "candidate": table.embed_candidates(rows, days).reshape(n, v, -1),
    "pair": pairs(table.embed_candidates(rows, days)),
    "head_pair": pairs(head.embed(rows, days)),
    "head": head.logits(STATES_ND, day_n)[:, :v],
    "some": table.head(jnp.arange(v)[::-1]).logits(STATES_ND, day_n),
  }


@pytest.fixture(autouse=True)
def single_device_mesh():
  with mesh.use(mesh.make_mesh()):
    yield


@each_config
def test_logits_of_the_catalog_equal_those_of_each_pair(config):
  got = sides(table_of(config), DAYS_N)
  assert np.all(got["head"][:, 0] == -np.inf)
  for name in ("head", "some"):
    logits = got[name] if name == "head" else got[name][:, ::-1]
    for pair in ("pair", "head_pair"):
      np.testing.assert_allclose(
        logits[:, 1:], got[pair][:, 1:], rtol=1e-5, atol=1e-5
      )


@each_config
def test_a_candidate_is_what_its_definition_says(config):
  got = sides(table_of(config), DAYS_N)["candidate"]
  want = world.plain_candidates(table_of(config), config, ON_LOG_N)
  np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=1e-5, atol=1e-5)


@with_ids
def test_the_id_of_an_item_without_training_events_changes_nothing(config):
  table = table_of(config)
  noisy = nnx.clone(table)
  untrained_v = np.zeros(table.rows, bool)
  untrained_v[: world.ITEMS] = world.CATALOG.train_count_v == 0
  noisy.id_vd[...] = noisy.id_vd[...] + 100.0 * untrained_v[:, None]
  before, after = sides(table, DAYS_N), sides(noisy, DAYS_N)
  for name in before:
    np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.mark.parametrize(
  "mixer",
  [SumMixer(), FixedGate(), AgeGate()],
  ids=lambda mixer: type(mixer).__name__,
)
def test_without_an_id_metadata_stand_alone_exactly(mixer):
  table = table_of(ItemsConfig(mixer=mixer))
  id_nd, metadata_nd = np.random.default_rng(0).normal(size=(2, 5, 8))
  item_nd, by_age_nd = table.mixer(id_nd, np.zeros(5), metadata_nd)
  np.testing.assert_array_equal(item_nd, metadata_nd)
  assert by_age_nd is None or not np.any(by_age_nd)


@pytest.mark.parametrize(
  "weight,same", [(0.0, MetadataOnly()), (0.5, SumMixer())], ids=str
)
def test_a_fixed_gate_reaches_from_metadata_over_the_sum(weight, same):
  gate = world.make_table(ItemsConfig(mixer=FixedGate(id_weight=weight)))
  other = world.make_table(ItemsConfig(mixer=same))
  for name in ("id_vd", "metadata", "metadata_md"):
    if getattr(other, name, None) is not None:
      setattr(other, name, getattr(gate, name))
  got, want = sides(gate, DAYS_N), sides(other, DAYS_N)
  for side in ("input", "candidate"):
    np.testing.assert_allclose(got[side], want[side], rtol=1e-6, atol=1e-6)


def test_a_gate_begins_as_the_sum_whatever_the_age():
  gate, both = (
    ItemTable(
      ItemsConfig(mixer=mixer, dynamics=DynamicCounts()),
      world.SPEC,
      world.CATALOG,
      width=world.WIDTH,
      rngs=nnx.Rngs(params=0),
    )
    for mixer in (AgeGate(), SumMixer())
  )
  got, want = sides(gate, DAYS_N), sides(both, DAYS_N)
  for side in got:
    np.testing.assert_allclose(got[side], want[side], rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(
    gate.looks.hidden_fh[...], both.looks.hidden_fh[...]
  )


def test_dynamics_of_strength_zero_prefer_no_candidate():
  neutral = ItemsConfig(
    mixer=world.MIXERS[-1], dynamics=DynamicCounts(strength=0.0)
  )
  none = dataclasses.replace(neutral, dynamics=NoDynamics())
  got, want = (world.make_table(c) for c in (neutral, none))
  for name in ("id_vd", "metadata", "metadata_md", "mixer"):
    setattr(want, name, getattr(got, name))
  got_nv, want_nv = (sides(t, DAYS_N)["head"][:, 1:] for t in (got, want))
  np.testing.assert_allclose(
    *(jax.nn.log_softmax(nv) for nv in (got_nv, want_nv)), rtol=1e-5, atol=1e-5
  )


def test_dated_terms_are_neutral_until_they_are_trained():
  table = ItemTable(
    world.DATED[2],
    world.SPEC,
    world.CATALOG,
    width=world.WIDTH,
    rngs=nnx.Rngs(params=0),
  )
  logits_nv = np.asarray(sides(table, DAYS_N)["head"])
  still_nv = STATES_ND @ np.asarray(table.head().still.item_dv)
  np.testing.assert_allclose(
    logits_nv[:, 1:], still_nv[:, 1 : world.ITEMS], rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  "config",
  [c for c in world.CONFIGS if hasattr(c.mixer, "id_dropout")],
  ids=world.name,
)
def test_a_dropped_id_is_dropped_on_both_sides(config):
  table = table_of(config)
  dropped = table.drop_ids(jax.random.key(5))
  before = np.asarray(table.has_id_v[...])
  gone = before & ~np.asarray(dropped.has_id_v[...])
  assert gone.any()
  assert not np.any(np.asarray(dropped.has_id_v[...]) & ~before)
  unseen = dataclasses.replace(
    world.CATALOG,
    train_count_v=np.where(gone[: world.ITEMS], 0, world.CATALOG.train_count_v),
  )
  got = sides(dropped, DAYS_N)
  want = sides(world.make_table(config, catalog=unseen), DAYS_N)
  for name in got:
    np.testing.assert_allclose(
      got[name], want[name], rtol=1e-6, atol=1e-6, err_msg=name
    )
  same = table.drop_ids(jax.random.key(5))
  np.testing.assert_array_equal(same.has_id_v[...], dropped.has_id_v[...])
  np.testing.assert_array_equal(table.has_id_v[...], before)


def test_without_metadata_a_dropped_id_leaves_age_and_counts():
  config = ItemsConfig(
    mixer=SumMixer(id_dropout=0.5), age=CandidateAge(), dynamics=DynamicCounts()
  )
  spec = dataclasses.replace(world.SPEC, metadata=())
  with mesh.use(mesh.make_mesh()):
    table = world.make_table(config, spec=spec)
    dropped = table.drop_ids(jax.random.key(0))
    gone_v = np.asarray(table.has_id_v[...] & ~dropped.has_id_v[...])
    gone_v = gone_v[: world.ITEMS]
    assert gone_v.any()
    got, with_ids = sides(dropped, DAYS_N), sides(table, DAYS_N)
    table.id_vd[...] = jnp.zeros_like(table.id_vd[...])
    looks = sides(table, DAYS_N)["candidate"]
  np.testing.assert_array_equal(got["input"][:, gone_v], 0)
  np.testing.assert_allclose(
    got["candidate"][:, gone_v], looks[:, gone_v], rtol=1e-6, atol=1e-6
  )
  assert np.abs(looks[:, gone_v]).max() > 0.1
  np.testing.assert_allclose(
    got["candidate"][:, ~gone_v],
    with_ids["candidate"][:, ~gone_v],
    rtol=1e-6,
    atol=1e-6,
  )


@functools.cache
def spread_table(data: int, model: int) -> ItemTable:
  """With everything on it, over devices; a mesh of them must be in scope."""
  return world.make_table(world.DATED[-1])


def test_ids_are_dropped_at_their_rate_and_alike_on_every_mesh():
  masks = []
  for devices in ((1, 1), (4, 2)):
    with mesh.use(mesh.make_mesh(data=devices[0], model=devices[1])):
      table = nnx.clone(spread_table(*devices))
      table.has_id_v[...] = jnp.ones_like(table.has_id_v[...])
      drop = jax.jit(lambda key, t=table: t.drop_ids(key).has_id_v[...])
      masks.append(np.stack([drop(jax.random.key(seed)) for seed in range(10)]))
  np.testing.assert_array_equal(*masks)
  kept = masks[0].mean()
  assert abs(kept - 0.7) < 4 * (0.3 * 0.7 / masks[0].size) ** 0.5


def test_no_rate_drops_no_ids():
  table = world.make_table(ItemsConfig(mixer=SumMixer()))
  assert table.drop_ids(jax.random.key(0)) is table


def logits_and_gradient(data: int, model: int):
  """Of every use of a table with everything on it, spread over devices."""
  with mesh.use(mesh.make_mesh(data=data, model=model)):
    definition, params, content = nnx.split(
      spread_table(data, model), nnx.Param, ...
    )
    tokens = mesh.spec("tokens")
    states_nd = jax.device_put(np.tile(STATES_ND, (8, 1)), jax.P(*tokens, None))
    day_n = np.tile(DAYS_N, 8)
    rows_n = jax.device_put(day_n % world.ITEMS, tokens)
    day_n = jax.device_put(day_n, tokens)

    def total(params):
      table = nnx.merge(definition, params, content)
      logits_nv = table.head().logits(states_nd, day_n)
      item_nd = table.embed_candidates(rows_n, day_n)
      input_nd = table.embed(rows_n, day_n * world.DAY_S)
      finite_nv = jnp.where(logits_nv == -jnp.inf, 0.0, logits_nv)
      parts = finite_nv, pair_logits(states_nd, item_nd), input_nd
      return sum(jnp.sum(jnp.sin(part)) for part in parts), logits_nv

    whole = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, logits_nv), gradient = whole(params)
    specs = [leaf.sharding.spec for leaf in jax.tree.leaves(gradient)]
    assert specs == [leaf.sharding.spec for leaf in jax.tree.leaves(params)]
    feature_lf = spread_table(data, model).feature_lf[...]
    assert feature_lf.sharding.is_fully_replicated
    return np.asarray(logits_nv), jax.tree.map(np.asarray, gradient)


def test_logits_and_gradients_are_the_same_on_several_devices():
  got, want = logits_and_gradient(4, 2), logits_and_gradient(1, 1)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True
  ):
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_the_gate_weighs_the_id_by_bucket_and_starts_even():
  table = ItemTable(
    ItemsConfig(mixer=AgeGate()),
    world.SPEC,
    world.CATALOG,
    width=world.WIDTH,
    rngs=nnx.Rngs(params=0),
  )
  np.testing.assert_array_equal(table.gate_weights(), [0.5] * age.BUCKETS)
  weight_g = np.asarray(world.moved(table).gate_weights())
  assert weight_g.shape == (len(age.BUCKET_EDGES_DAYS) + 1,)
  assert np.all((weight_g > 0) & (weight_g < 1))
  assert len(set(weight_g.tolist())) == age.BUCKETS
  with pytest.raises(TypeError, match="Sum has no weights by age"):
    table_of(ItemsConfig(mixer=SumMixer())).gate_weights()


def test_ages_fall_in_log_scaled_buckets():
  ages = np.array([-1, 0, 1, 2, 3, 4, 1023, 1024, 40_000])
  assert age.bucket(ages).tolist() == [0, 1, 2, 3, 3, 4, 11, 12, 12]
  np.testing.assert_array_equal(age.bucket(ages), world.plain_buckets(ages))


def test_an_item_s_age_at_an_event_is_that_of_the_data():
  rng = np.random.default_rng(4)
  item_n = rng.integers(0, world.ITEMS, 4_000)
  launch_s_v = world.CATALOG.launch_us_v // 1_000_000
  near_n = launch_s_v[item_n] + rng.integers(-2, 3, 4_000)
  far_n = rng.integers(0, 2**31, 4_000)
  time_n = np.where(rng.random(4_000) < 0.5, near_n, far_n)
  time_n = time_n.clip(0, 2**31 - 1)
  table = table_of(ItemsConfig(mixer=AgeGate()))
  got_n = jax.jit(age.at_event)(
    time_n.astype(np.int32),
    launch_s_n=np.asarray(table.launch_s_v[...])[item_n],
    declared_n=np.asarray(table.launch_declared_v[...])[item_n],
  )
  elapsed_n = time_n.astype(np.int64) - launch_s_v[item_n]
  unknown_n = ~world.CATALOG.launch_declared_v[item_n] & (elapsed_n <= 0)
  want_n = np.where(unknown_n, NOT_SEEN, np.maximum(elapsed_n, 0) // 86_400)
  # Row 0 is no item: it has no id either, so that its age is of no matter.
  # A launch before 1901 is told as of 1901.
  known_n = (item_n > 0) & (launch_s_v[item_n] > -(2**31))
  assert known_n.sum() > 2_000
  np.testing.assert_array_equal(np.asarray(got_n)[known_n], want_n[known_n])


def test_the_input_is_weighed_by_the_age_at_the_event():
  config = ItemsConfig(mixer=AgeGate())
  table = table_of(config)
  launch_s = int(world.CATALOG.launch_us_v[4] // 1_000_000)  # not declared
  times = launch_s + np.array([0, 1, world.DAY_S - 1, 5 * world.DAY_S])
  rows = np.full(4, 4)
  got = jax.jit(lambda t, n, s: t.embed(n, s))(
    table, rows, times.astype(np.int32)
  )
  item_nd, toward_id_nd = table._mix_rows(rows, "tokens")
  weights = table.gate_weights()[jnp.array([0, 1, 1, 4])]
  np.testing.assert_allclose(
    got, item_nd + weights[:, None] * toward_id_nd, rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize(
  "config,spec,expected",
  [
    (
      ItemsConfig(metadata=SomeMetadata(names=("genres",))),
      world.SPEC,
      "names 'genres', which the catalog lacks; did you mean 'genre'?",
    ),
    (
      ItemsConfig(mixer=MetadataOnly()),
      dataclasses.replace(world.SPEC, metadata=()),
      "needs metadata",
    ),
    (
      ItemsConfig(mixer=SumMixer(id_dropout=0.1)),
      dataclasses.replace(world.SPEC, metadata=()),
      "would leave items with nothing",
    ),
    (
      ItemsConfig(mixer=AgeGate()),
      dataclasses.replace(world.SPEC, timed=False),
      "use SumMixer()",
    ),
    (
      ItemsConfig(age=CandidateAge()),
      dataclasses.replace(world.SPEC, timed=False),
      "use NoAge()",
    ),
    (
      ItemsConfig(dynamics=DynamicCounts()),
      dataclasses.replace(world.SPEC, timed=False),
      "use NoDynamics()",
    ),
  ],
)
def test_what_the_data_lack_is_refused_with_the_remedy(config, spec, expected):
  with pytest.raises(ConfigError) as error:
    world.make_table(config, spec=spec)
  assert expected in str(error.value)


@pytest.mark.parametrize(
  "changes,expected",
  [
    (
      {"mixer": AgeGate(id_dropout=1.0)},
      "model.items.mixer.id_dropout=1.0 is not in [0, 1)",
    ),
    (
      {"mixer": FixedGate(id_weight=1.5)},
      "model.items.mixer.id_weight=1.5 is not in [0, 1]",
    ),
    (
      {"dynamics": DynamicCounts(strength=float("nan"))},
      "model.items.dynamics.strength=nan",
    ),
    (
      {"metadata": SomeMetadata(names=())},
      "model.items.metadata.names=() must name fields",
    ),
    (
      {"metadata": SomeMetadata(names=("genre", "genre"))},
      "each once",
    ),
  ],
)
def test_numbers_and_names_that_cannot_be_are_refused(changes, expected):
  items = dataclasses.replace(ItemsConfig(), **changes)
  with pytest.raises(ConfigError) as error:
    validate(override(Experiment(), {"model.items": items}))
  assert expected in str(error.value)


def test_a_configuration_of_items_survives_json():
  items = ItemsConfig(
    mixer=AgeGate(), metadata=SomeMetadata(names=("genre", "year"))
  )
  tree = json.loads(json.dumps(to_dict(items)))
  assert from_dict(tree) == items
  assert to_dict(items) == tree


def test_some_metadata_are_those_named_and_no_others():
  some = world.make_table(ItemsConfig(metadata=SomeMetadata(names=("year",))))
  assert list(some.content) == ["year"]
  every = world.make_table(ItemsConfig(metadata=AllMetadata()))
  assert sorted(every.content) == ["genre", "text", "year"]


def test_what_does_not_change_by_day_has_no_tables_by_day():
  for config in world.CONFIGS:
    table = table_of(config)
    assert hasattr(table, "bucket_yv") == isinstance(config.mixer, AgeGate)
    dated = (config.age, config.dynamics) != (NoAge(), NoDynamics())
    assert hasattr(table, "look_yv") == hasattr(table, "looks") == dated

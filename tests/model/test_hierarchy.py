"""Items by way of an attribute: probabilities add up to those of the attribute,
and training asks for exactly what scores say."""

import dataclasses
import functools

import item_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import (
  AgeGate,
  ConfigError,
  HierarchicalItems,
  ItemsConfig,
  SomeMetadata,
)
from fmjax.data.encode import FIRST_VALUE
from fmjax.model.hierarchy import Hierarchy
from fmjax.model.items import ItemTable
from fmjax.train.loss import full_softmax

B, T, CHUNK = 4, 4, 8


def make_catalog():
  """No item lacks a year, and the last year has no item."""
  metadata = dict(world.CATALOG.metadata)
  metadata["year"] = 2 + metadata["year"] % 2
  metadata["year"][0] = 0
  return dataclasses.replace(world.CATALOG, metadata=metadata)


CATALOGS = {"some have none": world.CATALOG, "all have one": make_catalog()}
RNG = np.random.default_rng(3)
ASKED = {
  "states_nd": RNG.normal(size=(B * T, world.WIDTH)).astype(np.float32),
  "item_bt": RNG.integers(1, world.ITEMS, (B, T)).astype(np.int32),
  "weight_bt": RNG.random((B, T)).astype(np.float32),
  "at_day_bt": world.FIRST_DAY + RNG.integers(0, 41, (B, T)).astype(np.int32),
}
# Padding: its item is row 0.
ASKED["item_bt"][0, :2] = 0
ASKED["weight_bt"][0, :2] = 0


@dataclasses.dataclass
class Case:
  """A trained table and hierarchy."""

  items: ItemTable
  hierarchy: Hierarchy

  @property
  def single(self) -> bool:
    return self.hierarchy.single


def make(config, attribute, catalog=world.CATALOG) -> Case:
  choice = HierarchicalItems(attribute=attribute)
  table = ItemTable(
    config,
    world.SPEC,
    catalog,
    width=world.WIDTH,
    rngs=nnx.Rngs(params=0),
    asked=(attribute,),
  )
  hierarchy = Hierarchy(choice, world.SPEC, width=world.WIDTH)
  return Case(world.moved(table), world.moved(hierarchy, seed=2))


def plain_scores(z_nv, log_p_ni, code_v, *, single):
  """The twin: log p(item) of the catalog, by definition; row 0 is no item."""
  scores_nv = np.full(z_nv.shape, -np.inf)
  if single:
    class_v = np.maximum(code_v - FIRST_VALUE + 1, 0)
    for i in range(log_p_ni.shape[1]):
      rows = 1 + np.flatnonzero(class_v[1:] == i)
      if not len(rows):
        continue
      within_nv = z_nv[:, rows]
      total_n = np.log(np.exp(within_nv).sum(axis=1, keepdims=True))
      scores_nv[:, rows] = log_p_ni[:, [i]] + within_nv - total_n
    return scores_nv
  for row in range(1, z_nv.shape[1]):
    values = [code - FIRST_VALUE for code in code_v[row] if code >= FIRST_VALUE]
    lift_n = log_p_ni[:, values].mean(axis=1) if values else -np.log(7)
    scores_nv[:, row] = z_nv[:, row] + lift_n
  total_n = np.log(np.exp(scores_nv).sum(axis=1, keepdims=True))
  return scores_nv - total_n


@jax.jit
def answers(items, hierarchy, asked):
  states_nd, day_n = asked["states_nd"], asked["at_day_bt"].reshape(-1)
  subset_c = jnp.arange(1, world.ITEMS, 3)
  head = hierarchy.head(items)
  return {
    "z_nv": items.head().logits(states_nd, day_n),
    "scores_nv": head.logits(states_nd, day_n),
    "some_nc": hierarchy.head(items, subset_c).logits(states_nd, day_n),
    "log_p_ni": hierarchy.log_probs(states_nd, items),
    "nll_n": hierarchy.nll(states_nd, items, asked["item_bt"].reshape(-1)),
    "loss": training_loss(items, hierarchy, asked["states_nd"], asked),
  }


def training_loss(items, hierarchy, states_nd, asked):
  rest = {k: asked[k] for k in ("item_bt", "weight_bt", "at_day_bt")}
  return full_softmax(states_nd, hierarchy.head(items), chunk=CHUNK, **rest)


@functools.cache
def answered(config, attribute, which="some have none"):
  with mesh.use(mesh.make_mesh()):
    case = make(config, attribute, CATALOGS[which])
    asked = jax.tree.map(jnp.asarray, ASKED)
    found = answers(case.items, case.hierarchy, asked)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


CASES = [
  (world.STILL[2], "year", "some have none"),
  (world.STILL[0], "year", "all have one"),
  (world.STILL[2], "genre", "some have none"),
  (world.DATED[5], "year", "some have none"),
  (world.DATED[5], "genre", "some have none"),
]
each_case = pytest.mark.parametrize(
  "case", CASES, ids=lambda c: f"{world.name(c[0])}, {c[1]}, {c[2]}"
)


def log_normalized(scores_nv):
  return scores_nv - np.log(np.exp(scores_nv).sum(axis=1, keepdims=True))


@each_case
def test_scores_are_those_of_the_definition(case):
  _, attribute, which = case
  found = answered(*case)
  rows = world.ITEMS
  want_nv = plain_scores(
    found["z_nv"][:, :rows],
    found["log_p_ni"],
    CATALOGS[which].metadata[attribute],
    single=attribute == "year",
  )
  got_nv = log_normalized(found["scores_nv"])
  np.testing.assert_allclose(got_nv[:, 1:rows], want_nv[:, 1:], atol=1e-5)
  # Row 0 and padding are no items.
  assert np.isneginf(np.delete(got_nv, np.s_[1:rows], axis=1)).all()
  some_nc = found["scores_nv"][:, 1:rows:3]
  np.testing.assert_allclose(found["some_nc"], some_nc, atol=1e-5)


@each_case
def test_items_of_a_class_have_its_probability_and_all_of_them_have_1(case):
  _, attribute, which = case
  found = answered(*case)
  p_nv = np.exp(log_normalized(found["scores_nv"]))
  np.testing.assert_allclose(p_nv.sum(axis=1), 1, atol=1e-5)
  if attribute != "year":
    return
  # Normalized as they are: the scores are log-probabilities.
  p_nv = np.exp(found["scores_nv"])[:, 1 : world.ITEMS]
  class_v = np.maximum(CATALOGS[which].metadata["year"][1:] - 1, 0)
  p_ni = np.exp(found["log_p_ni"])
  for i in range(p_ni.shape[1]):
    np.testing.assert_allclose(
      p_nv[:, class_v == i].sum(axis=1), p_ni[:, i], atol=1e-5
    )
  assert ((p_ni > 0) == np.isin(np.arange(p_ni.shape[1]), class_v)).all()


@each_case
def test_the_training_loss_is_that_of_the_scores(case):
  found = answered(*case)
  log_nv = log_normalized(found["scores_nv"])
  target_n, weight_n = ASKED["item_bt"].reshape(-1), ASKED["weight_bt"].ravel()
  picked_n = np.where(weight_n > 0, log_nv[np.arange(B * T), target_n], 0)
  np.testing.assert_allclose(found["loss"], -(picked_n * weight_n).sum(), 1e-5)


@pytest.mark.parametrize("case", CASES[:3], ids=lambda c: f"{c[1]}, {c[2]}")
def test_the_attribute_has_a_loss_of_its_own(case):
  _, attribute, which = case
  found = answered(*case)
  code = CATALOGS[which].metadata[attribute]
  target_n = ASKED["item_bt"].reshape(-1)
  for nll, log_p_i, row in zip(
    found["nll_n"], found["log_p_ni"], target_n, strict=True
  ):
    if row == 0:
      continue
    if attribute == "year":
      want = -log_p_i[max(code[row] - 1, 0)]
    else:
      values = [c - 2 for c in code[row] if c >= 2]
      want = -np.mean(log_p_i[values]) if values else 0
    np.testing.assert_allclose(nll, want, rtol=1e-5)
  assert np.isfinite(found["nll_n"]).all()


@pytest.mark.parametrize("attribute", ["year", "genre"])
def test_gradients_are_those_of_the_definition(attribute):
  """Ids, metadata, age gate, the attribute's readout and states."""
  # What tells the attribute alone moves no item within its class.
  items = ItemsConfig(mixer=AgeGate(), metadata=SomeMetadata(names=("text",)))
  with mesh.use(mesh.make_mesh()):
    case = make(items, attribute)
    definition, params, content = nnx.split(
      nnx.Dict(items=case.items, hierarchy=case.hierarchy), nnx.Param, ...
    )

    def twin(items, hierarchy, states_nd, asked):
      day_n = asked["at_day_bt"].reshape(-1)
      z_nv = items.head().logits(states_nd, day_n)
      z_nv = jax.sharding.reshard(z_nv, jax.P())[:, 1 : world.ITEMS]
      log_p_ni = hierarchy.log_probs(states_nd, items)
      code = world.CATALOG.metadata[attribute][1:]
      if attribute == "year":
        class_v = np.maximum(code - 1, 0)
        same_vv = class_v[None] == class_v[:, None]
        rival_nvv = jnp.where(same_vv[None], z_nv[:, None], -jnp.inf)
        within_nv = z_nv - jax.nn.logsumexp(rival_nvv, axis=-1)
        scores_nv = within_nv + log_p_ni[:, class_v]
      else:
        known_vw = (code >= 2).astype(np.float32)
        log_nvw = log_p_ni[:, np.maximum(code - 2, 0)] * known_vw[None]
        count_v = known_vw.sum(axis=1)
        mean_nv = log_nvw.sum(axis=2) / np.maximum(count_v, 1)[None]
        unknown_v = np.where(count_v == 0, -np.log(7.0), 0).astype(np.float32)
        scores_nv = jax.nn.log_softmax(z_nv + mean_nv + unknown_v[None])
      target_n = jnp.maximum(asked["item_bt"].reshape(-1) - 1, 0)
      picked_n = scores_nv[jnp.arange(B * T), target_n]
      return -jnp.sum(picked_n * asked["weight_bt"].reshape(-1))

    @jax.jit
    def both(params, states_nd, asked):
      def of(form):
        def total(params, states_nd):
          parts = nnx.merge(definition, params, content)
          return form(parts["items"], parts["hierarchy"], states_nd, asked)

        return jax.value_and_grad(total, argnums=(0, 1))(params, states_nd)

      return of(twin), of(training_loss)

    asked = jax.tree.map(jnp.asarray, ASKED)
    want, got = both(params, asked["states_nd"], asked)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(got[1]),
    jax.tree.leaves(want[1]),
    strict=True,
  )
  for (path, one), other in pairs:
    scale = float(jnp.abs(other).max())
    assert scale > 0, path
    np.testing.assert_allclose(
      one, other, rtol=1e-4, atol=1e-5 * scale, err_msg=str(path)
    )


@pytest.mark.parametrize("attribute", ["year", "genre"])
def test_scores_and_loss_are_the_same_on_a_mesh(attribute):
  config = world.STILL[2]
  with mesh.use(mesh.make_mesh(data=4, model=2)):
    case = make(config, attribute)
    tokens = {"states_nd": mesh.spec("tokens", None)}
    asked = {
      name: jax.device_put(array, tokens.get(name, mesh.spec("rows", None)))
      for name, array in ASKED.items()
    }
    asked["at_day_bt"] = jnp.asarray(ASKED["at_day_bt"])
    found = answers_of_mesh(case.items, case.hierarchy, asked)
  alone = answered(config, attribute)
  for name, got in found.items():
    np.testing.assert_allclose(
      got, alone[name], rtol=1e-5, atol=1e-5, err_msg=name
    )


@jax.jit
def answers_of_mesh(items, hierarchy, asked):
  states_nd = asked["states_nd"]
  day_bt = jax.sharding.reshard(asked["at_day_bt"], mesh.spec("rows", None))
  day_n = jnp.reshape(day_bt, (-1,), out_sharding=mesh.spec("tokens"))
  return {
    "scores_nv": hierarchy.head(items).logits(states_nd, day_n),
    "loss": training_loss(
      items, hierarchy, states_nd, asked | {"at_day_bt": day_bt}
    ),
  }


@pytest.mark.parametrize(
  "attribute,message",
  [
    ("yaer", "did you mean 'year'"),
    ("text", "'text', a vector; name a categorical or bag field"),
  ],
)
def test_what_is_no_attribute_is_refused(attribute, message):
  choice = HierarchicalItems(attribute=attribute)
  with pytest.raises(ConfigError, match=message):
    Hierarchy(choice, world.SPEC, width=world.WIDTH)

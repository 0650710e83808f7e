"""Fields of the next token and of its item: their losses, written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from item_world import moved

from fmjax.config import (
  Auxiliary,
  ConfigError,
  ItemsConfig,
  ModelConfig,
  NoAuxiliary,
  SomeMetadata,
)
from fmjax.model.auxiliary import AuxiliaryHeads, item_fields, outcomes

TARGETS = ("action", "rating", "genre", "year", "minutes")
CHOICE = Auxiliary(targets=TARGETS)
CONFIG = ModelConfig(
  width=16,
  layers=1,
  heads=2,
  # Targets need not be embedded.
  items=ItemsConfig(metadata=SomeMetadata(names=("text",))),
  auxiliary=CHOICE,
)


@pytest.fixture
def asked(batch, spec):
  """A batch with outcomes, missing ones among them."""
  rng = np.random.default_rng(5)
  outcome = {}
  for name in outcomes(CHOICE, spec):
    for column, value in batch.previous.items():
      if column in (name, f"{name}_count"):
        outcome[column] = rng.permutation(value, axis=0)
  outcome["action"][0, 0] = 0
  outcome["action"][0, 1] = 1
  outcome["rating"][0, 0] = np.nan
  return dataclasses.replace(batch, outcome=outcome)


MODELS = {}


@pytest.fixture
def model(build):
  if CONFIG not in MODELS:
    MODELS[CONFIG] = moved(build(CONFIG))
  return MODELS[CONFIG]


def plain_bag(log_p_i, codes, counts=None):
  """Minus the mean log-probability of the values, each as often as it is."""
  counts = np.ones(len(codes)) if counts is None else counts
  values = [
    (code - 2, count)
    for code, count in zip(codes, counts, strict=True)
    if code >= 2
  ]
  total = sum(count for _, count in values)
  return -sum(log_p_i[value] * count / total for value, count in values)


def test_losses_are_those_of_the_definition(asked, catalog, model):
  states_nd = jnp.asarray(
    np.random.default_rng(1).normal(size=(asked.item_bt.size, 16)), jnp.float32
  )
  said, got = jax.jit(
    lambda model, *of: (
      model.auxiliary(of[0]),
      model.auxiliary.nll(*of, model.items),
    )
  )(model, states_nd, asked)
  said, got = jax.tree.map(np.asarray, (said, got))
  for name in ("action", "genre", "year"):
    np.testing.assert_allclose(np.exp(said[name]).sum(axis=1), 1, rtol=1e-5)
  flat = {
    name: value.reshape(-1, *value.shape[2:])
    for name, value in asked.outcome.items()
  }
  for n, item in enumerate(asked.item_bt.reshape(-1)):
    metadata = {name: catalog.metadata[name][item] for name in TARGETS[2:]}
    rating = flat["rating"][n]
    want = {
      "action": plain_bag(
        said["action"][n],
        flat["action"][n],
        flat["action_count"][n],
      ),
      "rating": 0
      if np.isnan(rating)
      else 0.5 * (rating - float(said["rating"][n])) ** 2,
      "genre": plain_bag(said["genre"][n], metadata["genre"]),
      "year": plain_bag(said["year"][n], [metadata["year"]]),
      "minutes": 0.5 * (metadata["minutes"] - float(said["minutes"][n])) ** 2,
    }
    for name, value in want.items():
      np.testing.assert_allclose(
        got[name][n], value, rtol=1e-4, atol=1e-6, err_msg=name
      )
  assert got["action"][0] == got["action"][1] == got["rating"][0] == 0


def test_the_loss_adds_weight_times_the_mean_over_targets(asked, model):
  states_nd = jnp.ones((asked.item_bt.size, 16))
  losses = model.field_losses(states_nd, asked)
  assert [share for _, share in losses] == [CHOICE.weight / 5] * 5


def test_no_state_reads_an_outcome(asked, model):
  """Nor does its gradient: those of the next token are not there to be read."""
  encode = jax.jit(lambda model, batch: model.encode(batch))
  one = encode(model, asked)
  other = {name: np.zeros_like(value) for name, value in asked.outcome.items()}
  two = encode(model, dataclasses.replace(asked, outcome=other))
  np.testing.assert_array_equal(one, two)


def test_targets_of_the_token_are_asked_of_batches_and_others_of_items(
  spec, model
):
  assert outcomes(CHOICE, spec) == ("action", "rating")
  assert item_fields(CHOICE, spec) == ("genre", "year", "minutes")
  assert outcomes(NoAuxiliary(), spec) == ()
  assert sorted(model.items.content) == ["genre", "minutes", "text", "year"]


@pytest.mark.parametrize(
  "name,message",
  [
    ("ratign", "did you mean 'rating'"),
    ("mood", "'mood', a vector; name a categorical or bag or numeric"),
    ("seen_at", "'seen_at', a timestamp"),
    ("device", "'device'.* leaks into its own input; name a post-action"),
  ],
)
def test_what_cannot_be_predicted_is_refused(spec, name, message):
  with pytest.raises(ConfigError, match=message):
    AuxiliaryHeads(Auxiliary(targets=("action", name)), spec, width=4)


def test_a_field_without_known_values_is_refused(spec):
  (action, *others) = spec.features
  nothing = dataclasses.replace(
    spec, features=(dataclasses.replace(action, size=2), *others)
  )
  with pytest.raises(ConfigError, match="saw no value"):
    AuxiliaryHeads(Auxiliary(targets=("action",)), nothing, width=4)

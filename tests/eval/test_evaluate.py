import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmjax import mesh
from fmjax.config import DataConfig, ModelConfig
from fmjax.data.prepare import prepare_log
from fmjax.data.windows import evaluation_batches
from fmjax.eval import evaluate as evaluate_module
from fmjax.eval.baselines import baselines
from fmjax.eval.evaluate import ValidationEvaluator, evaluate
from fmjax.eval.metrics import means
from fmjax.model.recommender import Recommender

_DAY_S = 86_400
_START_S = 1_600_000_000
_DATA = DataConfig(window=8, stride=8, rows=4)
_COLUMNS = [
  field.name
  for field in dataclasses.fields(evaluate_module.Ranked)
  if field.name != "data_checksum"
]


@pytest.fixture(autouse=True)
def one_device_mesh():
  with mesh.use(mesh.make_mesh()):
    yield


@pytest.fixture(scope="module")
def model(prepared):
  with mesh.use(mesh.make_mesh()):
    return make_model(prepared)


def make_model(prepared):
  return Recommender(
    ModelConfig(width=16, layers=1, heads=2),
    prepared.spec,
    prepared.catalog,
    window=_DATA.window,
    rngs=nnx.Rngs(0),
  )


def brute_force(model, prepared, *, split, targets, filtered=True):
  """(user, index) → (rank, nll), one query and one item at a time."""
  answers = {}
  dataset = evaluation_batches(
    prepared,
    split=split,
    targets=targets,
    window=_DATA.window,
    rows=_DATA.rows,
  )

  @jax.jit
  def logits_of(model, batch):
    days_n = batch.time_bt.reshape(-1) // _DAY_S
    return model.score(model.encode(batch), None, days_n)

  for number in range(len(dataset)):
    batch = dataset[number]
    batch_logits_nv = np.asarray(
      logits_of(model, jax.tree.map(jnp.asarray, batch)), np.float64
    )
    for row, position in np.argwhere(batch.weight_bt > 0):
      user, index = batch.user_bt[row, position], batch.index_bt[row, position]
      target = batch.item_bt[row, position]
      logits = batch_logits_nv[row * _DATA.window + position]
      seen = prepared.history(user)["item"][:index].tolist() if filtered else []
      rank = 1
      for item in range(1, prepared.spec.items):
        if item != target and item not in seen:
          rank += logits[item] >= logits[target]
      nll = math.log(sum(math.exp(x) for x in logits[1:])) - logits[target]
      answers[int(user), int(index)] = (rank, nll)
  return answers


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("targets", ["first", "all"])
def test_every_query_is_ranked_as_by_brute_force(
  model, prepared, split, targets
):
  ranked = evaluate(model, prepared, _DATA, split=split, targets=targets)
  expected = brute_force(model, prepared, split=split, targets=targets)
  keys = list(
    zip(ranked.user.tolist(), ranked.history_length.tolist(), strict=True)
  )
  assert keys == sorted(expected)
  assert ranked.rank.tolist() == [expected[key][0] for key in keys]
  np.testing.assert_allclose(
    ranked.nll, [expected[key][1] for key in keys], rtol=1e-5
  )
  assert ranked.catalog_items == prepared.spec.items - 1
  catalog = prepared.catalog
  assert (ranked.train_count == catalog.train_count_v[ranked.item]).all()


@pytest.mark.parametrize("chunk", [3, 16, 1_000])
def test_answers_do_not_depend_on_the_chunk(model, prepared, chunk):
  calls = []
  ranked = evaluate(
    model,
    prepared,
    _DATA,
    split="test",
    targets="all",
    chunk=chunk,
    progress=lambda done, total: calls.append((done, total)),
  )
  whole = evaluate(model, prepared, _DATA, split="test", targets="all")
  np.testing.assert_array_equal(ranked.rank, whole.rank)
  np.testing.assert_array_equal(ranked.top10_nk, whole.top10_nk)
  np.testing.assert_allclose(ranked.nll, whole.nll, rtol=1e-5)
  queries = len(ranked.rank)
  assert calls[-1] == (queries, queries)
  assert len(calls) == -(-queries // chunk)


def test_the_top_ten_holds_no_seen_item_and_agrees_with_the_rank(
  model, prepared
):
  ranked = evaluate(model, prepared, _DATA, split="test", targets="all")
  for place, user in enumerate(ranked.user):
    index, target = ranked.history_length[place], ranked.item[place]
    seen = set(prepared.history(user)["item"][:index].tolist()) - {target}
    top = ranked.top10_nk[place].tolist()
    assert not seen & set(top)
    assert len(set(top)) == 10
    if ranked.rank[place] <= 10:
      assert top[ranked.rank[place] - 1] == target
    else:
      assert target not in top


def test_one_compilation_serves_every_batch_and_every_model(model, prepared):
  ask = ValidationEvaluator(prepared, _DATA, period=5, chunk=7)
  first = ask(model, 5)
  sizes = evaluate_module._rank._cache_size()
  halved = jax.tree.map(
    lambda x: x / 2 if jnp.issubdtype(x.dtype, jnp.floating) else x, model
  )
  assert ask(halved, 10) != first
  assert ask(model, 15) == first
  assert evaluate_module._rank._cache_size() == sizes


def test_the_validation_evaluator_tells_the_metrics_of_the_split(
  model, prepared
):
  ask = ValidationEvaluator(prepared, _DATA, period=5)
  ranked = evaluate(model, prepared, _DATA, split="validation")
  expected = {f"validation/{k}": v for k, v in means(ranked).items()}
  assert ask(model, 0) == expected
  assert (ask.name, ask.period) == ("validation", 5)
  assert {"validation/ndcg@10", "validation/nll"} <= set(expected)


def test_ranks_on_a_mesh_equal_those_on_one_device(model, prepared):
  single = evaluate(model, prepared, _DATA, split="test", chunk=16)
  with mesh.use(mesh.make_mesh(data=4, model=2)):
    spread_model = make_model(prepared)
    spread = evaluate(spread_model, prepared, _DATA, split="test", chunk=16)
  np.testing.assert_allclose(spread.nll, single.nll, rtol=1e-5)
  # Sums in another order: two nearly equal scores may change places.
  assert np.abs(spread.rank - single.rank).max() <= 1


def test_seen_items_compete_where_users_repeat_items_by_nature(
  random_log, tmp_path
):
  prepared = prepare_log(random_log(repeats=True), tmp_path / "prepared")
  model = make_model(prepared)
  ranked = evaluate(model, prepared, _DATA, split="test")
  expected = brute_force(
    model, prepared, split="test", targets="first", filtered=False
  )
  found = zip(ranked.user.tolist(), ranked.history_length.tolist(), strict=True)
  assert ranked.rank.tolist() == [expected[key][0] for key in found]
  assert not ranked.seen_filtered
  tables = baselines(prepared, split="test")
  assert not tables["popularity_all"].seen_filtered

"""RecTools' HSTU with the time of the query; runs in `.venv-peers`.

Trained by the library's own module through its own trainer with the settings of
its HSTU tutorial. A callback evaluates after every epoch: validation, and where
that is the best so far, test, whose answers are written. Killed, the same
command goes on after the last whole epoch.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import time
import warnings
from copy import deepcopy

import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

TOP = 10


def read_events(path: str) -> pd.DataFrame:
  """`user item seconds` a line, every user's events in order."""
  events = pd.read_csv(path, sep=" ", names=["user", "item", "seconds"])
  # RecTools sorts by time, so ties are told apart by a microsecond; what its
  # model reads are whole seconds.
  place = events.groupby("user").cumcount()
  moment = pd.to_datetime(events["seconds"], unit="s")
  return pd.DataFrame(
    {
      Columns.User: events["user"],
      Columns.Item: events["item"],
      Columns.Weight: 1,
      Columns.Datetime: moment + pd.to_timedelta(place, unit="us"),
    }
  )


class Query:
  """One target a user: the events before it, and when it was asked for."""

  def __init__(self, events: pd.DataFrame, *, from_end: int):
    left = events.groupby(Columns.User).cumcount(ascending=False)
    self.history = events[left > from_end]
    self.target = events[left == from_end]
    self.dataset = Dataset.construct(self.history)

  def ask(self, model: HSTUModel) -> pd.DataFrame:
    """user, target and its rank, 0 if it is not among the first ten.

    A target that nobody met in training is no candidate of RecTools.
    """
    context = self.target.drop(columns=Columns.Item)
    users = self.target[Columns.User].to_numpy()
    found = model.recommend(
      users, self.dataset, k=TOP, filter_viewed=True, context=context
    )
    asked = self.target[[Columns.User, Columns.Item]]
    ranked = asked.merge(found, on=[Columns.User, Columns.Item], how="left")
    return pd.DataFrame(
      {
        "user": ranked[Columns.User],
        "target": ranked[Columns.Item],
        "rank": ranked[Columns.Rank].fillna(0).astype(int),
      }
    )


def ndcg(answers: pd.DataFrame) -> float:
  """Of one relevant item a user."""
  import numpy as np

  hits = answers.loc[answers["rank"] > 0, "rank"]
  return float((1 / np.log2(1 + hits)).sum() / len(answers))


class Epochs(lightning.Callback):
  """Evaluates and saves after every epoch."""

  def __init__(self, model, folder: pathlib.Path, queries: dict[str, Query]):
    self._model, self._folder, self._queries = model, folder, queries
    self._curve_path = folder / "curve.json"
    self.curve = []
    if self._curve_path.exists():
      self.curve = json.loads(self._curve_path.read_text())
    self._began = time.perf_counter()

  def __deepcopy__(self, memo):
    return self

  def on_train_epoch_start(self, trainer, module):
    self._began = time.perf_counter()

  def on_train_epoch_end(self, trainer, module):
    trained_s = time.perf_counter() - self._began
    self._model.is_fitted = True
    answers = self._queries["validation"].ask(self._model)
    best = max((entry["ndcg@10"] for entry in self.curve), default=0.0)
    value = ndcg(answers)
    if value > best:
      test = self._queries["test"].ask(self._model)
      _replace(
        self._folder / "test.csv", lambda path: test.to_csv(path, index=False)
      )
    module.train()  # recommending has turned dropout off
    _replace(self._folder / "last.ckpt", trainer.save_checkpoint)
    self.curve.append(
      {
        "epoch": trainer.current_epoch + 1,
        "ndcg@10": value,
        "train_s": trained_s,
      }
    )
    text = json.dumps(self.curve)
    _replace(self._curve_path, lambda path: pathlib.Path(path).write_text(text))
    print(
      f"epoch {len(self.curve)}: {value:.4f}, {trained_s:.0f} s", flush=True
    )


def _replace(path: pathlib.Path, write) -> None:
  """Whole or not at all."""
  partial = path.with_name(f"partial-{path.name}")
  write(partial)
  os.replace(partial, path)


def main() -> None:
  settings = json.loads(sys.argv[1])
  folder = pathlib.Path(settings["folder"])
  warnings.filterwarnings("ignore")
  torch.set_num_threads(os.cpu_count() or 1)
  lightning.seed_everything(settings["seed"])
  events = read_events(settings["events"])
  queries = {
    "validation": Query(events, from_end=1),
    "test": Query(events, from_end=0),
  }
  model = HSTUModel(
    **settings["model"],
    lightning_module_kwargs={"logits_t": settings["logits_t"]},
    item_net_block_types=(IdEmbeddingsItemNet,),
    epochs=settings["epochs"],
  )
  model._build_model_from_dataset(queries["validation"].dataset)
  trainer = deepcopy(model._trainer)
  trainer.callbacks.append(Epochs(model, folder, queries))
  last = folder / "last.ckpt"
  # The module draws its parameters anew when training starts, even after a
  # checkpoint was read, unless it calls itself fitted.
  model.lightning_model.is_fitted = last.exists()
  trainer.fit(
    model.lightning_model,
    model.data_preparator.get_dataloader_train(),
    ckpt_path=str(last) if last.exists() else None,
  )
  names = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")
  facts = {
    "name": "RecTools",
    "model": "HSTU",
    "versions": {name: importlib.metadata.version(name) for name in names},
    "parameters": sum(p.numel() for p in model.lightning_model.parameters()),
    "candidates": model.data_preparator.item_id_map.size - 1,  # - padding
  }
  text = json.dumps(facts)
  _replace(folder / "facts.json", lambda path: path.write_text(text))


if __name__ == "__main__":
  main()

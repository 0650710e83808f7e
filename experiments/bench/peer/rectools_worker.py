"""RecTools' SASRec as a worker of a benchmark; runs in `.venv-peers`.

The model is the library's own, trained by its own `fit` through its default
Lightning trainer; a callback only holds it between legs and counts targets.
RecTools' default SASRec block is the authors': queries layer-normed, keys and
values not, ReLU feed-forward as wide as the model.
"""

import importlib.metadata
import json
import os
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from experiments.bench import protocol

_ENDLESS = 1_000_000  # epochs: the driver says when it is enough


def read_pairs(path: str) -> pd.DataFrame:
  """`user item` a line, in time order; RecTools wants times."""
  pairs = pd.read_csv(path, sep=" ", names=[Columns.User, Columns.Item])
  pairs[Columns.Weight] = 1
  pairs[Columns.Datetime] = pd.to_datetime(np.arange(len(pairs)), unit="s")
  return pairs


class Legs(lightning.Callback):
  """Trains `leg` batches at a time, when told to."""

  def __init__(self, wire, model, dataset, *, leg, validation):
    self._wire, self._model, self._dataset = wire, model, dataset
    self._leg, self._validation = leg, validation
    self._trained = self._tokens = 0

  def __deepcopy__(self, memo):
    return self  # RecTools copies its trainer with all callbacks

  def on_train_start(self, trainer, module):
    names = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")
    self._wire.tell(
      name="RecTools",
      version=importlib.metadata.version("rectools"),
      versions={name: importlib.metadata.version(name) for name in names},
      threads=torch.get_num_threads(),
      catalog_items=module.data_preparator.item_id_map.size - 1,  # - padding
      parameters=sum(p.numel() for p in module.parameters()),
      config=_plain(self._model.get_config(simple_types=True)),
    )
    self._wait(module)

  def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
    self._tokens += int((batch["y"] != 0).sum())  # 0 is padding
    self._trained += 1
    if self._trained < self._leg:
      return
    self._wire.tell(
      seconds=time.perf_counter() - self._began,
      cpu_s=protocol.cpu_s() - self._cpu_began,
      tokens=self._tokens,
      steps=self._trained,
      peak_rss_bytes=protocol.peak_rss_bytes(),
    )
    self._wait(module)

  def _wait(self, module):
    self._wire.wait(self._evaluate)
    module.train()  # recommending has turned dropout off
    self._trained = self._tokens = 0
    self._cpu_began = protocol.cpu_s()
    self._began = time.perf_counter()

  def _evaluate(self):
    """NDCG@10 of one target a user among all items, seen ones left out.

    The whole history before the target is given, of which RecTools takes the
    last items to rank by and all to leave out.
    """
    asked = pd.read_csv(
      self._validation, sep=" ", names=[Columns.User, "target"]
    )
    self._model.is_fitted = True  # `fit` sets it when it returns
    found = self._model.recommend(
      asked[Columns.User].to_numpy(), self._dataset, k=10, filter_viewed=True
    )
    found = found.merge(asked, on=Columns.User)
    hits = found[found[Columns.Item] == found["target"]]
    # By hand: RecTools' NDCG divides by the gain of ten relevant items.
    gain = (1 / np.log2(1 + hits[Columns.Rank])).sum()
    return {"ndcg@10": float(gain / len(asked)), "users": len(asked)}


def _plain(config):
  """Without what is not set."""
  return {name: value for name, value in config.items() if value is not None}


def main():
  settings = json.loads(sys.argv[1])
  wire = protocol.Wire()
  warnings.filterwarnings("ignore")
  torch.set_num_threads(os.cpu_count() or 1)
  lightning.seed_everything(settings["seed"])
  dataset = Dataset.construct(read_pairs(settings["train"]))
  model = SASRecModel(**settings["model"], epochs=_ENDLESS)
  legs = Legs(
    wire,
    model,
    dataset,
    leg=settings["leg"],
    validation=settings["validation"],
  )
  model._trainer.callbacks.append(legs)
  model.fit(dataset)


if __name__ == "__main__":
  main()

"""RecTools' way from a Parquet log to sequences to train on; in `.venv-peers`.

What its SASRec does with a log before the first batch: a dataset with internal
ids, the last events of each user, and a list of items a user.
"""

import importlib.metadata
import json
import sys
import time
import warnings

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

from experiments.bench import protocol

_POSITIONS = 200
_COLUMNS = {
  "user_id": Columns.User,
  "item_id": Columns.Item,
  "timestamp": Columns.Datetime,
}


def main() -> None:
  settings = json.loads(sys.argv[1])
  wire = protocol.Wire()
  warnings.filterwarnings("ignore")
  stages = {}
  began = time.perf_counter()

  def done(stage: str) -> None:
    stages[stage] = time.perf_counter() - began - sum(stages.values())

  events = pd.read_parquet(settings["events"], columns=list(_COLUMNS))
  events = events.rename(columns=_COLUMNS)
  events[Columns.Weight] = 1
  events[Columns.Datetime] = pd.to_datetime(events[Columns.Datetime], unit="us")
  count = len(events)
  done("read")
  dataset = Dataset.construct(events)
  done("dataset")
  preparator = SASRecDataPreparator(
    session_max_len=_POSITIONS, batch_size=128, dataloader_num_workers=0
  )
  preparator.process_dataset_train(dataset)
  done("process")
  sequences = preparator.get_dataloader_train().dataset
  done("sequences")
  names = ("rectools", "torch", "numpy", "pandas", "pyarrow")
  wire.tell(
    name="RecTools",
    version=importlib.metadata.version("rectools"),
    versions={name: importlib.metadata.version(name) for name in names},
    events=count,
    sequences=len(sequences),
    items_in_sequences=sum(map(len, sequences.sessions)),
    seconds=sum(stages.values()),
    cpu_s=protocol.cpu_s(),
    stages_s=stages,
    peak_rss_bytes=protocol.peak_rss_bytes(),
  )


if __name__ == "__main__":
  main()

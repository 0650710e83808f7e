"""Does the reference model rank better than RecTools' HSTU, both given time?

  python -m experiments.bench.peer_quality

MovieLens-1M's users 1 to 2,999, whose ratings have their real times: leave-last
-out, ties in time in the order of the file, every item ranked, seen ones left
out. Both sides train on the same rows, choose their epoch by validation NDCG@10
and get the time of the query. RecTools trains its HSTU with the settings of its
HSTU tutorial, on films and times, with one seed. fmjax trains `timed` of
`experiments.movielens_1m`, which also reads what the log says of films, users
and ratings given before: a comparison of what each makes of the log, not of two
blocks.

The peer takes hours and says how far it is; killed, the same command goes on
after the last whole epoch of it, and keeps the runs of fmjax that are done.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow.csv

from experiments import movielens_1m
from experiments.bench import protocol, record, sides
from fmjax.data.prepare import ensure_prepared
from fmjax.data.store import Prepared
from fmjax.eval.compare import compare
from fmjax.eval.ranked import TOP, Ranked, from_parquet
from fmjax.scaling import launch
from fmjax.scaling.paired import seed_means
from fmjax.scaling.reports.arms import arms

COMMAND = "python -m experiments.bench.peer_quality"
SEEDS = 3
METRICS = ("ndcg@10", "hr@10")

# https://github.com/MobileTeleSystems/RecTools, the HSTU tutorial: all of its
# settings for MovieLens-1M, and its 100 epochs.
PEER = {
  "seed": 42,
  "epochs": 100,
  "logits_t": 0.05,
  "model": {
    "n_factors": 50,
    "n_blocks": 2,
    "n_heads": 1,
    "session_max_len": 200,
    "dropout_rate": 0.2,
    "loss": "sampled_softmax",
    "n_negatives": 128,
    "lr": 1e-3,
    "batch_size": 128,
    "use_pos_emb": True,
    "relative_time_attention": True,
    "relative_pos_attention": True,
  },
}


def write_events(prepared: Prepared, path: pathlib.Path) -> None:
  """`user item seconds` a line, in the order in which fmjax reads them."""
  columns, offset_u = prepared.histories()
  users = prepared.user_ids.astype(np.int64)
  item = prepared.catalog.item_ids[columns["item"]]
  seconds = columns["start_us"] // 1_000_000
  with path.open("w") as file:
    for row in np.argsort(users):
      for n in range(offset_u[row], offset_u[row + 1]):
        file.write(f"{users[row]} {item[n]} {seconds[n]}\n")


def peer_ranked(path: pathlib.Path, ours: Ranked, prepared: Prepared) -> Ranked:
  """The peer's answers as fmjax keeps its own; beyond the tenth, the last rank.

  Raises:
    ValueError: the peer was asked for other targets.
  """
  table = pyarrow.csv.read_csv(path).to_pydict()
  answer = {
    (str(user), str(target)): rank
    for user, target, rank in zip(
      table["user"], table["target"], table["rank"], strict=True
    )
  }
  asked = zip(
    prepared.user_ids[ours.user],
    prepared.catalog.item_ids[ours.item],
    strict=True,
  )
  asked = [(str(user), str(item)) for user, item in asked]
  if missing := set(asked) ^ set(answer):
    raise ValueError(
      f"{path} and fmjax differ in {len(missing)} targets, such as"
      f" {min(missing)}; remove the folder and run again"
    )
  rank = np.array([answer[key] or ours.catalog_items for key in asked])
  return Ranked(
    **{
      **{name: getattr(ours, name) for name in ours.protocol},
      "user": ours.user,
      "history_length": ours.history_length,
      "item": ours.item,
      "time_s": ours.time_s,
      "train_count": ours.train_count,
      "rank": rank.astype(np.int32),
      "nll": np.full(len(rank), np.nan, np.float32),
      "top10_nk": np.zeros((len(rank), TOP), np.int32),
    }
  )


def start_peer(
  python: pathlib.Path, folder: pathlib.Path, *, epochs: int
) -> subprocess.Popen:
  settings = {
    **PEER,
    "epochs": epochs,
    "folder": str(folder),
    "events": str(folder / "events.txt"),
  }
  environment = {**protocol.ENVIRONMENT, "PYTHONPATH": str(protocol.ROOT)}
  return subprocess.Popen(
    [
      str(python),
      "-m",
      "experiments.bench.peer.rectools_hstu",
      json.dumps(settings),
    ],
    env={**os.environ, **environment},
  )


def summary(
  ours: list[Ranked], theirs: Ranked, facts: dict[str, Any]
) -> dict[str, Any]:
  """Both sides and their paired difference; intervals are over users."""
  measured = {"ours": ours, "peer": [theirs]}
  content: dict[str, Any] = {
    side: seed_means(runs, METRICS) for side, runs in measured.items()
  }
  for metric in METRICS:
    found = compare(ours, theirs, metric=metric)
    content[f"paired_{metric}"] = {
      "difference": found.difference,
      "interval": list(found.interval),
      "separates": found.separates,
    }
  return {
    **content,
    "peer_version": facts["versions"]["rectools"],
    "peer_facts": facts,
    "seeds": len(ours),
    "users": len(np.unique(theirs.user)),
  }


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument(
    "--runs",
    type=pathlib.Path,
    default=pathlib.Path("runs/bench/peer_quality"),
    help="where both sides keep what they have trained",
  )
  parser.add_argument("--seeds", type=int, default=SEEDS)
  parser.add_argument(
    "--peer-epochs", type=int, default=PEER["epochs"], help="of the peer"
  )
  parser.add_argument(
    "--peer-python", type=pathlib.Path, default=sides.PEER_PYTHON
  )
  asked = parser.parse_args(arguments)
  sides.check_installed(asked.peer_python)
  experiment = movielens_1m.timed()
  prepared = ensure_prepared(experiment.data)
  folder = asked.runs / "peer"
  folder.mkdir(parents=True, exist_ok=True)
  write_events(prepared, folder / "events.txt")
  rows = launch.sweep(
    arms("movielens_1m", {"timed": experiment}, seeds=asked.seeds),
    asked.runs,
    listed="peer_quality",
    retry_failed=False,
    say=lambda text: print(text, file=sys.stderr),
  )
  peer = start_peer(asked.peer_python, folder, epochs=asked.peer_epochs)
  if peer.wait():
    raise SystemExit(f"the peer ended with status {peer.returncode}")
  ours = [from_parquet(row.run_dir / "test.parquet") for row in rows]
  theirs = peer_ranked(folder / "test.csv", ours[0], prepared)
  facts = json.loads((folder / "facts.json").read_text())
  curve = json.loads((folder / "curve.json").read_text())
  found = {
    **summary(ours, theirs, facts),
    "peer_settings": {**PEER, "epochs": asked.peer_epochs},
    "peer_curve": curve,
    "runs": [row.to_dict() for row in rows],
  }
  record.write(asked.out, command=COMMAND, result=found)
  paired = found["paired_ndcg@10"]
  print(
    f"NDCG@10: fmjax {found['ours']['ndcg@10']:.4f}, RecTools"
    f" {found['peer_version']} HSTU {found['peer']['ndcg@10']:.4f}; difference"
    f" {paired['difference']:+.4f}"
    f" [{paired['interval'][0]:+.4f}, {paired['interval'][1]:+.4f}]"
  )


if __name__ == "__main__":
  main()

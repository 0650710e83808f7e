"""The two sides of a comparison: fmjax and RecTools' SASRec on MovieLens-1M.

Both get the frozen SASRec block of `experiments.movielens_1m`: width 64, 2
blocks, 1 head, a ReLU feed-forward as wide as the model, dropout 0.1 on
embeddings, attention weights and feed-forward, 200 positions, tied items.
"""

import dataclasses
import itertools
import lzma
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.bench.protocol import ROOT, Answer, Worker
from fmjax.config import Experiment, MovieLensSasrec, to_dict
from fmjax.data.readers.movielens import sasrec_files
from fmjax.data.store import Prepared

PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
POSITIONS = 200

# What is not here is RecTools' default: causal attention without a mask of
# padding, Adam with betas 0.9 and 0.98 at a constant rate, no loader workers
# (on two cores, one or two of them made it slower).
PEER_MODEL = {
  "n_factors": 64,
  "n_blocks": 2,
  "n_heads": 1,
  "session_max_len": POSITIONS,
  "dropout_rate": 0.1,
  "batch_size": 128,
  "lr": 1e-3,
  "loss": "softmax",
}

Histories = Mapping[str, list[str]]  # items of each user, first to last


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerFiles:
  """Attributes: train: all but two items of each user; validation: the next."""

  train: pathlib.Path
  validation: pathlib.Path


def read_histories() -> dict[str, list[str]]:
  """MovieLens-1M as SASRec was evaluated on it."""
  (path,) = sasrec_files(MovieLensSasrec())
  content = path.read_bytes()
  if path.suffix == ".xz":
    content = lzma.decompress(content)
  pairs = [line.split() for line in content.decode().splitlines()]
  return {
    user: [item for _, item in lines]
    for user, lines in itertools.groupby(pairs, key=lambda pair: pair[0])
  }


def write_pairs(histories: Histories, path: pathlib.Path) -> pathlib.Path:
  lines = (
    f"{user} {item}\n" for user, items in histories.items() for item in items
  )
  path.write_text("".join(lines))
  return path


def peer_files(histories: Histories, folder: pathlib.Path) -> PeerFiles:
  """Leave-last-out as fmjax splits: the last item is test, unused here."""
  return PeerFiles(
    train=write_pairs(
      {user: items[:-2] for user, items in histories.items()},
      folder / "peer-train.txt",
    ),
    validation=write_pairs(
      {user: items[-2:-1] for user, items in histories.items()},
      folder / "peer-validation.txt",
    ),
  )


def alternate(
  peer: Worker, ours: Worker, what: str, *, pairs: int
) -> list[dict[str, Answer]]:
  """Asks both, in turn first (A B, B A, A B, …); an entry a pair.

  A pair's sides are `"peer"` and `"fmjax"`, in the order in which they ran.
  """
  order = [("peer", peer), ("fmjax", ours)]
  found = []
  for place in range(pairs):
    turn = order if place % 2 == 0 else order[::-1]
    found.append({name: worker.ask(what) for name, worker in turn})
  return found


def check_installed(peer: pathlib.Path) -> None:
  """
  Raises:
    SystemExit: the peer has no Python of its own.
  """
  if not peer.exists():
    raise SystemExit(f"{peer} is missing; `make bench-peers` installs it")


def start_peer(
  python: pathlib.Path, files: PeerFiles, model: Mapping[str, Any], *, leg: int
) -> Worker:
  """RecTools in its own environment; `leg` batches at a time."""
  check_installed(python)
  return Worker(
    str(python),
    "experiments.bench.peer.rectools_worker",
    {
      "train": str(files.train),
      "validation": str(files.validation),
      "model": dict(model),
      "leg": leg,
      "seed": 0,
    },
  )


def start_fmjax(
  python: str,
  experiment: Experiment,
  prepared: Prepared,
  run_dir: pathlib.Path,
  *,
  leg: int,
) -> Worker:
  """fmjax's training loop; `leg` steps at a time."""
  return Worker(
    python,
    "experiments.bench.fmjax_worker",
    {
      "experiment": to_dict(experiment),
      "prepared": str(prepared.path),
      "run_dir": str(run_dir),
      "leg": leg,
    },
  )

"""How many real tokens a second does training take, fmjax beside RecTools?

  python -m experiments.bench.train_throughput

One model shape, the SASRec block of `experiments.bench.sides`, three losses:
full softmax, 128 uniform negatives, binary cross-entropy with one. Dropout is
on and the data pipeline included. Tokens are non-padding targets.

Both sides train on the same targets: the last 200 training items of each user
of MovieLens-1M that have one before them (647,430). RecTools gets that one item
more, as the first input; fmjax has a start token in its place. RecTools pads
128 users to a batch, fmjax packs 64 rows of 200. fmjax draws 128 negatives for
the whole batch, RecTools for each position, padding included: neither offers
the other's way.

After two legs of warm-up the sides alternate; who is not asked waits.
"""

import dataclasses
import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from experiments import movielens_1m
from experiments.bench import record, sides
from experiments.bench.protocol import Answer
from fmjax.config import (
  BinaryCrossEntropy,
  Experiment,
  FullSoftmax,
  LeaveLastOut,
  MovieLensSasrec,
  SampledSoftmax,
  override,
)
from fmjax.data.prepare import prepare
from fmjax.data.store import Prepared
from fmjax.scaling import records

COMMAND = "python -m experiments.bench.train_throughput"
ROWS = (
  "each user's last 200 training targets that have an item before them;"
  " RecTools sees that item, fmjax a start token"
)
_WARM_UP = 2  # legs: the first compiles, the second pays for its first check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
  """One comparison; a leg takes about 25 s of the peer and 12 s of fmjax.

  Attributes:
    objective: fmjax's; None: as in the experiment.
    peer: RecTools' options.
    steps: of fmjax, a leg.
    batches: of RecTools, a leg.
  """

  objective: FullSoftmax | SampledSoftmax | BinaryCrossEntropy | None
  peer: Mapping[str, Any]
  steps: int
  batches: int


LOSSES = {
  "full_softmax": Loss(
    objective=None, peer={"loss": "softmax"}, steps=60, batches=16
  ),
  "sampled": Loss(
    objective=SampledSoftmax(negatives=128),
    peer={"loss": "sampled_softmax", "n_negatives": 128},
    steps=90,
    batches=14,
  ),
  "bce": Loss(
    objective=BinaryCrossEntropy(negatives=1),
    peer={"loss": "BCE", "n_negatives": 1},
    steps=90,
    batches=80,
  ),
}


def same_targets(
  histories: sides.Histories,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
  """(the peer's histories, fmjax's): 200 targets each, then two held out."""
  kept = sides.POSITIONS + 1 + 2
  peer = {user: items[-kept:] for user, items in histories.items()}
  return peer, {user: items[1:] for user, items in peer.items()}


def throughput_experiment(loss: Loss, *, steps: int, legs: int) -> Experiment:
  """`sasrec_ce` for `legs` legs of `steps`, with this loss."""
  experiment = movielens_1m.sasrec_ce()
  if loss.objective is not None:
    experiment = override(experiment, {"objective": loss.objective})
  return override(
    experiment,
    {
      "run.steps": legs * steps,
      # As often as ever, but also at the end of a leg.
      "run.log_every": math.gcd(steps, experiment.run.log_every),
      # Only between legs, while the clock stands.
      "run.checkpoint_every": legs * steps,
    },
  )


def summary(pairs: list[dict[str, Answer]]) -> dict[str, Any]:
  """Medians over pairs, and the ratio fmjax / peer in two ways."""
  rates = {
    side: [pair[side]["tokens"] / pair[side]["seconds"] for pair in pairs]
    for side in ("fmjax", "peer")
  }
  medians = {side: statistics.median(rates[side]) for side in rates}
  ratios = [a / b for a, b in zip(rates["fmjax"], rates["peer"], strict=True)]
  peaks = {
    side: max(pair[side]["peak_rss_bytes"] for pair in pairs) for side in rates
  }
  return {
    "ratio": medians["fmjax"] / medians["peer"],
    "median_of_pair_ratios": statistics.median(ratios),
    "pair_ratios": ratios,
    "tokens_per_s": medians,
    "peak_rss_bytes": peaks,
    "memory_ratio": peaks["fmjax"] / peaks["peer"],
  }


def result(losses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """The file's content; None where a loss has not been measured."""

  def of(loss: str, key: str) -> float | None:
    return losses[loss][key] if loss in losses else None

  return {
    **{f"ratio_{name}": of(name, "ratio") for name in LOSSES},
    "memory_ratio": of("full_softmax", "memory_ratio"),
    "rows": ROWS,
    "losses": losses,
  }


def measure(
  loss: Loss,
  prepared: Prepared,
  files: sides.PeerFiles,
  run_dir: pathlib.Path,
  *,
  peer_python: pathlib.Path,
  pairs: int,
) -> dict[str, Any]:
  experiment = throughput_experiment(
    loss, steps=loss.steps, legs=_WARM_UP + pairs
  )
  model = {**sides.PEER_MODEL, **loss.peer}
  with (
    sides.start_peer(peer_python, files, model, leg=loss.batches) as peer,
    sides.start_fmjax(
      sys.executable, experiment, prepared, run_dir, leg=loss.steps
    ) as ours,
  ):
    warm_up = sides.alternate(peer, ours, "train", pairs=_WARM_UP)
    measured = sides.alternate(peer, ours, "train", pairs=pairs)
    return {
      **summary(measured),
      "pairs": measured,
      "warm_up": warm_up,
      "peer": peer.facts,
      "fmjax": ours.facts,
    }


def earlier(path: pathlib.Path) -> dict[str, Any]:
  """Losses that this code has measured on this machine already."""
  written = records.read_json(path) or {}
  current = {
    "code_hash": records.code_hash(),
    "machine": record.machine(),
    "versions": record.versions(),
  }
  if any(written.get(key) != value for key, value in current.items()):
    return {}
  return written["losses"]


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument(
    "--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES)
  )
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--steps", type=int, help="of fmjax, a leg")
  parser.add_argument("--batches", type=int, help="of the peer, a leg")
  parser.add_argument(
    "--peer-python", type=pathlib.Path, default=sides.PEER_PYTHON
  )
  asked = parser.parse_args(arguments)
  losses = earlier(asked.out)
  of_peer, of_fmjax = same_targets(sides.read_histories())
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    files = sides.peer_files(of_peer, folder)
    raw = sides.write_pairs(of_fmjax, folder / "fmjax.txt")
    prepared = prepare(
      MovieLensSasrec(raw=str(raw)), folder / "prepared", split=LeaveLastOut()
    )
    for name in asked.losses:
      loss = dataclasses.replace(
        LOSSES[name],
        steps=asked.steps or LOSSES[name].steps,
        batches=asked.batches or LOSSES[name].batches,
      )
      losses[name] = measure(
        loss,
        prepared,
        files,
        folder / name,
        peer_python=asked.peer_python,
        pairs=asked.pairs,
      )
      record.write(
        asked.out,
        command=f"{COMMAND} --pairs {asked.pairs}",
        result=result(losses),
      )
      _say(name, losses[name])


def _say(name: str, found: Mapping[str, Any]) -> None:
  rates, peaks = found["tokens_per_s"], found["peak_rss_bytes"]
  print(
    f"{name}: fmjax {rates['fmjax']:,.0f} tokens/s,"
    f" {found['peer']['name']} {found['peer']['version']}"
    f" {rates['peer']:,.0f}; ratio {found['ratio']:.2f}, of pairs"
    f" {min(found['pair_ratios']):.2f} to {max(found['pair_ratios']):.2f};"
    f" peak memory {peaks['fmjax'] / 2**30:.2f} against"
    f" {peaks['peer'] / 2**30:.2f} GiB"
  )


if __name__ == "__main__":
  main()

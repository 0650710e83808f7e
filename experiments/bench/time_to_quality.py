"""How long until validation NDCG@10 = .17 on MovieLens-1M, fmjax and RecTools?

  python -m experiments.bench.time_to_quality

One run each, their epochs interleaved, one side at a time; only a side's own
training seconds count, compilation included, evaluation excluded. Both sides
rank each user's second-to-last item, trained on what lies before it, among the
whole catalog without what the user had seen.

RecTools trains as the published SASRec+: Adam at a constant learning rate of
1e-3, 128 users a batch, full softmax, the last 200 targets of each user an
epoch; the rest are RecTools' defaults. fmjax trains `sasrec_ce` of
`experiments.movielens_1m` on every target, its schedule shortened to
`--epochs`. The peer needs over an hour: the curve is written after every epoch.
"""

import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from experiments import movielens_1m
from experiments.bench import record, sides
from experiments.bench.protocol import Worker
from fmjax.config import override
from fmjax.data.prepare import ensure_prepared
from fmjax.data.windows import epoch_facts

COMMAND = "python -m experiments.bench.time_to_quality"
_PAUSE_POLL_S = 1.0


class Runner:
  """One side of the race.

  Attributes:
    curve: an entry an epoch: seconds, tokens and NDCG@10 so far.
    users: who were evaluated.
    threshold: NDCG@10 to reach.
    reached_s: training seconds when it was first there, or None.
  """

  def __init__(
    self, worker: Worker, *, threshold: float, epochs: int | None = None
  ):
    """Runs a schedule of `epochs` to its end, else up to the threshold."""
    self.worker = worker
    self.curve: list[dict[str, float]] = []
    self.users = 0
    self.reached_s: float | None = None
    self.threshold, self._epochs = threshold, epochs

  @property
  def name(self) -> str:
    return self.worker.facts["name"]

  @property
  def over(self) -> bool:
    if self._epochs is None:
      return self.reached_s is not None
    return len(self.curve) >= self._epochs

  @property
  def train_s(self) -> float:
    return self.curve[-1]["train_s"] if self.curve else 0.0

  def epoch(self) -> None:
    took, measured = self.worker.ask("train"), self.worker.ask("evaluate")
    self.users = measured["users"]
    tokens = self.curve[-1]["tokens"] if self.curve else 0
    self.curve.append(
      {
        "epoch": len(self.curve) + 1,
        "train_s": self.train_s + took["seconds"],
        "tokens": tokens + took["tokens"],
        "ndcg@10": measured["ndcg@10"],
        "cpu_s": took["cpu_s"],
        "evaluation_s": measured["seconds"],
        "peak_rss_bytes": took["peak_rss_bytes"],
      }
    )
    if self.reached_s is None and measured["ndcg@10"] >= self.threshold:
      self.reached_s = self.train_s
    if self.over:
      self.worker.close()  # frees its memory


def race(
  ours: Runner,
  peer: Runner,
  *,
  until: float,
  pause_file: pathlib.Path | None,
  write: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
  """Epoch by epoch until both are over or the clock shows `until`.

  Returns `summary`, of which `write` has had every earlier state.
  """
  while not (ours.over and peer.over):
    for runner in (peer, ours):
      _wait_while(pause_file)
      if time.monotonic() > until:
        return summary(ours, peer)
      if not runner.over:
        runner.epoch()
        write(summary(ours, peer))
        last = runner.curve[-1]
        print(
          f"{runner.name}: epoch {last['epoch']}, {last['train_s']:,.0f} s,"
          f" NDCG@10 {last['ndcg@10']:.4f}",
          file=sys.stderr,
        )
  return summary(ours, peer)


def summary(ours: Runner, peer: Runner) -> dict[str, Any]:
  """The result so far; what is not known yet is None."""
  ratio = bound = None
  if ours.reached_s is not None:
    if peer.reached_s is not None:
      ratio = ours.reached_s / peer.reached_s
    elif peer.train_s:
      # The peer has trained this long without reaching it.
      bound = ours.reached_s / peer.train_s
  return {
    "ratio": ratio,
    "ratio_upper_bound": bound if ratio is None else ratio,
    "fmjax_s": ours.reached_s,
    "peer_s": peer.reached_s,
    "peer_s_so_far": peer.train_s,
    "threshold": ours.threshold,
    "metric": "validation NDCG@10, whole catalog, seen items left out",
    "users": max(runner.users for runner in (ours, peer)),
    "peer": peer.worker.facts,
    "fmjax": ours.worker.facts,
    "curves": {"fmjax": ours.curve, "peer": peer.curve},
  }


def _wait_while(pause_file: pathlib.Path | None) -> None:
  while pause_file is not None and pause_file.exists():
    time.sleep(_PAUSE_POLL_S)


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--threshold", type=float, default=0.17)
  parser.add_argument(
    "--epochs", type=int, default=14, help="of fmjax's schedule"
  )
  parser.add_argument(
    "--limit-s",
    type=float,
    default=3 * 3_600,
    help="no epoch begins later than this after the start",
  )
  parser.add_argument(
    "--pause-file",
    type=pathlib.Path,
    help="between epochs, wait while this file exists: on a shared machine it"
    " leaves the processor to others",
  )
  parser.add_argument(
    "--peer-python", type=pathlib.Path, default=sides.PEER_PYTHON
  )
  asked = parser.parse_args(arguments)
  until = time.monotonic() + asked.limit_s
  experiment = movielens_1m.sasrec_ce()
  prepared = ensure_prepared(experiment.data)
  data, run = experiment.data, experiment.run
  epoch = epoch_facts(
    prepared, window=data.window, stride=data.stride, seed=run.seed
  )
  steps = math.ceil(epoch.rows / data.rows)
  experiment = override(
    experiment,
    {
      "run.steps": asked.epochs * steps,
      "run.log_every": steps,
      # The gate saves once an epoch, while the clock stands.
      "run.checkpoint_every": asked.epochs * steps,
    },
  )
  histories = sides.read_histories()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    files = sides.peer_files(histories, folder)
    batches = math.ceil(len(histories) / sides.PEER_MODEL["batch_size"])
    with (
      sides.start_peer(
        asked.peer_python, files, sides.PEER_MODEL, leg=batches
      ) as theirs,
      sides.start_fmjax(
        sys.executable, experiment, prepared, folder / "run", leg=steps
      ) as ours,
    ):
      found = race(
        Runner(ours, threshold=asked.threshold, epochs=asked.epochs),
        Runner(theirs, threshold=asked.threshold),
        until=until,
        pause_file=asked.pause_file,
        write=lambda result: record.write(
          asked.out,
          command=f"{COMMAND} --epochs {asked.epochs}",
          result=result,
        ),
      )
  print(
    f"NDCG@10 = {asked.threshold}: fmjax {_seconds(found['fmjax_s'])},"
    f" {theirs.facts['name']} {theirs.facts['version']}"
    f" {_seconds(found['peer_s'])}; ratio {found['ratio']}"
    f" (at most {found['ratio_upper_bound']})"
  )


def _seconds(value: float | None) -> str:
  return "not reached" if value is None else f"{value:,.0f} s"


if __name__ == "__main__":
  main()

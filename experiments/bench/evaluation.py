"""How long does it take to evaluate all users of MovieLens-1M?

  python -m experiments.bench.evaluation

Validation of both sides as in `experiments.bench.time_to_quality`: each user's
second-to-last item among the whole catalog, seen items left out. fmjax answers
with the evaluator of its training loop (the rank of every target, its NLL and
the ten best items), RecTools with `recommend` of ten items, from which NDCG@10
is counted. The models are hardly trained, which changes nothing here. The first
answer compiles fmjax's part and lays out its queries; it is kept apart.
"""

import pathlib
import statistics
import sys
import tempfile
from typing import Any

from experiments import movielens_1m
from experiments.bench import record, sides
from experiments.bench.protocol import Answer
from fmjax.config import override
from fmjax.data.prepare import ensure_prepared

COMMAND = "python -m experiments.bench.evaluation"


def summary(pairs: list[dict[str, Answer]]) -> dict[str, Any]:
  """Median seconds of both; the ratio is fmjax's over the peer's."""
  seconds = {
    side: statistics.median(pair[side]["seconds"] for pair in pairs)
    for side in ("fmjax", "peer")
  }
  ratios = [p["fmjax"]["seconds"] / p["peer"]["seconds"] for p in pairs]
  return {
    "ratio": seconds["fmjax"] / seconds["peer"],
    "median_of_pair_ratios": statistics.median(ratios),
    "fmjax_s": seconds["fmjax"],
    "peer_s": seconds["peer"],
    "users": pairs[0]["fmjax"]["users"],
  }


def main(arguments: list[str] | None = None) -> None:
  parser = record.parser(COMMAND, __doc__)
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument(
    "--peer-python", type=pathlib.Path, default=sides.PEER_PYTHON
  )
  asked = parser.parse_args(arguments)
  experiment = override(
    movielens_1m.sasrec_ce(), {"run.steps": 2, "run.log_every": 1}
  )
  prepared = ensure_prepared(experiment.data)
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    files = sides.peer_files(sides.read_histories(), folder)
    with (
      sides.start_peer(
        asked.peer_python, files, sides.PEER_MODEL, leg=1
      ) as peer,
      sides.start_fmjax(
        sys.executable, experiment, prepared, folder / "run", leg=1
      ) as ours,
    ):
      sides.alternate(peer, ours, "train", pairs=1)
      first = sides.alternate(peer, ours, "evaluate", pairs=1)
      pairs = sides.alternate(peer, ours, "evaluate", pairs=asked.pairs)
  found = {
    **summary(pairs),
    "pairs": pairs,
    "first": first[0],
    "peer": peer.facts,
    "fmjax": ours.facts,
  }
  record.write(
    asked.out, command=f"{COMMAND} --pairs {asked.pairs}", result=found
  )
  print(
    f"{found['users']:,} users: fmjax {found['fmjax_s']:.2f} s,"
    f" {peer.facts['name']} {peer.facts['version']} {found['peer_s']:.2f} s"
  )


if __name__ == "__main__":
  main()

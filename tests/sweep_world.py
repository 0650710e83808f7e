"""A sweep of small runs, for tests that start it in other processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from fmjax.cli.experiment_file import load
from fmjax.config import Experiment
from fmjax.scaling import records
from fmjax.scaling.sweep import run_state
from fmjax.train.log import read_metrics

STEPS = 200

FILE = '''"""Does width help on a synthetic log?"""
from fmjax.config import (
  DataConfig, Experiment, IdOnly, ItemOnly, ItemsConfig, ModelConfig, NoTime,
  RunConfig, SasrecBlock, StableDecay, Synthetic, override
)

def experiments():
  base = Experiment(
    data=DataConfig(
      source=Synthetic(events=3_000, users=150, items=60),
      window=16, stride=16, rows=8,
    ),
    # Little to compile: what is tested here is what happens around training.
    model=ModelConfig(
      width=8, layers=1, heads=1, dropout=0.0, features=ItemOnly(),
      time=NoTime(), items=ItemsConfig(mixer=IdOnly()), block=SasrecBlock(),
    ),
    run=RunConfig(
      steps=STEPS, evaluate_every=50, checkpoint_every=10, log_every=1
    ),
  )
  return {
    f"d{width}-s{seed}": override(
      base, {"model.width": width, "run.seed": seed}
    )
    for width in (8, 16) for seed in range(SEEDS)
  }
'''


def write(
  folder: pathlib.Path, *, seeds: int = 2, steps: int = STEPS
) -> dict[str, Experiment]:
  """Writes ladder.py; its experiments, two for each seed."""
  path = folder / "ladder.py"
  path.write_text(
    FILE.replace("SEEDS", str(seeds)).replace("STEPS", str(steps))
  )
  return load(str(path)).experiments


TRUNK = """
def experiments():
  base = override(ladder(), {"optim.schedule": StableDecay(warmup_steps=10)})
  return {
    f"d8-t{steps}": override(
      base, {"run.steps": steps, "run.evaluate_every": steps}
    )
    for steps in (STEPS // 4, STEPS // 2, STEPS)
  }

def ladder():
  return _ladder()["d8-s0"]
"""


def write_trunk(folder: pathlib.Path) -> dict[str, Experiment]:
  """Writes ladder.py; three lengths of one stable run."""
  text = FILE.replace("def experiments()", "def _ladder()")
  path = folder / "ladder.py"
  path.write_text(
    (text + TRUNK).replace("SEEDS", "1").replace("STEPS", str(STEPS))
  )
  return load(str(path)).experiments


def start(folder: pathlib.Path, *options: str) -> subprocess.Popen:
  """`fmjax sweep ladder.py` in a process group of its own."""
  with (folder / "said").open("a") as said:
    return subprocess.Popen(
      [sys.executable, "-m", "fmjax", "sweep", "ladder.py", *options],
      cwd=folder,
      start_new_session=True,
      stdout=subprocess.DEVNULL,
      stderr=said,
    )


def root(folder: pathlib.Path) -> pathlib.Path:
  return folder / "runs" / "ladder"


def kill(sweep: subprocess.Popen) -> None:
  """The whole process group, as a machine that goes down would."""
  os.killpg(sweep.pid, signal.SIGKILL)
  sweep.wait()


def run_dirs(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path.parent for path in root(folder).glob("*/status.json"))


def status(run_dir: pathlib.Path) -> dict:
  return records.read_json(run_dir / "status.json") or {}


def logged_steps(run_dir: pathlib.Path) -> list[int]:
  """Of the training steps, in the order of the log."""
  path = run_dir / "metrics.jsonl"
  return [r["step"] for r in read_metrics(path) if "loss" in r]


def process_of(run_dir: pathlib.Path) -> int:
  """Which works on a run, or did."""
  return int(status(run_dir)["process"].rpartition(":")[2])


def wait_for(happened, *, seconds: float = 120.0) -> None:
  """Until `happened()`."""
  deadline = time.monotonic() + seconds
  while not happened():
    assert time.monotonic() < deadline, "it never happened"
    time.sleep(0.02)


def wait_for_ends(folder: pathlib.Path) -> None:
  """Until no process works on any run."""
  wait_for(
    lambda: all(run_state.state_of(d) != "running" for d in run_dirs(folder))
  )


def ask_status(folder: pathlib.Path) -> list[dict]:
  """How `fmjax sweep --status` says that the experiments stand."""
  told = subprocess.run(
    [
      *(sys.executable, "-m", "fmjax", "sweep", "ladder.py"),
      *("--status", "--json"),
    ],
    cwd=folder,
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(told.stdout.splitlines()[-1])["runs"]

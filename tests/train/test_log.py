"""What a kill does to metrics.jsonl, at any byte of it: nothing that counts."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.train.log import MetricsLog, read_metrics

LINES = [
  {"step": 1, "loss": 4.25, "tokens": 12},
  {"step": 2, "loss": 1e-07, "tokens": 24},
  {"step": 2, "tokens": 24, "validation/ndcg@10": 0.0625},
  {"step": 3, "loss": -3.5, "tokens": 36},
]


def write(run_dir, records, *, from_step=0):
  log = MetricsLog(run_dir, from_step=from_step)
  for record in records:
    rest = dict(record)
    log.write(rest.pop("step"), **rest)
  log.close()


def test_a_log_cut_at_any_byte_gives_its_whole_records_and_goes_on(tmp_path):
  write(tmp_path, LINES)
  path = tmp_path / "metrics.jsonl"
  whole = path.read_bytes()
  # A record is whole when its last bracket is there: the line's end is no part.
  ends = [i for i, byte in enumerate(whole, start=1) if byte == ord("}")]
  assert len(ends) == len(LINES)
  for cut in range(len(whole) + 1):
    path.write_bytes(whole[:cut])
    kept = LINES[: sum(end <= cut for end in ends)]
    assert read_metrics(path) == kept, f"cut after {cut} bytes"
    # Every checkpoint that can exist: what it is of was logged before it.
    for step in {0, *(record["step"] for record in kept)}:
      path.write_bytes(whole[:cut])
      before = [record for record in kept if record["step"] <= step]
      after = [record for record in LINES if record["step"] > step]
      write(tmp_path, after, from_step=step)
      assert read_metrics(path) == before + after
      lines = path.read_text().splitlines()
      assert [json.loads(line) for line in lines] == before + after


@settings(max_examples=200, deadline=None)
@given(
  values=st.lists(
    st.tuples(
      st.floats(allow_nan=False, allow_infinity=False),
      st.text(min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=4,
  ),
  data=st.data(),
)
def test_no_number_and_no_name_makes_a_cut_line_look_whole(
  tmp_path_factory, values, data
):
  # Also names that are not ASCII, should an evaluator ever have one.
  path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
  records = [
    {"step": step, name: value} for step, (value, name) in enumerate(values)
  ]
  lines = [
    json.dumps(record, ensure_ascii=data.draw(st.booleans())).encode() + b"\n"
    for record in records
  ]
  whole = b"".join(lines)
  cut = data.draw(st.integers(0, len(whole)))
  path.write_bytes(whole[:cut])
  ends = [len(b"".join(lines[: n + 1])) - 1 for n in range(len(lines))]
  assert read_metrics(path) == records[: sum(end <= cut for end in ends)]


def test_a_writer_killed_again_and_again_loses_and_repeats_nothing(tmp_path):
  script = textwrap.dedent(
    """
    import pathlib, sys
    from fmjax.train.log import MetricsLog, read_metrics
    run_dir = pathlib.Path(sys.argv[1])
    done = read_metrics(run_dir / "metrics.jsonl")
    step = done[-1]["step"] if done else 0
    log = MetricsLog(run_dir, from_step=step)
    while True:
      step += 1
      log.write(step, loss=1 / step, tokens=7 * step)
    """
  )
  path, generator = tmp_path / "metrics.jsonl", random.Random(0)
  for _ in range(4):
    before = len(read_metrics(path))
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
      while len(read_metrics(path)) <= before + 10:
        assert child.poll() is None
        time.sleep(0.01)
      time.sleep(generator.uniform(0, 0.2))
    finally:
      child.send_signal(signal.SIGKILL)
      child.wait()
  records = read_metrics(path)
  write(tmp_path, [], from_step=records[-1]["step"])
  assert read_metrics(path) == records
  assert [r["step"] for r in records] == list(range(1, len(records) + 1))
  assert all(r["tokens"] == 7 * r["step"] for r in records)

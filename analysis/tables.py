"""Markdown tables of the benchmarks, each a function of a committed result."""

from collections.abc import Callable, Container, Mapping, Sequence

from analysis import bench
from analysis.bench import Result, gib

_HEAD = ("", "fmjax", "the peer", "fmjax / peer")
# What is asked, the answers of fmjax and of the peer, and their ratio.
Row = tuple[str, str, str, str]


def markdown(
  head: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  text: Container[int] = (0,),
) -> str:
  """A table; the columns `text` begin at the left, numbers end at the right."""
  sides = ["---" if n in text else "---:" for n in range(len(head))]
  lines = [head, sides, *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def signed(told: Result, *, bold: bool = False) -> str:
  """A paired difference; bold where the interval excludes 0, if asked."""
  low, high = told["interval"]
  text = f"{told['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
  return f"**{text}**" if bold and told["separates"] else text


def value(part: Result, metric: str, *, digits: int = 4) -> str:
  """A metric with its interval; empty where there is none."""
  if metric not in part:
    return ""
  low, high = part[f"{metric}_ci"]
  return f"{part[metric]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def performance(results: Mapping[str, Result | None]) -> str:
  """fmjax beside the peer, a row a question, each with its command."""
  found = [result for result in results.values() if result]
  ours = bench.distinct(f"fmjax {r['versions']['fmjax']}" for r in found)
  facts = filter(None, map(bench.peer_facts, found))
  theirs = bench.distinct(f"{peer['name']} {peer['version']}" for peer in facts)
  rows = []
  for name, (what, make) in _PERFORMANCE.items():
    result = results.get(name)
    if result is None:
      command = bench.command(name)
      rows.append((what, "not measured", "", "", f"`{command}`"))
    else:
      rows += [(*row, f"`{result['command']}`") for row in make(result)]
  if results.get("gpu") is None:  # of no peer: a table of its own elsewhere
    rows.append(
      ("training on a GPU", "not measured", "", "", f"`{bench.command('gpu')}`")
    )
  head = (ours or "fmjax", theirs or "the peer", "fmjax / peer", "command")
  return markdown(("", *head), rows, text=(0, 4))


def measured(results: Mapping[str, Result | None]) -> str:
  """Which results there are: when, where and of which code."""
  rows = []
  for name, result in results.items():
    if result is None:
      rows.append((f"`{name}.json`", bench.not_measured(name), "", "", ""))
      continue
    facts = (result["date"], bench.machine(result), result["code_hash"])
    rows.append((f"`{name}.json`", f"`{result['command']}`", *facts))
  head = ("result", "command", "date", "machine", "code")
  return markdown(head, rows, text=range(5))


def throughput(result: Result) -> str:
  """Medians and ratios of the three losses."""
  return markdown(_HEAD, _throughput(result))


def time_to_quality(result: Result) -> str:
  """Training seconds of both sides to the same quality."""
  return markdown(_HEAD, _time_to_quality(result))


def floor(result: Result) -> str:
  """What each part of a step computes and moves, and how long it takes."""
  parts = result["parts"]
  keys = ("flops", "bytes", "least_ms", "measured_ms")
  total = {key: sum(part[key] for part in parts) for key in keys}
  rows = [
    (
      part["part"].replace("_", "-"),
      f"{part['flops'] / 1e9:.2f}",
      f"{part['bytes'] / 1e6:.1f}",
      f"{part['least_ms']:.1f}",
      f"{part['measured_ms']:.1f}",
    )
    for part in (*parts, {"part": "all", **total})
  ]
  rows.append(("a step, not traced", "", "", "", f"{result['step_ms']:.1f}"))
  return markdown(("part", "GFLOP", "MB", "least, ms", "traced, ms"), rows)


def peak(result: Result) -> str:
  """What the machine reaches for matrices of a step's shapes."""
  rows = [
    (one["what"], one["shapes"], f"{one['gflop_s']:,.0f}")
    for one in result["peak"]
  ]
  rows.append(("memory, GB/s", "", f"{result['stream_gb_s']:,.1f}"))
  return markdown(("product", "shapes", "GFLOP/s"), rows, text=(0, 1))


def pairs(result: Result) -> str:
  """Pairs of positions that attention computes, and those that it has to."""
  counted = result["attention_pairs"]
  about = {
    "pairs": "all pairs of a row's positions",
    "computed": "computed, in blocks of queries",
    "in_visible_blocks": "in blocks where some query sees some key",
    "visible": "that a query sees",
  }
  rows = [
    (text, f"{counted[key]:,.0f}", f"{counted[key] / counted['computed']:.2f}")
    for key, text in about.items()
  ]
  return markdown(("pairs of positions", "a row", "of the computed"), rows)


def parts(result: Result) -> str:
  """What tells each fast form from its plain twin."""
  rows = [
    (
      part["part"].replace("_", "-"),
      part["fast_what"],
      part["plain_what"] or "–",
      f"{part['ratio']:.1f} ×" if part["ratio"] else "–",
    )
    for part in result["parts"]
  ]
  head = ("part", "fast form", "plain twin", "plain / fast")
  return markdown(head, rows, text=(0, 1, 2))


def quality(result: Result) -> str:
  """How well both sides rank, and the paired difference."""
  rows = []
  for metric, label in {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}.items():
    cells = [value(result[side], metric) for side in ("ours", "peer")]
    rows.append((f"test {label}", *cells, signed(result[f"paired_{metric}"])))
  theirs = f"RecTools {result['peer_version']}, HSTU"
  return markdown(("", "fmjax, `timed`", theirs, "difference"), rows)


def gpu(result: Result) -> str:
  """Tokens per second and model FLOPs utilization of each row."""
  head = (
    f"on {result['device']}: width",
    "activations",
    "attention",
    "objective",
    "tokens/s",
    "MFU",
  )
  rows = []
  for row in result["rows"]:
    what = (f"{row['width']:,}", row["dtype"], row["attention"])
    if "error" in row:
      told = (row["error"], "")
    else:
      told = (f"{row['tokens_per_s']:,.0f}", f"{row['mfu']:.3f}")
    rows.append((*what, row["objective"], *told))
  return markdown(head, rows, text=(1, 2, 3))


def _throughput(result: Result) -> list[Row]:
  rows: list[Row] = []
  for loss, label in bench.LOSSES.items():
    what = f"training, {label}: tokens/s"
    if of := result["losses"].get(loss):
      low, high = min(of["pair_ratios"]), max(of["pair_ratios"])
      rate = of["tokens_per_s"]
      ratio = f"{of['ratio']:.1f} ({low:.1f} to {high:.1f})"
      rows.append(
        (what, f"{rate['fmjax']:,.0f}", f"{rate['peer']:,.0f}", ratio)
      )
    else:
      rows.append((what, "not measured", "", ""))
  if full := result["losses"].get("full_softmax"):
    ours, theirs = (gib(full["peak_rss_bytes"][s]) for s in ("fmjax", "peer"))
    what = "training, full softmax: peak memory, GiB"
    ratio = f"{full['memory_ratio']:.2f}"
    rows.append((what, f"{ours:.2f}", f"{theirs:.2f}", ratio))
  return rows


def _time_to_quality(result: Result) -> list[Row]:
  """A side that has not arrived is told by the seconds it has had."""
  cells = {}
  for side, curve in result["curves"].items():
    reached = result[f"{side}_s"]
    so_far = curve[-1]["train_s"] if curve else 0.0
    cells[side] = f"> {so_far:,.0f}" if reached is None else f"{reached:,.0f}"
  ratio = ""
  if result["ratio"] is not None:
    ratio = f"{result['ratio']:.3f}"
  elif result["ratio_upper_bound"] is not None:
    ratio = f"< {result['ratio_upper_bound']:.3f}"
  what = f"training to validation NDCG@10 = {result['threshold']:g}: s"
  return [(what, cells["fmjax"], cells["peer"], ratio)]


def _evaluation(result: Result) -> list[Row]:
  ours, theirs = (f"{result[f'{side}_s']:.2f}" for side in ("fmjax", "peer"))
  what = f"evaluation of {result['users']:,} users: s"
  return [(what, ours, theirs, f"{result['ratio']:.2f}")]


def _input(result: Result) -> list[Row]:
  slowest = min(result["input_tokens_per_s"].values())
  step = f"{result['ratio']:.0f} × fmjax's step"
  return [("batches read alone: tokens/s", f"{slowest:,.0f}", "", step)]


def _attention(result: Result) -> list[Row]:
  """Of low rank, beside full attention, a row a rank."""
  at = next(row for row in result["lengths"] if row["window"] == 4_096)
  return [
    (
      f"attention with a bias of time, width {result['shape']['width']}, 4,096"
      f" positions, {rank} slots a block of {result['block']}: ms",
      f"{at['ms'][f'low_rank_{rank}']:.0f}",
      "",
      f"full / low rank: {of['attention_speedup_4096']:.1f}; memory, low rank /"
      f" full: {of['memory_ratio_4096']:.2f}; a step's token at 8,192 / 1,024:"
      f" {of['cost_ratio_8192_1024']:.2f}",
    )
    for rank, of in result["ranks"].items()
  ]


def _prepare(result: Result) -> list[Row]:
  """Of the longest log."""
  place, ours = max(enumerate(result["sizes"]), key=lambda s: s[1]["events"])
  what = f"`prepare`, {ours['events'] / 1e6:g} M events"
  rate, peak = ours["events_per_s"], ours["peak_rss_bytes"]
  their_rate = their_peak = rate_ratio = peak_ratio = ""
  if result["peer"]:
    theirs = result["peer"][place]
    if "seconds" in theirs:
      their_rate = f"{theirs['events_per_s']:,.0f}"
      their_peak = f"{gib(theirs['peak_rss_bytes']):.2f}"
      rate_ratio = f"{rate / theirs['events_per_s']:.1f}"
      peak_ratio = f"{peak / theirs['peak_rss_bytes']:.2f}"
    else:
      their_rate = their_peak = "not finished"
  return [
    (f"{what}: events/s", f"{rate:,.0f}", their_rate, rate_ratio),
    (f"{what}: peak memory, GiB", f"{gib(peak):.2f}", their_peak, peak_ratio),
  ]


def attention(result: Result) -> str:
  """Milliseconds and memory of each form by length."""
  names = list(result["lengths"][0]["ms"])
  rows = [
    (
      f"{row['window']:,}",
      *(f"{row['ms'][name]:.1f}" for name in names),
      *(f"{row['temp_bytes'][name] / 2**20:.1f}" for name in names),
    )
    for row in result["lengths"]
  ]
  names = [name.replace("_", " ") for name in names]
  head = ("positions", *(f"{name}: ms" for name in names))
  return markdown((*head, *(f"{name}: MiB" for name in names)), rows)


# Result: what its row asks while it is absent, and the function of its rows.
_PERFORMANCE: dict[str, tuple[str, Callable[[Result], list[Row]]]] = {
  "train_throughput": ("training: tokens/s", _throughput),
  "time_to_quality": ("training to a validation NDCG@10: s", _time_to_quality),
  "evaluation": ("evaluation of all users: s", _evaluation),
  "input": ("batches read alone: tokens/s", _input),
  "prepare": ("`prepare`: events/s", _prepare),
  "attention": ("low-rank attention: ms", _attention),
}
# Table of one benchmark: its result, and the function that makes it.
BENCH: dict[str, tuple[str, Callable[[Result], str]]] = {
  "throughput": ("train_throughput", throughput),
  "time_to_quality": ("time_to_quality", time_to_quality),
  "peak": ("floor", peak),
  "floor": ("floor", floor),
  "pairs": ("floor", pairs),
  "parts": ("parts", parts),
  "attention": ("attention", attention),
  "quality": ("peer_quality", quality),
  "gpu": ("gpu", gpu),
}

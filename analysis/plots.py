"""The committed figures, each a function of a committed result.

python -m analysis.plots        # redraws analysis/figures; also `make figures`
"""

import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from analysis import bench
from analysis.bench import gib
from experiments.baselines import PUBLISHED
from fmjax.scaling.reports import figure

HERE = pathlib.Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"

Result = Mapping[str, Any]
Draw = Callable[[Result], Figure]

_PUBLISHED = {
  "SASRec+ (published)": PUBLISHED["sasrec_ce"].ndcg,
  "SASRec, BCE (published)": PUBLISHED["sasrec_bce"].ndcg,
}
# Of Okabe and Ito, told apart with any color vision.
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, PALE, GRID = "#222222", "#9a9a9a", "#e6e6e6"
_SIDES = {"fmjax": BLUE, "peer": RED}
_STYLE: Any = {"font.size": 11, "svg.hashsalt": "fmjax"}
_BAR = 0.36  # height of one of two bars


def quickstart(results: Mapping[str, Result], path: pathlib.Path) -> None:
  """Does a larger model help on MovieTweetings?"""
  figure.draw(results["quickstart"], path)


def learning(axis: Axes, result: Result, *, color: str, label: str) -> None:
  """An arm's validation by step, and its test at the step that was selected."""
  of = result["slices"]["all"]
  low, high = of["ndcg@10_ci"]
  axis.plot(
    [point["step"] for point in result["curve"]],
    [point["ndcg@10"] for point in result["curve"]],
    color=color,
    linewidth=1.8,
    label=label,
  )
  axis.errorbar(
    [result["selected_step"]],
    [of["ndcg@10"]],
    yerr=[[of["ndcg@10"] - low], [high - of["ndcg@10"]]],
    fmt="o",
    color=color,
    capsize=3,
  )


def movielens_1m(results: Mapping[str, Result]) -> Figure:
  """Validation curves of a seed of each arm, beside what is published.

  The published numbers are on test; so are the marked points.
  """
  canvas, (axis,) = panels(8, 4.2)
  last = 0
  for arm, label, color in (
    ("reference", "reference: gated blocks, genres and years", RED),
    ("sasrec_ce", "SASRec, full cross-entropy", BLUE),
  ):
    result = results[arm]
    last = max(last, result["curve"][-1]["step"])
    of = result["slices"]["all"]
    low, high = of["ndcg@10_ci"]
    label += f": test {of['ndcg@10']:.4f} [{low:.4f}, {high:.4f}]"
    label += f", {len(result['seeds'])} seeds"
    learning(axis, result, color=color, label=label)
  popularity = results["sasrec_ce"]["baselines"]["popularity_all"]
  lines = {**_PUBLISHED, "popularity, all time": popularity["ndcg@10"]}
  for (name, value), dashes in zip(
    lines.items(), ("--", ":", "-."), strict=True
  ):
    axis.axhline(
      value,
      color=INK,
      linestyle=dashes,
      linewidth=1.2,
      label=f"{name}, {value:.4f}",
    )
  axis.set_ylim(bottom=0)
  axis.set_xlim(left=0, right=last * 1.02)
  axis.set_xlabel("training step")
  axis.set_ylabel("NDCG@10, full ranking")
  headline(axis, "MovieLens-1M, leave-last-out, by order alone")
  axis.legend(
    loc="center right", bbox_to_anchor=(1.0, 0.38), fontsize=9, frameon=False
  )
  return canvas


# ---- benchmarks ------------------------------------------------------------


def throughput(result: Result) -> Figure:
  """Tokens per second of every pair, a panel a loss, and peak memory."""
  losses = {
    label: result["losses"][loss]
    for loss, label in bench.LOSSES.items()
    if loss in result["losses"]
  }
  canvas, (*axes, memory) = panels(13, 3.9, len(losses) + 1)
  names = _names(result)
  fastest = 0.0
  for axis, (label, of) in zip(axes, losses.items(), strict=True):
    for pair in of["pairs"]:
      rates = [pair[s]["tokens"] / pair[s]["seconds"] / 1e3 for s in _SIDES]
      axis.plot([0, 1], rates, color=PALE, linewidth=0.8, zorder=1)
      axis.scatter([0, 1], rates, color=list(_SIDES.values()), s=22, zorder=3)
      fastest = max(fastest, *rates)
    for place, (side, color) in enumerate(_SIDES.items()):
      median = of["tokens_per_s"][side] / 1e3
      axis.hlines(median, place - 0.22, place + 0.22, color=color, linewidth=2)
      axis.annotate(
        f"{median:.1f}",
        (place + (-0.26, 0.26)[place], median),
        ha=("right", "left")[place],
        va="center",
        fontsize=9.5,
        color=color,
      )
    axis.set_xlim(-0.7, 1.7)
    axis.set_xticks([0, 1], list(names.values()))
    low, high = min(of["pair_ratios"]), max(of["pair_ratios"])
    headline(axis, f"{label}\n{of['ratio']:.1f} × ({low:.1f} to {high:.1f})")
  for axis in axes:  # one scale, so that losses compare, too
    axis.set_ylim(0, 1.06 * fastest)
    axis.set_ylabel("1,000 real tokens/s" if axis is axes[0] else "")
  bars = {
    names[side]: (
      color,
      [gib(of["peak_rss_bytes"][side]) for of in losses.values()],
    )
    for side, color in _SIDES.items()
  }
  _pairs_of_bars(
    memory, [label.replace(" ", "\n", 1) for label in losses], bars
  )
  memory.set_xlabel("GiB")
  headline(memory, "peak memory\n")
  return canvas


def time_to_quality(result: Result) -> Figure:
  """Validation NDCG@10 against each side's own training seconds."""
  canvas, (axis,) = panels(8, 4.4)
  names = _names(result)
  for side, color in _SIDES.items():
    curve = result["curves"][side]
    reached = result[f"{side}_s"]
    told = "not there yet" if reached is None else f"{reached:,.0f} s"
    axis.plot(
      [point["train_s"] for point in curve],
      [point["ndcg@10"] for point in curve],
      color=color,
      marker="o",
      markersize=3,
      linewidth=1.8,
      label=f"{names[side]}: {told}",
    )
    if reached is not None:
      axis.axvline(reached, color=color, linestyle=":", linewidth=1.2)
  axis.axhline(
    result["threshold"],
    color=INK,
    linestyle="--",
    linewidth=1.2,
    label=f"NDCG@10 = {result['threshold']:g}",
  )
  axis.set_xscale("log")
  axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
  axis.set_ylim(bottom=0)
  axis.set_xlabel("training seconds, compilation included, evaluation excluded")
  axis.set_ylabel("validation NDCG@10")
  canvas.legend(loc="outside lower center", ncols=3, fontsize=10, frameon=False)
  headline(axis, "MovieLens-1M: time to quality, an epoch a point")
  return canvas


def floor(result: Result) -> Figure:
  """Milliseconds of a step by part: at the machine's rates, and traced."""
  parts = result["parts"]
  canvas, (axis,) = panels(8, 0.55 * len(parts) + 1.5)
  bars = {
    "at the machine's rates": (PALE, [part["least_ms"] for part in parts]),
    "in the trace": (BLUE, [part["measured_ms"] for part in parts]),
  }
  _pairs_of_bars(axis, [_plain(part["part"]) for part in parts], bars)
  axis.set_xlabel("ms a step")
  axis.legend(loc="lower right", fontsize=9.5, frameon=False)
  headline(
    axis,
    f"a step takes {result['step_ms']:.0f} ms; its parts at the machine's"
    f" rates, {result['least_ms']:.0f} ms",
  )
  return canvas


def changes(result: Result) -> Figure:
  """What each change took off a step, one after another, from the plain form.

  Blue: milliseconds after the change; pale: what it saved (or cost, red).
  """
  ladder = result["changes"]
  canvas, (axis,) = panels(8, 0.45 * len(ladder) + 1.3)
  before = ladder[0]["step_ms"]
  for place, rung in enumerate(ladder):
    after = rung["step_ms"]
    saved = before - after
    axis.barh(place, min(before, after), 0.7, color=BLUE)
    axis.barh(
      place,
      abs(saved),
      0.7,
      left=min(before, after),
      color=PALE if saved > 0 else RED,
      alpha=0.55,
    )
    rate = f"{after:.0f} ms, {rung['tokens_per_s'] / 1e3:.1f} k tokens/s"
    _tell(axis, max(before, after), place, rate)
    before = after
  axis.set_yticks(range(len(ladder)), [rung["change"] for rung in ladder])
  axis.invert_yaxis()
  axis.set_xlim(0, 1.65 * max(rung["step_ms"] for rung in ladder))
  axis.grid(False, axis="y")
  axis.set_xlabel("ms a step (pale: what the change saved)")
  times = ladder[0]["step_ms"] / ladder[-1]["step_ms"]
  headline(axis, f"each change on top of those before it: {times:.1f} × in all")
  return canvas


def parts(result: Result) -> Figure:
  """Milliseconds of each hot part beside its plain twin."""
  measured = result["parts"]
  canvas, (axis,) = panels(8, 0.5 * len(measured) + 1.3)
  bars = {
    "fast form": (BLUE, [part["fast_ms"] for part in measured]),
    "plain twin": (PALE, [part["plain_ms"] for part in measured]),
  }
  _pairs_of_bars(axis, [_plain(part["part"]) for part in measured], bars)
  axis.set_xlabel("ms, forward and gradient")
  axis.legend(loc="lower right", fontsize=9.5, frameon=False)
  headline(axis, "parts of a step, each alone")
  return canvas


def evaluation(result: Result) -> Figure:
  """Seconds of every evaluation of all users, and of the first."""
  canvas, (axis,) = panels(8, 2.2)
  names = _names(result)
  for place, (side, color) in enumerate(_SIDES.items()):
    every = [pair[side]["seconds"] for pair in result["pairs"]]
    first = result["first"][side]["seconds"]
    axis.scatter(every, [place] * len(every), color=color, s=26)
    axis.scatter(first, place, facecolors="none", edgecolors=color, s=40)
    median = result[f"{side}_s"]
    axis.vlines(median, place - 0.25, place + 0.25, color=color, linewidth=2)
    axis.annotate(
      f"{median:.2f} s",
      (median, place - 0.3),
      ha="center",
      fontsize=9.5,
      color=color,
    )
  axis.set_yticks([0, 1], names.values())
  axis.set_ylim(1.5, -0.75)
  axis.set_xlim(left=0)
  axis.grid(False, axis="y")
  axis.set_xlabel("seconds (line: median; open: the first, with compilation)")
  headline(
    axis,
    f"evaluating {result['users']:,} users takes {result['ratio']:.2f} × the"
    " peer's time",
  )
  return canvas


def reading(result: Result) -> Figure:
  """Tokens per second of the input pipeline alone and of a training step."""
  turns = {"training step": result["step_turns"], **result["input_turns"]}
  facts = result["logs"]
  canvas, (axis,) = panels(8, 0.5 * len(turns) + 1.2)
  labels = []
  for place, (name, rates) in enumerate(turns.items()):
    color = GREEN if name in facts else BLUE
    median = statistics.median(rates)
    axis.scatter(rates, [place] * len(rates), color=color, s=22, zorder=3)
    axis.vlines(median, place - 0.25, place + 0.25, color=color, linewidth=2)
    times = f", {result['ratios'][name]:.0f} ×" if name in facts else ""
    _tell(axis, max(rates), place, f"{median / 1e3:,.0f} k{times}")
    labels.append(_log_label(name, facts.get(name)))
  axis.set_xscale("log")
  axis.set_yticks(range(len(turns)), labels)
  axis.set_ylim(len(turns) - 0.5, -0.5)
  every = [rate for rates in turns.values() for rate in rates]
  axis.set_xlim(min(every) / 2, 6 * max(every))
  axis.set_xlabel("tokens/s (line: median of the turns)")
  headline(axis, "batches read, with nothing else to do")
  return canvas


def prepare(result: Result) -> Figure:
  """Events per second and peak memory of `prepare` against a log's length."""
  canvas, axes = panels(10, 3.8, 2)
  sides = {"fmjax": ("fmjax", result["sizes"])}
  if result["peer"]:
    sides["peer"] = (_names(result)["peer"], result["peer"])
  for side, (name, lengths) in sides.items():
    done = [length for length in lengths if "seconds" in length]
    runs = [r for length in done for r in length["runs"] if "error" not in r]
    events = [length["events"] for length in done]
    rates = [length["events_per_s"] / 1e3 for length in done]
    peaks = [gib(length["peak_rss_bytes"]) for length in done]
    of_runs = (
      [run["events"] / run["seconds"] / 1e3 for run in runs],
      [gib(run["peak_rss_bytes"]) for run in runs],
    )
    color = _SIDES[side]
    for axis, medians, points in zip(
      axes, (rates, peaks), of_runs, strict=True
    ):
      axis.plot(events, medians, color=color, linewidth=1.8, label=name)
      axis.scatter([run["events"] for run in runs], points, color=color, s=16)
  for axis, label in zip(
    axes, ("1,000 events/s", "peak memory, GiB"), strict=True
  ):
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    ticks = [length["events"] for length in result["sizes"]]
    axis.set_xticks(ticks, [f"{count / 1e6:g} M" for count in ticks])
    axis.minorticks_off()
    axis.set_xlabel("events in the log")
    axis.set_ylabel(label)
  axes[0].legend(fontsize=9.5, frameon=False)
  headline(axes[0], "from Parquet to what trains")
  headline(axes[1], f"fmjax's engine limited to {result['memory_limit']}")
  return canvas


def choices(result: Result) -> Figure:
  """What remat and the activations' type cost in time, and save in memory."""
  shown = [
    ("remat", "step_ms", "ms a step", 1.0),
    ("remat", "temp_bytes", "MiB beside parameters and batch", 2.0**-20),
    ("dtype", "step_ms", "ms a step", 1.0),
  ]
  canvas, axes = panels(11, 2.4, 3)
  for axis, (choice, key, label, unit) in zip(axes, shown, strict=True):
    for place, row in enumerate(result[choice]):
      if row.get(key) is not None:
        axis.barh(place, unit * row[key], 0.6, color=BLUE)
        _tell(axis, unit * row[key], place, f"{unit * row[key]:.0f}")
    names = [row[choice] for row in result[choice]]
    axis.set_yticks(range(len(names)), names, fontsize=9.5)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.grid(False, axis="y")
    axis.set_xlabel(label)
  for axis, title in zip(
    axes, ("remat: time", "remat: memory", "activations: time"), strict=True
  ):
    headline(axis, title)
  return canvas


def attention(result: Result) -> Figure:
  """Milliseconds and memory of each attention against the row's length."""
  canvas, axes = panels(11, 4.2, 2)
  lengths = result["lengths"]
  windows = [row["window"] for row in lengths]
  drawn = {
    "full": (PALE, "full, with a bias of time"),
    "window": (GREEN, "window"),
  }
  colors = (BLUE, "#56B4E9", "#CC79A7")
  for n, rank in enumerate(result["ranks"]):
    legend = f"low rank, {rank} slots a block of {result['block']}"
    drawn[f"low_rank_{rank}"] = colors[n], legend
  for axis, key, scale, label in (
    (axes[0], "ms", 1.0, "forward and gradient of a row, ms"),
    (axes[1], "temp_bytes", 2**20, "temporary memory, MiB"),
  ):
    for name, (color, legend) in drawn.items():
      axis.plot(
        windows,
        [row[key][name] / scale for row in lengths],
        color=color,
        marker="o",
        label=legend,
      )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(windows, [f"{window:,}" for window in windows])
    axis.set_xlabel("positions of a row")
    axis.set_ylabel(label)
  headline(
    axes[0],
    f"{result['rank']} slots at 4,096:"
    f" {result['attention_speedup_4096']:.1f} × faster",
  )
  headline(axes[1], f"and {result['memory_ratio_4096']:.2f} of the memory")
  axes[1].text(
    0.98,
    0.03,
    f"{result['rank']} slots, a whole training step: a token in\nrows of 8,192"
    f" costs {result['cost_ratio_8192_1024']:.2f} × one in rows of 1,024",
    transform=axes[1].transAxes,
    ha="right",
    fontsize=9,
  )
  axes[0].legend(fontsize=9, frameon=False)
  return canvas


def panels(
  width: float, height: float, columns: int = 1
) -> tuple[Figure, list[Axes]]:
  """An empty figure (sizes in inches) and its panels, side by side."""
  canvas = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(canvas)
  axes = [canvas.add_subplot(1, columns, n + 1) for n in range(columns)]
  for axis in axes:
    axis.grid(True, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
      axis.spines[side].set_visible(False)
  return canvas, axes


def _pairs_of_bars(
  axis: Axes,
  labels: Sequence[str],
  bars: Mapping[str, tuple[str, Sequence[float | None]]],
) -> None:
  """Two bars a row, drawn top down; None leaves one out.

  Args:
    axis: the panel.
    labels: of the rows.
    bars: name: (color, values).
  """
  for shift, name in zip((-0.5, 0.5), bars, strict=True):
    color, values = bars[name]
    places = [place + shift * _BAR for place in range(len(values))]
    axis.barh(
      places, [value or 0 for value in values], _BAR, color=color, label=name
    )
    for place, value in zip(places, values, strict=True):
      if value is not None:
        _tell(axis, value, place, f"{value:.1f}")
  axis.set_yticks(range(len(labels)), labels)
  axis.invert_yaxis()
  axis.margins(x=0.12)
  axis.grid(False, axis="y")


def _tell(axis: Axes, x: float, y: float, text: str) -> None:
  """A value behind the end of its bar."""
  axis.annotate(
    text,
    (x, y),
    xytext=(5, 0),
    textcoords="offset points",
    va="center",
    fontsize=9,
    color=INK,
  )


def headline(axis: Axes, text: str) -> None:
  axis.set_title(text, loc="left", weight="bold", fontsize=12)


def _names(result: Result) -> dict[str, str]:
  """Both sides with their versions."""
  peer = bench.peer_facts(result)
  return {
    "fmjax": "fmjax",
    "peer": f"{peer['name']} {peer['version']}" if peer else "peer",
  }


def _plain(name: str) -> str:
  return name.replace("_", "-")


def _log_label(name: str, facts: Result | None) -> str:
  if facts is None:
    return name
  where = "in memory" if facts["in_memory"] else "on disk"
  return f"{facts['source']}, {facts['events'] / 1e6:.0f} M events, {where}"


def write(
  draw: Draw, result: Result, file: pathlib.Path | BinaryIO, **saving: Any
) -> None:
  """Draws and saves in this module's style; the same bytes every time."""
  with matplotlib.rc_context(_STYLE):
    draw(result).savefig(file, **saving)


def both(draw: Draw) -> Callable[[Result, pathlib.Path], None]:
  """Writes a PNG and an SVG beside it."""

  def save(result: Result, path: pathlib.Path) -> None:
    write(draw, result, path, dpi=160)
    write(draw, result, path.with_suffix(".svg"), metadata={"Date": None})

  return save


# Figure of a benchmark: its result, and the function that draws it.
BENCH: dict[str, tuple[str, Draw]] = {
  "throughput": ("train_throughput", throughput),
  "time_to_quality": ("time_to_quality", time_to_quality),
  "floor": ("floor", floor),
  "changes": ("floor", changes),
  "parts": ("parts", parts),
  "evaluation": ("evaluation", evaluation),
  "reading": ("input", reading),
  "prepare": ("prepare", prepare),
  "attention": ("attention", attention),
  "choices": ("floor", choices),
}
# Figure: what it is drawn from, and the function that writes it; that is given
# the results by their files' names.
PLOTS: dict[
  str, tuple[tuple[str, ...], Callable[[Result, pathlib.Path], None]]
] = {
  "quickstart": (("movietweetings/quickstart.json",), quickstart),
  "movielens_1m": (
    ("movielens_1m/reference.json", "movielens_1m/sasrec_ce.json"),
    both(movielens_1m),
  ),
}


def main() -> None:
  FIGURES.mkdir(parents=True, exist_ok=True)
  missing = []
  for name, (sources, draw) in PLOTS.items():
    path = FIGURES / f"{name}.png"
    absent = [s for s in sources if not (RESULTS / s).is_file()]
    if absent:
      missing += absent
      continue
    files = [RESULTS / source for source in sources]
    draw({file.stem: json.loads(file.read_text()) for file in files}, path)
    print(f"{path.relative_to(HERE.parent)} from results/{', '.join(sources)}")
  for name, (source, draw) in BENCH.items():
    path = FIGURES / f"{name}.png"
    result = bench.read(source)
    if result is None:
      print(f"no {path.name}: {bench.not_measured(source)}")
      continue
    both(draw)(result, path)
    print(f"{path.relative_to(HERE.parent)} from results/bench/{source}.json")
  if missing:
    raise SystemExit(
      f"analysis/results lacks {' and '.join(missing)}: check out the whole"
      " repository, or run the experiment again"
    )


if __name__ == "__main__":
  main()

"""The command line: what was asked, who does it, how it ended.

The only module that knows tyro. A verb is a dataclass: its fields are the
options, its docstring the help, what `run` returns the JSON object. Work and
heavy imports happen inside `run`, so that `fmjax --help` answers at once.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import shlex
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction, arg

from fmjax.cli import arguments, process
from fmjax.cli.terminal import Terminal
from fmjax.config import ConfigError
from fmjax.data.schema import DataError

_USAGE = """\
usage: fmjax VERB ... [--json] [--debug]

Trains and scales a foundation model for personalized recommendation.

{verbs}

To begin:
  fmjax doctor
  fmjax list experiments/quickstart.py
  fmjax sweep experiments/quickstart.py
  fmjax report runs/quickstart --out runs/quickstart
  fmjax train experiments/movielens_1m.py:sasrec_ce --run.steps 200

`fmjax VERB --help` tells a verb's options. Progress goes to stderr. With --json
the last line on stdout is one JSON object; with --debug an error brings its
traceback along.
Exit codes: 0 done, 2 wrong usage or configuration, 3 bad input data (also an
unknown source or option of prepare), 4 the run failed, 130 interrupted.\
"""


class Verb(Protocol):
  def run(self, terminal: Terminal) -> dict[str, Any]:
    """Does what was asked; the result is what --json prints."""
    ...


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb; the exit code."""
  words, flags = arguments.take_flags(
    sys.argv[1:] if argv is None else argv, ("--json", "--debug")
  )
  verb, as_json = words[0] if words else "", "--json" in flags
  if argv is None and verb in ("train", "sweep"):
    process.use_huge_pages()
  try:
    if verb in ("", "-h", "--help", "help"):
      print(_usage(), flush=True)
      return 0 if verb else 2
    arguments.check_verb(verb, list(VERBS))
    result = parse(verb, words[1:]).run(Terminal(json=as_json))
    if as_json:
      print(json.dumps(_finite(result)), flush=True)
  except BrokenPipeError:
    # Who reads (head, less) has seen enough; Python would flush again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    return _fail("interrupted", 130, as_json=as_json)
  except Exception as error:
    if "--debug" in flags:
      traceback.print_exc()
    # A sweep with a failed run has rows to show all the same.
    content = getattr(error, "content", {})
    code = _exit_code(error, verb)
    return _fail(_sentence(error), code, as_json=as_json, content=content)
  return 0


# ---- the verbs --------------------------------------------------------------

_File = Annotated[
  Positional[str],
  arg(metavar="FILE[:NAME]", help="An experiment file, or one of its entries."),
]
_Run = Annotated[
  Positional[pathlib.Path],
  arg(metavar="RUN", help="Its directory; the id may be left off."),
]
_Split = Literal["validation", "test"]
_Targets = Literal["first", "all"]
# Filled from `--dotted.path value`, which tyro does not see.
_Changes = Annotated[tuple[tuple[str, str], ...], Suppress]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
  """Raw log → cleaned, tokenized, split shards with a catalog and a manifest.

  For example:
    fmjax prepare movietweetings --out prepared/movietweetings
    fmjax prepare movielens --raw ml-1m.zip --out prepared/ml-1m
    fmjax prepare table --raw log.csv --mapping log.toml --out prepared/log

  Rows that cannot be used go to rejects.parquet with the reason.
  """

  source: Annotated[Positional[str], arg(metavar="SOURCE")]
  """movietweetings, kuairand-pure, movielens, movielens-sasrec, globo, table or
  synthetic."""
  out: pathlib.Path
  """Folder to write; one that was prepared the same way is kept."""
  raw: str = ""
  """The published folder, archive or file. Default: the log shipped with fmjax,
  else the folder of that name under FMJAX_DATA."""
  mapping: str = ""
  """Of a table: the TOML file that says what its columns mean."""
  granularity: Literal["event", "run"] = "event"
  """A token is one event, or a run of adjacent events on one item."""
  max_gap_s: int = 3_600
  """Most seconds between the events of a run."""
  split: Literal["temporal", "leave-last-out"] = "temporal"
  """Two cuts of one global clock, or each user's last tokens."""
  validation: float = 0.1
  """Share of the events in validation (temporal)."""
  test: float = 0.1
  """Share of the events in test (temporal)."""
  max_rejects: float = 0.001
  """Greatest share of unusable rows; above it nothing is written."""
  memory_limit: str = "2GB"
  """Of the engine, which spills to disk beyond."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import preparing
    from fmjax.data.prepare import prepare, source_from_name

    prepared = prepare(
      source_from_name(self.source, raw=self.raw, mapping=self.mapping),
      self.out,
      granularity=preparing.granularity_of(
        self.granularity, max_gap_s=self.max_gap_s
      ),
      split=preparing.split_of(
        self.split, validation=self.validation, test=self.test
      ),
      max_rejects=self.max_rejects,
      memory_limit=self.memory_limit,
      progress=preparing.progress(terminal),
    )
    return preparing.show(prepared, terminal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class List:
  """What the experiments of a file are: parameters, tokens, FLOPs, least time.

  For example:
    fmjax list experiments/quickstart.py
    fmjax list experiments/quickstart.py --model.layers 4
  """

  file: _File
  changes: _Changes = ()

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import listing
    from fmjax.cli.experiment_file import load

    return listing.describe(load(self.file, self.changes), terminal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Trains one experiment, or every one of a file; finished runs are kept.

  For example:
    fmjax train experiments/quickstart.py:d64 --run.steps 200 --run.seed 1
    fmjax train experiments/movielens_1m.py:sasrec_ce

  Any number or text of an experiment can be set by its path. SIGTERM saves and
  exits 0; the same command continues.
  """

  file: _File
  runs: pathlib.Path | None = None
  """Where runs go. Default: runs/<name of the file>."""
  profile: bool = False
  """Only trace a few steps, for TensorBoard."""
  changes: _Changes = ()

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import sweeping
    from fmjax.cli.experiment_file import load

    file = load(self.file, self.changes)
    do = sweeping.profile if self.profile else sweeping.train
    return do(file, sweeping.root_of(file.path, self.runs), terminal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
  r"""Ranks a split's targets by a run's selected step, beside the baselines.

  For example:
    fmjax evaluate runs/quickstart/d64 --split validation
    fmjax evaluate runs/quickstart/d64 --targets all --slices
    fmjax evaluate runs/surface/neutral-s0 runs/surface/neutral-s1 \
      --neutral surface
    fmjax evaluate runs/heads/genre-s0 --head genre

  Several runs are seeds of one experiment, whose answers are averaged.
  """

  places: Annotated[
    Positional[tuple[pathlib.Path, ...]],
    arg(
      metavar="RUN...",
      help="Directories of runs; ids may be left off.",
      help_behavior_hint="(required)",
    ),
  ]
  split: _Split = "test"
  """Whose targets."""
  targets: _Targets = "first"
  """The first target of each user, or all of them."""
  slices: bool = False
  """Also by length of the history and by how often the item was trained on."""
  neutral: Annotated[str, arg(metavar="NAME,...")] = ""
  """Once more without these request-time features, which the run was trained to
  do without (model.request=SometimesNeutral): as if shown anywhere."""
  head: str = ""
  """What else the model predicts: a target of `model.auxiliary`, or the
  attribute of `model.hierarchy`."""
  result: pathlib.Path | None = None
  """Also write the result to be committed: analysis/results/STUDY/NAME.json."""
  command: str = ""
  """What regenerates that result. Default: this command."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import evaluating

    if not self.places:
      raise ConfigError("fmjax evaluate lacks RUN; see fmjax evaluate --help")
    if self.command and self.result is None:
      raise ConfigError(
        "--command is kept in a result: give --result PATH, too"
      )
    if self.head and (self.slices or self.neutral):
      other = "--slices" if self.slices else "--neutral"
      raise ConfigError(
        f"{other} is of ranked items, and --head ranks none; leave one out"
      )
    seeds = evaluating.find(self.places)
    if self.result is not None:
      evaluating.require_committable(self.result, seeds)
    if self.head:
      found = evaluating.evaluate_head_of_runs(
        seeds,
        terminal,
        head=self.head,
        split=self.split,
        targets=self.targets,
      )
    else:
      found = evaluating.evaluate_runs(
        seeds,
        terminal,
        split=self.split,
        targets=self.targets,
        by_slice=self.slices,
        neutral=tuple(dict.fromkeys(filter(None, self.neutral.split(",")))),
      )
    if self.result is not None:
      evaluating.write_result(
        self.result, seeds, found, command=self.command or self._command()
      )
      terminal.say(f"written: {self.result}")
    return found

  def _command(self) -> str:
    words = ["fmjax", "evaluate", *map(str, self.places)]
    for option in ("split", "targets", "neutral", "head"):
      value = getattr(self, option)
      if value != getattr(Evaluate, option):
        words += [f"--{option}", value]
    words += ["--slices"] if self.slices else []
    return shlex.join([*words, "--result", str(self.result)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
  """Is one run better than another on the same users? Paired bootstrap.

  For example:
    fmjax compare runs/quickstart/d64 runs/quickstart/d16
    fmjax compare runs/quickstart/d64 popularity_7d_rolling --metric hr@10
  """

  first: _Run
  second: Annotated[Positional[pathlib.Path], arg(metavar="RUN|BASELINE")]
  """Another run of the same data, or the name of a baseline."""
  metric: str = "ndcg@10"
  """nll, mrr, hr@K or ndcg@K."""
  split: _Split = "test"
  """Whose targets."""
  targets: _Targets = "first"
  """The first target of each user, or all of them."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import runs

    return runs.compare_runs(
      self.first,
      self.second,
      terminal,
      metric=self.metric,
      split=self.split,
      targets=self.targets,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  r"""Trains every experiment of a file once; what is finished is kept.

  For example:
    fmjax sweep experiments/quickstart.py
    fmjax sweep experiments/quickstart.py --jobs 4
    fmjax sweep experiments/quickstart.py --status
    fmjax sweep experiments/quickstart.py --launcher slurm --jobs 16 \
      --slurm partition=gpu,hours=12,gpus=1,cpus=8

  A failed run is marked and the others go on. Killed, the same command
  continues.
  """

  file: _File
  runs: pathlib.Path | None = None
  """Where runs go. Default: runs/<name of the file>."""
  launcher: Literal["local", "slurm"] = "local"
  """Processes of this machine, or an array of jobs under Slurm."""
  jobs: int = 1
  """How many runs at once."""
  slurm: Annotated[str, arg(metavar="NAME=VALUE,...")] = ""
  """What a job needs: partition, account, qos, constraint, hours, cpus, gpus,
  memory_gb. One whose hours are up is saved and queued again."""
  status: bool = False
  """Only tell how each experiment stands, also while others train."""
  retry_failed: bool = False
  """Train failed runs again, from their last checkpoint."""
  changes: _Changes = ()

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import sweeping
    from fmjax.cli.experiment_file import load

    launcher = sweeping.launcher_of(
      self.launcher, jobs=self.jobs, options=self.slurm
    )
    file = load(self.file, self.changes)
    root = sweeping.root_of(file.path, self.runs)
    if self.status:
      return sweeping.status(file, root, terminal)
    return sweeping.sweep(
      file, root, terminal, launcher=launcher, retry_failed=self.retry_failed
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  r"""Fits a scaling law to columns of a CSV or Parquet table.

  For example:
    fmjax fit runs.csv --columns loss=test_nll,params=backbone
    fmjax fit runs.parquet --form power --columns metric=ndcg,flops=compute
    fmjax fit runs.parquet --form chinchilla --bootstrap 1000 \
      --columns loss=nll,params=n,tokens=d,cluster=trunk \
      --predict params=1e9,tokens=2e10 --where dataset=globo
    fmjax fit runs.parquet --form chinchilla --fitter varpro --hold-out 2 \
      --columns loss=nll,params=n,tokens=d

  The JSON object holds the parameters with standard errors and intervals, facts
  on convergence, predictions, and a checklist; of chinchilla also "allocation",
  how the best N and D grow with compute.
  """

  table: Annotated[Positional[pathlib.Path], arg(metavar="TABLE")]
  """A row a run."""
  columns: Annotated[str, arg(metavar="ROLE=COLUMN,...")]
  """loss (falls) or metric (rises); the inputs: params, tokens, unique, flops;
  cluster: runs of one trunk; negatives: their number, which must be one."""
  form: str = "power_offset"
  """power, power_offset, broken_power_1 or 2, quadratic (of one or two inputs),
  chinchilla, over_training (params, tokens), data_constrained (and unique)."""
  predict: UseAppendAction[tuple[str, ...]] = ()
  """A point at which the law is wanted, e.g. params=1e9; may be repeated."""
  optimum: UseAppendAction[tuple[str, ...]] = ()
  """A budget whose best run is wanted, e.g. compute=1e20 (6·N·D FLOPs), of
  data_constrained compute=1e20,unique=1e9; may be repeated."""
  delta: float = 1e-3
  """Of the Huber loss over log residuals."""
  where: UseAppendAction[tuple[str, ...]] = ()
  """Only rows with this value, COLUMN=VALUE; may be repeated."""
  bootstrap: int = 0
  """Refits to resampled points or clusters."""
  sensitivity: bool = False
  """Also fit under other choices: delta, outliers, loss space."""
  hold_out: Annotated[int, arg(metavar="K")] = 0
  """Without the K largest sizes (of compute, or of the first input), how well
  does the law predict them, beside the straight line and the parabola?"""
  fitter: str = "huber"
  """huber, or varpro: squares of relative residuals by variable projection, for
  power_offset of a loss, chinchilla and over_training."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import fitting

    return fitting.fit(
      self.table,
      self.form,
      arguments.pairs(self.columns, "--columns"),
      terminal,
      predict=self.predict,
      optimum=self.optimum,
      delta=self.delta,
      where=self.where,
      draws=self.bootstrap,
      vary=self.sensitivity,
      hold_out=self.hold_out,
      fitter=self.fitter,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  r"""The scaling figure, a Markdown table and JSON of finished runs.

  For example:
    fmjax report runs/quickstart --out runs/quickstart
    fmjax report runs/a/d16-* runs/a/d64-* --out report --figure ladder.png
    fmjax report runs/quickstart --out runs/quickstart \
      --figure analysis/figures/quickstart.png --command "make quickstart" \
      --result analysis/results/movietweetings/quickstart.json
    fmjax report experiments/ablate_age_gate.py --runs runs/ablations \
      --reference age_gate --out runs/ablations/ablate_age_gate \
      --result analysis/results/ablate_age_gate
    fmjax report experiments/mup_transfer.py --rates --out runs/mup_transfer

  With --reference the runs are arms of an ablation, called data-arm-sSEED: each
  is compared with that arm on the same users, seeds averaged. --result then
  names a folder: a file is called DATA_ARM.json there, and ARM.json in a folder
  that is named as the data are. Or a .json file, for all arms in one.

  An experiment file stands for its runs as it was last swept whole, with all
  their seeds; a sweep's folder for those of all files swept into it.
  """

  places: Annotated[
    Positional[tuple[pathlib.Path, ...]],
    arg(
      metavar="RUNS...",
      help="Runs, folders of runs, or experiment files.",
      help_behavior_hint="(required)",
    ),
  ]
  out: pathlib.Path
  """Folder for report.json, report.md, runs.parquet and evals.parquet."""
  figure: pathlib.Path | None = None
  """The PNG; an SVG goes beside it. Default: figure.png in the folder."""
  result: pathlib.Path | None = None
  """Also write the result to be committed: analysis/results/STUDY/NAME.json."""
  command: str = ""
  """What regenerates that result. Default: this command."""
  reference: str = ""
  """The arm that every other arm of an ablation is compared with."""
  rates: bool = False
  """The best learning rate by width, of runs of several of both."""
  records: bool = False
  """Only runs.parquet and evals.parquet, of runs of any kind."""
  runs: pathlib.Path | None = None
  """Where an experiment file's runs are. Default: runs/<name of the file>."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import reporting

    if not self.places:
      raise ConfigError("fmjax report lacks RUNS...; see fmjax report --help")
    if self.records:
      self._refuse_with_records()
      return reporting.write_records(
        self.places, self.out, terminal, runs=self.runs
      )
    if self.reference and self.rates:
      raise ConfigError(
        "--rates and --reference are two reports; leave one of them out"
      )
    if self.reference and self.figure:
      raise ConfigError(
        f"--figure {self.figure} is of a ladder; leave it out with --reference:"
        " `make figures` draws ablations from their results"
      )
    if self.reference:
      return reporting.report_arms(
        self.places,
        self.out,
        terminal,
        reference=self.reference,
        runs=self.runs,
        result=self.result,
        command=self.command,
      )
    show = reporting.report_rates if self.rates else reporting.report
    return show(
      self.places,
      self.out,
      self.figure,
      terminal,
      runs=self.runs,
      result=self.result,
      command=self.command,
    )

  def _refuse_with_records(self) -> None:
    for option in ("figure", "result", "command", "reference", "rates"):
      if getattr(self, option):
        raise ConfigError(
          f"--records writes two tables and nothing else; leave out --{option}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
  """Versions, devices, memory, the data sets found and what is missing."""

  def run(self, terminal: Terminal) -> dict[str, Any]:
    from fmjax.cli import doctor

    found = doctor.examine()
    doctor.show(found, terminal)
    return found


VERBS: dict[str, type[Verb]] = {
  "prepare": Prepare,
  "list": List,
  "train": Train,
  "evaluate": Evaluate,
  "compare": Compare,
  "sweep": Sweep,
  "fit": Fit,
  "report": Report,
  "doctor": Doctor,
}


# ---- how it begins and ends -------------------------------------------------


def parse(verb: str, words: Sequence[str]) -> Verb:
  """The verb with its options; nothing is run yet."""
  kind: Any = VERBS[verb]
  names = [field.name for field in dataclasses.fields(kind)]
  changes: tuple[tuple[str, str], ...] = ()
  if "changes" in names:
    words, changes = arguments.take_overrides(words)
  options = ["--" + name.replace("_", "-") for name in names]
  arguments.refuse_unknown_options(verb, words, options)
  complaint = io.StringIO()
  try:
    with contextlib.redirect_stderr(complaint):
      asked, unknown = tyro.cli(
        kind,
        prog=f"fmjax {verb}",
        args=list(words),
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
      )
  except SystemExit as end:
    if not end.code:  # --help
      raise
    raise ConfigError(
      arguments.one_sentence(verb, complaint.getvalue())
    ) from None
  if unknown:
    raise ConfigError(
      f"fmjax {verb} has no place for {unknown[0]!r}; see fmjax {verb} --help"
    )
  return dataclasses.replace(asked, changes=changes) if changes else asked


def _exit_code(error: Exception, verb: str) -> int:
  match error:
    case DataError():
      return 3
    case ConfigError():
      # What prepare cannot take is bad input, however it was given.
      return 3 if verb == "prepare" else 2
  return 4


def _sentence(error: Exception) -> str:
  if type(error).__module__.startswith("fmjax."):
    return str(error)  # our own errors are one sentence already
  return f"{type(error).__name__}: {error}; --debug shows where"


def _fail(
  sentence: str,
  code: int,
  *,
  as_json: bool,
  content: Mapping[str, Any] = types.MappingProxyType({}),
) -> int:
  print(f"error: {sentence}", file=sys.stderr, flush=True)
  if as_json:
    told = {**content, "error": sentence, "exit_code": code}
    print(json.dumps(_finite(told)), flush=True)
  return code


def _finite(tree: Any) -> Any:
  """JSON has neither NaN nor infinity: null."""
  match tree:
    case dict():
      return {key: _finite(value) for key, value in tree.items()}
    case list() | tuple():
      return [_finite(value) for value in tree]
    case float() if not math.isfinite(tree):
      return None
    case pathlib.Path():
      return str(tree)
  return tree


def _usage() -> str:
  width = max(map(len, VERBS))
  return _USAGE.format(
    verbs="\n".join(
      f"  {verb:{width}}  {(kind.__doc__ or '').strip().splitlines()[0]}"
      for verb, kind in VERBS.items()
    )
  )


if __name__ == "__main__":
  sys.exit(main())

"""From a data set's name to its prepared directory."""

import dataclasses
import os
import pathlib
from typing import Any

from fmjax.config import (
  ConfigError,
  DataConfig,
  Globo,
  Granularity,
  KuaiRandPure,
  MovieLens,
  MovieLensSasrec,
  MovieTweetings,
  Source,
  Split,
  Synthetic,
  Table,
  content_hash,
  suggest,
  validate_split,
)
from fmjax.data import pipeline
from fmjax.data.held_out import hold_out
from fmjax.data.log import Log
from fmjax.data.manifest import (
  MANIFEST,
  made_from,
  read_manifest,
  schema_to_dict,
)
from fmjax.data.pipeline import Progress
from fmjax.data.readers import (
  globo,
  kuairand,
  movielens,
  movietweetings,
  synthetic,
  table,
)
from fmjax.data.schema import DataError
from fmjax.data.store import Prepared, open_prepared
from fmjax.data.workspace import engine, in_one_sentence, scratch_beside

SOURCES: dict[str, type] = {
  "movietweetings": MovieTweetings,
  "kuairand-pure": KuaiRandPure,
  "movielens": MovieLens,
  "movielens-sasrec": MovieLensSasrec,
  "globo": Globo,
  "table": Table,
  "synthetic": Synthetic,
}

_DEFAULTS = DataConfig()


def source_from_name(name: str, *, raw: str = "", mapping: str = "") -> Source:
  """The configuration of a data set by its name on the command line.

  Raises:
    ConfigError: the name is unknown, or takes no such option.
  """
  if name not in SOURCES:
    raise ConfigError(f"unknown source {name!r}" + suggest(name, list(SOURCES)))
  kind = SOURCES[name]
  given = {k: v for k, v in {"raw": raw, "mapping": mapping}.items() if v}
  known = [field.name for field in dataclasses.fields(kind)]
  for option, value in given.items():
    if option not in known:
      raise ConfigError(
        f"source {name!r} takes no --{option} {value}; leave it out"
      )
  return kind(**given)


def read_source(source: Source, connection: Any) -> Log:
  """The log of a source, by its reader."""
  match source:
    case MovieTweetings():
      return movietweetings.read(source, connection)
    case KuaiRandPure():
      return kuairand.read(source, connection)
    case MovieLens():
      return movielens.read(source, connection)
    case MovieLensSasrec():
      return movielens.read_sasrec(source, connection)
    case Globo():
      return globo.read(source, connection)
    case Table():
      return table.read(source, connection)
    case Synthetic():
      return synthetic.read(source, connection)


def source_files(source: Source) -> tuple[pathlib.Path, ...]:
  """The files that the reader of a source would read; nothing is read."""
  match source:
    case MovieTweetings():
      return movietweetings.files(source)
    case KuaiRandPure():
      return kuairand.files(source)
    case MovieLens():
      return movielens.files(source)
    case MovieLensSasrec():
      return movielens.sasrec_files(source)
    case Globo():
      return globo.files(source)
    case Table():
      return table.files(source)
    case Synthetic():
      return synthetic.files(source)


def prepared_dir(data: DataConfig) -> pathlib.Path:
  """Where the prepared data of a configuration is kept, present or not.

  The name changes with every choice, with the raw files and with the code of
  fmjax/data, so what is found there is never stale.
  """
  root = os.environ.get("FMJAX_CACHE")
  parent = pathlib.Path(root) if root else pathlib.Path("runs/prepared")
  with in_one_sentence(parent):
    files = source_files(data.source)
    choices = made_from(data.source, files, data.granularity, data.split)
  name = next(n for n, k in SOURCES.items() if isinstance(data.source, k))
  return parent / f"{name}-{content_hash(choices)}"


def ensure_prepared(
  data: DataConfig, *, progress: Progress | None = None
) -> Prepared:
  """The data of a configuration, prepared now if they are not yet."""
  path = prepared_dir(data)
  if path.exists():
    return hold_out(open_prepared(path), data.held_out)
  prepared = prepare(
    data.source,
    path,
    granularity=data.granularity,
    split=data.split,
    progress=progress,
  )
  return hold_out(prepared, data.held_out)


def prepare(
  source: Source,
  out: pathlib.Path | str,
  *,
  granularity: Granularity = _DEFAULTS.granularity,
  split: Split = _DEFAULTS.split,
  max_rejects: float = 0.001,
  memory_limit: str = "2GB",
  progress: Progress | None = None,
) -> Prepared:
  """Prepares a data set into `out`, or keeps `out` if it is that already.

  Args:
    source: which log.
    out: the directory to make.
    granularity: what becomes one token.
    split: what is held out.
    max_rejects: largest tolerated share of unusable rows.
    memory_limit: of the engine; beyond it, it spills beside `out`.
    progress: called with a stage and a count.

  Raises:
    ConfigError: an option is out of its range.
    DataError: the log cannot be used, or `out` holds something else. Nothing is
      left behind.
  """
  out = pathlib.Path(out)
  _validate(granularity, split, max_rejects)
  with in_one_sentence(out):
    files = source_files(source)
    # Before the log is read, which may take long.
    choices = made_from(source, files, granularity, split)
    kept = _kept(out, choices, progress)
    if kept:
      return kept
    with (
      scratch_beside(out) as scratch,
      engine(scratch, memory_limit) as connection,
    ):
      return prepare_log(
        read_source(source, connection),
        out,
        source=source,
        granularity=granularity,
        split=split,
        max_rejects=max_rejects,
        progress=progress,
      )


def prepare_log(
  log: Log,
  out: pathlib.Path | str,
  *,
  source: Source | None = None,
  granularity: Granularity = _DEFAULTS.granularity,
  split: Split = _DEFAULTS.split,
  max_rejects: float = 0.001,
  progress: Progress | None = None,
) -> Prepared:
  """As `prepare`, for a log that is already on an engine's connection."""
  out = pathlib.Path(out)
  _validate(granularity, split, max_rejects)
  choices = {
    **made_from(source, log.files, granularity, split),
    "schema": schema_to_dict(log.schema),
  }
  kept = _kept(out, choices, progress)
  if kept:
    return kept
  with in_one_sentence(out), scratch_beside(out) as scratch:
    target = scratch / "prepared"
    target.mkdir()
    pipeline.run(
      log,
      target,
      choices=choices,
      granularity=granularity,
      split=split,
      max_rejects=max_rejects,
      report=progress or (lambda stage, count: None),
    )
    try:
      target.rename(out)
    except OSError:
      # Another process was faster; what it wrote must be the same.
      if not (out / MANIFEST).is_file():
        raise
      return _keep(out, choices)
  return open_prepared(out)


def _validate(
  granularity: Granularity, split: Split, max_rejects: float
) -> None:
  validate_split(granularity, split)
  if not 0 <= max_rejects <= 1:
    raise ConfigError(f"max_rejects={max_rejects} is not a share in [0, 1]")


def _kept(
  out: pathlib.Path, choices: dict[str, Any], progress: Progress | None
) -> Prepared | None:
  """What is there already; None if there is nothing."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return None
  kept = _keep(out, choices)
  if progress:
    progress("already prepared", len(kept.index))
  return kept


def _keep(out: pathlib.Path, choices: dict[str, Any]) -> Prepared:
  """Opens `out` if it was made by the same choices."""
  if not (out / MANIFEST).is_file():
    raise DataError(
      f"{out} exists and is not a prepared directory; choose another --out or"
      " remove it"
    )
  made_by = read_manifest(out)
  for key, value in choices.items():
    if made_by.get(key) != value:
      raise DataError(
        f"{out} was prepared with another {key} ({_short(made_by.get(key))}"
        f" instead of {_short(value)}); choose another --out or remove it"
      )
  return open_prepared(out)


def _short(value: Any) -> str:
  text = str(value)
  return text if len(text) <= 80 else text[:77] + "…"

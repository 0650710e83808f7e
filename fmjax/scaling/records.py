"""What became of runs, as two tables, and results that are committed.

`runs.parquet` has a row a run, `evals.parquet` a row a measured value. Both are
compacted from run directories: `config.json` and `metrics.jsonl` (train),
`status.json` and `result.json` (launch.py).
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fmjax
from fmjax import config as config_lib
from fmjax.data.schema import DataError
from fmjax.scaling import validator
from fmjax.scaling.validator import PARTS
from fmjax.train.log import read_metrics

FLOPS = ("six_nd", "model", "xla")


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
  return pa.field(name, kind, metadata={"unit": unit} if unit else None)


RUNS = pa.schema(
  [
    _field("run_id", pa.string()),
    _field("experiment", pa.string()),  # the sweep's folder
    _field("name", pa.string()),
    _field("state", pa.string()),
    _field("seed", pa.int64()),
    _field("config_hash", pa.string()),
    # Runs that branch off one another share it: they are no separate luck.
    _field("trunk", pa.string()),
    *(_field(name, pa.int64()) for name in ("width", "layers", "heads")),
    _field("window", pa.int64(), "positions"),
    _field("rows", pa.int64(), "of a batch"),
    _field("learning_rate", pa.float64()),
    *(
      _field(f"params_{part}", pa.int64(), "parameters")
      for part in (*PARTS, "total")
    ),
    _field("tokens", pa.int64(), "targets trained on"),
    _field("unique_tokens", pa.int64(), "distinct targets trained on"),
    _field("epochs", pa.float64()),
    _field("users", pa.int64()),
    _field("items", pa.int64()),
    *(_field(f"flops_{way}", pa.float64(), "FLOPs") for way in FLOPS),
    _field("item_bytes", pa.int64(), "bytes of item tables a step"),
    _field("steps", pa.int64()),
    _field("selected_step", pa.int64()),
    # Of a branch with what it shares.
    _field("train_s", pa.float64(), "s"),
    _field("wall_s", pa.float64(), "s"),
    _field("data_checksum", pa.string()),
    _field("code_hash", pa.string()),
    _field("device", pa.string()),
  ]
)
EVALS = pa.schema(
  [
    _field("run_id", pa.string()),
    _field("step", pa.int64()),
    _field("tokens", pa.int64(), "targets trained on"),
    _field("split", pa.string()),
    _field("slice", pa.string()),  # "all", "history:5-19", "item:0"
    _field("metric", pa.string()),
    _field("k", pa.int64()),
    _field("targets", pa.string()),  # of each user: "first" or "all"
    _field("queries", pa.int64()),
    # That an nll is taken over; 0: the whole catalog. Counts never mix.
    _field("negatives", pa.int64()),
    _field(
      "value", pa.float64(), "nll: nats; others: shares, or relative to 1"
    ),
    _field("standard_error", pa.float64(), "as value, over users"),
    _field("ci_low", pa.float64()),
    _field("ci_high", pa.float64()),
  ]
)


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """None if it is absent or was cut while written."""
  try:
    return json.loads(path.read_text())
  except (FileNotFoundError, ValueError):
    return None


def write_json(path: pathlib.Path, tree: Mapping[str, Any]) -> None:
  """Whole or not at all: a kill leaves the old file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  text = json.dumps(finite(tree), indent=2, ensure_ascii=False)
  partial.write_text(text + "\n")
  os.replace(partial, path)


def finite(tree: Any) -> Any:
  """JSON has no NaN: what is not known is null."""
  if isinstance(tree, Mapping):
    return {key: finite(value) for key, value in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [finite(value) for value in tree]
  if isinstance(tree, (float, np.floating)):
    return float(tree) if np.isfinite(tree) else None
  if isinstance(tree, np.integer):
    return int(tree)
  return tree


@functools.cache  # what was imported is what runs, whatever is edited since
def code_hash(parts: tuple[str, ...] = ("data", "model", "train")) -> str:
  """Of the sources of fmjax in `parts`, by relative path and content.

  Args:
    parts: folders or single modules, such as "scaling/count.py".
  """
  package = pathlib.Path(fmjax.__file__).parent
  digest = hashlib.sha256()
  for part in parts:
    place = package / part
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
      digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
      digest.update(path.read_bytes() + b"\0")
  return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
  """Of Python and of the libraries that numbers depend on."""
  names = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "grain")
  return {
    "fmjax": fmjax.__version__,
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in names},
  }


def device() -> str:
  """`1 × cpu (x86_64, 2 cores)`, `8 × NVIDIA H100`."""
  found = jax.devices()
  kind = found[0].device_kind
  if found[0].platform == "cpu":
    kind = f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
  return f"{len(found)} × {kind}"


def config_hash(tree: Mapping[str, Any]) -> str:
  """Of a configuration without its seed: runs that differ by luck alone."""
  same = config_lib.identity(config_lib.from_dict(dict(tree)))
  return config_lib.content_hash({**same, "seed": None})


def runs_table(run_dirs: Iterable[pathlib.Path]) -> pa.Table:
  """A row a run; what an unfinished run does not know yet is null."""
  rows = []
  for run_dir in run_dirs:
    status = read_json(run_dir / "status.json") or {}
    result = read_json(run_dir / "result.json") or {}
    config = result.get("config") or read_json(run_dir / "config.json")
    params, flops = result.get("params", {}), result.get("flops", {})
    rows.append(
      {
        "run_id": status.get("run_id"),
        "experiment": run_dir.resolve().parent.name,
        "name": status.get("name"),
        "state": status.get("state"),
        "seed": config["run"]["seed"] if config else None,
        "config_hash": config_hash(config) if config else None,
        **(_choices(config) if config else {}),
        "items": (result.get("catalog") or {}).get("items"),
        "item_bytes": (result.get("item_bytes") or {}).get("total"),
        **{f"params_{part}": params.get(part) for part in (*PARTS, "total")},
        **{f"flops_{way}": flops.get(way) for way in FLOPS},
        "steps": config["run"]["steps"] if config else None,
        **{
          key: result.get(key)
          for key in (
            "trunk",
            "tokens",
            "unique_tokens",
            "epochs",
            "users",
            "selected_step",
            "train_s",
            "wall_s",
            "data_checksum",
            "code_hash",
            "device",
          )
        },
      }
    )
  return pa.Table.from_pylist(rows, schema=RUNS)


def _choices(config: Mapping[str, Any]) -> dict[str, Any]:
  """What ladders differ in."""
  model, data = config["model"], config["data"]
  return {
    **{name: model[name] for name in ("width", "layers", "heads")},
    **{name: data[name] for name in ("window", "rows")},
    "learning_rate": config["optim"]["learning_rate"],
  }


def evals_table(run_dirs: Iterable[pathlib.Path]) -> pa.Table:
  """A row a value: validation at each step, validation and test as selected."""
  rows: list[dict[str, Any]] = []
  for run_dir in run_dirs:
    run_id = (read_json(run_dir / "status.json") or {}).get("run_id")
    result = read_json(run_dir / "result.json") or {}
    of = {
      "run_id": run_id,
      "targets": (result.get("catalog") or {}).get("targets"),
      "negatives": 0,
    }
    tokens = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
      if "tokens" in record:
        tokens[record["step"]] = int(record["tokens"])
      values = {
        name.partition("/")[2]: value
        for name, value in record.items()
        if name.startswith("validation/")
      }
      values["queries"] = (result.get("validation") or {}).get("queries")
      place = {"step": record["step"], "slice": "all", "split": "validation"}
      rows += _values({**of, **place, "tokens": record.get("tokens")}, values)
    if not result:
      continue
    step = result["selected_step"]
    of |= {"step": step, "tokens": tokens.get(step), "split": "test"}
    rows += _values({**of, "slice": "all"}, result["test"])
    for kind, parts in result.get("slices", {}).items():
      for name, values in parts.items():
        rows += _values({**of, "slice": f"{kind}:{name}"}, values)
  return pa.Table.from_pylist(rows, schema=EVALS)


_NORMAL_95 = 1.96  # standard errors in half a 95 % interval


def _values(
  place: Mapping[str, Any], values: Mapping[str, Any]
) -> list[dict[str, Any]]:
  rows = []
  for name, value in values.items():
    if name.endswith("_ci") or name in ("queries", "users") or value is None:
      continue
    metric, _, k = name.partition("@")
    low, high = values.get(f"{name}_ci") or (None, None)
    error = None
    if low is not None and high is not None:
      error = (high - low) / (2 * _NORMAL_95)
    rows.append(
      {
        **place,
        "metric": metric,
        "k": int(k) if k else None,
        "queries": values.get("queries"),
        "value": value,
        "standard_error": error,
        "ci_low": low,
        "ci_high": high,
      }
    )
  return rows


def write_tables(
  run_dirs: Sequence[pathlib.Path], out: pathlib.Path, *, together: bool = True
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `runs.parquet` and `evals.parquet`.

  Args:
    run_dirs: of the runs.
    out: where to.
    together: see `validator.problems`.

  Raises:
    DataError: the tables are unfit for analysis; names the first reason.
  """
  runs, evals = runs_table(run_dirs), evals_table(run_dirs)
  if found := validator.problems(runs, evals, together=together):
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise DataError(
      f"the records under {out} cannot be analyzed: {found[0]}{more};"
      " run that experiment again"
    )
  out.mkdir(parents=True, exist_ok=True)
  paths = out / "runs.parquet", out / "evals.parquet"
  pq.write_table(runs, paths[0])
  pq.write_table(evals, paths[1])
  return paths


_RESULT_NAME = re.compile(r"[a-z0-9_]+")

RESULT_KEYS = (
  "command",
  "config",
  "seed",
  "code_hash",
  "data_checksum",
  "versions",
  "selected_step",
  "validation",
  "test",
  "baselines",
  "wall_s",
  "device",
)


def require_result_name(path: pathlib.Path) -> None:
  """Raises: ConfigError if no committed result is called so."""
  if not _RESULT_NAME.fullmatch(path.stem) or path.suffix != ".json":
    raise config_lib.ConfigError(
      f"a committed result is called <study>/<name>.json in lower case, digits"
      f" and _, not {path.name}"
    )


def write_result(
  path: pathlib.Path,
  *,
  command: str,
  result: Mapping[str, Any],
  baselines: Mapping[str, Any],
  extra: Mapping[str, Any] | None = None,
) -> None:
  """Commits a result: `analysis/results/<study>/<name>.json`.

  Args:
    path: where to.
    command: regenerates it.
    result: of a run, its `result.json`.
    baselines: their metrics on the same queries.
    extra: further content, such as a report's.
  """
  require_result_name(path)
  content = {**result, "command": command, "baselines": baselines}
  if missing := [key for key in RESULT_KEYS if key not in content]:
    raise DataError(
      f"the result for {path} lacks {', '.join(missing)}; run `{command}` again"
    )
  ordered = {key: content[key] for key in RESULT_KEYS}
  rest = {key: value for key, value in content.items() if key not in ordered}
  write_json(path, {**ordered, **rest, **(extra or {})})

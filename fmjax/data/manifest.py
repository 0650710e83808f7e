"""The manifest of a prepared directory, and the checksums in it."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fmjax.config import Granularity, Source, Split, content_hash, to_dict
from fmjax.data.schema import DataError, Feature, Kind, Schema, When

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """The manifest of a prepared directory, its own checksum verified."""
  file = path / MANIFEST
  if not file.is_file():
    raise DataError(
      f"{path} is not a prepared directory (it has no {MANIFEST}); make one"
      " with `fmjax prepare SOURCE --out DIR`"
    )
  try:
    manifest = json.loads(file.read_text(encoding="utf-8"))
    version = manifest["format_version"]
    stated = manifest.pop("manifest_checksum", None)
  except (ValueError, TypeError, KeyError, AttributeError):
    raise damaged(path, f"{MANIFEST} is not the JSON that was written") from (
      None
    )
  if version != FORMAT_VERSION:
    raise DataError(
      f"{path} has format version {version}, this fmjax reads"
      f" {FORMAT_VERSION}; delete the folder and prepare the log again"
    )
  if stated != content_hash(manifest):
    raise damaged(path, f"{MANIFEST} differs from its checksum")
  return manifest


def write_manifest(path: pathlib.Path, manifest: dict[str, Any]) -> None:
  whole = {**manifest, "manifest_checksum": content_hash(manifest)}
  text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
  (path / MANIFEST).write_text(text, encoding="utf-8")


def damaged(path: pathlib.Path, what: str) -> DataError:
  return DataError(
    f"{path} is damaged: {what}; delete the folder and prepare the log again"
  )


def file_entries(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Size and checksum of each file of a folder."""
  return {
    file.name: {"bytes": file.stat().st_size, "sha256": file_hash(file)}
    for file in sorted(folder.iterdir())
  }


def file_hash(file: pathlib.Path) -> str:
  with file.open("rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def made_from(
  source: Source | None,
  files: tuple[pathlib.Path, ...],
  granularity: Granularity,
  split: Split,
) -> dict[str, Any]:
  """All that decides the content of a prepared directory."""
  where = ("raw", "mapping")  # the files' content counts, not their place
  described = to_dict(source) if source else {}
  return {
    "format_version": FORMAT_VERSION,
    "code_hash": _code_hash(),
    "source": {k: v for k, v in described.items() if k not in where},
    "granularity": to_dict(granularity),
    "split": to_dict(split),
    # Pairs: two of the files may have one name.
    "raw_files": [[file.name, _raw_hash(file)] for file in files],
  }


def _raw_hash(file: pathlib.Path) -> str:
  status = file.stat()
  return _hash_of(file.absolute(), status.st_size, status.st_mtime_ns)


@functools.cache
def _hash_of(file: pathlib.Path, size: int, changed_ns: int) -> str:
  """A large log is hashed once a process, unless it changes."""
  del size, changed_ns  # they are the key
  return file_hash(file)


def _code_hash() -> str:
  """Of the sources that decide what is written."""
  folder = pathlib.Path(__file__).parent
  digest = hashlib.sha256()
  for file in sorted(folder.rglob("*.py")):
    digest.update(file.relative_to(folder).as_posix().encode())
    digest.update(file.read_bytes())
  return digest.hexdigest()[:12]


def content_digest(
  *,
  records: str,
  tables: Sequence[pa.Table],
  arrays: Sequence[np.ndarray],
  encoding: dict[str, Any],
) -> str:
  """Of what a model sees, whatever the file formats and their versions."""
  digest = hashlib.sha256(records.encode())
  for table in tables:
    for part in _table_bytes(table):
      digest.update(part)
  for array in arrays:
    digest.update(array.tobytes())
  digest.update(content_hash(encoding).encode())
  return digest.hexdigest()


def _table_bytes(table: pa.Table) -> Iterator[bytes]:
  """Not Arrow's own buffers: what lies under a null in them is arbitrary."""
  for name, column in zip(table.column_names, table.columns, strict=True):
    yield name.encode()
    if pa.types.is_integer(column.type) and not column.null_count:
      yield column.to_numpy().tobytes()
    else:
      yield json.dumps(column.to_pylist()).encode()


def schema_to_dict(schema: Schema) -> dict[str, Any]:
  """JSON-ready."""
  return json.loads(json.dumps(dataclasses.asdict(schema)))


def schema_from_dict(tree: dict[str, Any]) -> Schema:
  """The inverse of `schema_to_dict`."""

  def features(name: str) -> tuple[Feature, ...]:
    return tuple(
      Feature(**{**f, "kind": Kind(f["kind"]), "when": When(f["when"])})
      for f in tree[name]
    )

  return Schema(
    **{
      **tree,
      "features": features("features"),
      "metadata": features("metadata"),
      "target_actions": tuple(tree["target_actions"]),
    }
  )

"""Where a log is prepared: a scratch folder, an engine, errors in words."""

import contextlib
import errno
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import duckdb
import ibis

from fmjax.config import ConfigError
from fmjax.data.schema import DataError


@contextlib.contextmanager
def scratch_beside(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A hidden folder beside `out`, gone at the end, whatever happens.

  Beside it, so that what is finished there can be renamed to `out` in one step.
  """
  missing = [p for p in out.absolute().parents if not p.exists()]
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)
  except OSError as error:
    raise DataError(
      f"{out} cannot be made ({error.strerror}); choose another --out"
    ) from None
  try:
    yield pathlib.Path(folder)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
    for parent in missing:
      with contextlib.suppress(OSError):  # not empty: something was written
        parent.rmdir()


# A number other than zero and its unit.
_SIZE = re.compile(r"(?=.*[1-9])\d+(\.\d+)? ?[KMGT]i?B", re.IGNORECASE)


@contextlib.contextmanager
def engine(scratch: pathlib.Path, memory_limit: str) -> Iterator[Any]:
  """DuckDB on a file, so that tables may be larger than memory."""
  if not _SIZE.fullmatch(memory_limit):
    raise ConfigError(
      f"memory_limit={memory_limit!r} is no size; give it as in '2GB'"
    )
  try:
    connection = ibis.duckdb.connect(
      scratch / "engine.duckdb",
      memory_limit=memory_limit,
      temp_directory=str(scratch / "spilled"),
    )
  except duckdb.Error as error:
    raise ConfigError(
      f"memory_limit={memory_limit!r} is refused by DuckDB"
      f" ({one_line(error)}); give it as in '2GB'"
    ) from None
  try:
    yield connection
  finally:
    connection.disconnect()


@contextlib.contextmanager
def in_one_sentence(out: pathlib.Path) -> Iterator[None]:
  """A full disk, a short memory or a locked file, for who ran the command."""
  try:
    yield
  except (OSError, RuntimeError, duckdb.Error) as error:
    text = one_line(error)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full or "No space left" in text or "max_temp_directory_size" in text:
      raise DataError(
        f"the disk of {out} is full ({text}); what was unfinished is removed:"
        " free some space or choose another --out"
      ) from None
    if isinstance(error, duckdb.OutOfMemoryException):
      raise DataError(
        f"the engine ran out of memory ({text}); raise --memory-limit"
      ) from None
    if isinstance(error, PermissionError):
      raise DataError(
        f"{error.filename} may not be opened (permission denied); change its"
        " permissions"
      ) from None
    raise


def one_line(error: BaseException) -> str:
  """What a library says, less line breaks and its advice to programmers."""
  text = " ".join(str(error).split())
  for advice in (" (computed", " This limit was set", " Possible solutions"):
    text = text.partition(advice)[0]
  return text.rstrip(".")

"""Published files, wherever and however packed, as plain UTF-8 on disk.

A log may lie in a folder, a zip or a tar, its files compressed with xz or gzip.
DuckDB reads plain files out of core, so whatever is packed (or in another
encoding) is written once to a temporary folder that lives as long as the
connection. Every byte is checked on the way: an error names file and line here,
instead of surfacing in the middle of a query.
"""

import codecs
import contextlib
import dataclasses
import fnmatch
import gzip
import hashlib
import lzma
import os
import pathlib
import shutil
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from fmjax.data.schema import DataError

_CHUNK = 1 << 20  # bytes
_COMPRESSED = (".xz", ".gz")
_DAMAGED = (
  EOFError,
  lzma.LZMAError,
  gzip.BadGzipFile,
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
)


def data_root() -> pathlib.Path:
  """Where downloaded data sets are looked for."""
  default = pathlib.Path.home() / ".cache" / "fmjax"
  return pathlib.Path(os.environ.get("FMJAX_DATA") or default)


def shipped_root() -> pathlib.Path:
  """The logs that come with a source checkout."""
  return pathlib.Path(__file__).resolve().parents[3] / "third_party"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawFiles:
  """The files of one published data set.

  Attributes:
    root: the folder, or the archive, or the one file named by the user.
    names: path of each file inside the root; a name is looked up by its last
      part, so that archives with or without a top folder both work.
    given: the member that the user named, if it was one plain file.
  """

  root: pathlib.Path
  names: tuple[str, ...]
  given: str = ""

  def find(self, *patterns: str) -> list[str]:
    """Members whose file name, less .xz or .gz, matches, sorted by name."""
    return [
      name
      for pattern in patterns
      for name in self.names
      if fnmatch.fnmatchcase(plain_name(name), pattern)
    ]

  def require(self, *patterns: str, publisher: str) -> list[str]:
    """As `find`, for files without which there is nothing to read."""
    found = self.find(*patterns)
    if not found:
      raise DataError(
        f"{self.root} holds no {' or '.join(patterns)}; download the data set"
        f" from {publisher} and give its folder or archive with --raw"
      )
    return found

  def given_or(self, *patterns: str, publisher: str) -> list[str]:
    """The file that the user named, whatever its name, else as `require`."""
    if self.given:
      return [self.given]
    return self.require(*patterns, publisher=publisher)

  def one(self, *patterns: str, publisher: str) -> str:
    """As `given_or`, where two files would be two logs."""
    found = self.given_or(*patterns, publisher=publisher)
    if len(found) > 1:
      raise DataError(
        f"{self.root} holds {' and '.join(found)}; give the file that is meant"
        " with --raw"
      )
    return found[0]

  def paths(self, names: Iterable[str]) -> tuple[pathlib.Path, ...]:
    """What holds the members, for the checksum: an archive is one file."""
    if self.root.is_file():
      return (self.root,)
    return tuple(self.root / name for name in names)

  def open(
    self,
    name: str,
    connection: Any,
    *,
    encoding: str = "utf-8",
  ) -> pathlib.Path:
    """A plain UTF-8 copy of a member, or the member itself if it is one.

    Raises DataError for truncated archives and bytes not in `encoding`.

    Args:
      name: of the member.
      connection: a copy is removed with it.
      encoding: of the member.
    """
    place = self.place(name)
    source = self.root if self.root.is_file() else self.root / name
    packed = self.root.is_file() and _archive(self.root) is not None
    plain = not packed and not name.endswith(_COMPRESSED)
    self._verify(name)
    if plain and name.endswith(".parquet"):
      return source
    if plain and encoding == "utf-8":
      with source.open("rb") as stream:
        for _ in _checked(stream, encoding=encoding, place=place):
          pass
      return source
    target = scratch_of(connection) / plain_name(name)
    try:
      with self._stream(name) as stream, target.open("wb") as out:
        if name.endswith(".parquet"):
          shutil.copyfileobj(stream, out, _CHUNK)
        else:
          for text in _checked(stream, encoding=encoding, place=place):
            out.write(text.encode())
    except _DAMAGED as error:
      raise DataError(
        f"{place} is truncated or damaged ({error}); download it again"
      ) from None
    except RuntimeError as error:  # zipfile's, of a password or a method
      raise DataError(
        f"{place} cannot be unpacked ({error}); unpack it and give the folder"
      ) from None
    return target

  def _verify(self, name: str) -> None:
    """Compares with SHA256SUMS, if it lies beside the file."""
    sums = self.root / "SHA256SUMS"
    if not sums.is_file():
      return
    for line in sums.read_text().splitlines():
      digest, _, listed = line.partition(" ")
      # "*" marks a binary file, as if that made a difference.
      if listed.lstrip(" *").removeprefix("./") == name:
        with (self.root / name).open("rb") as stream:
          found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
          raise DataError(
            f"{self.root / name} has the checksum {found[:12]}…, not"
            f" {digest[:12]}… of {sums.name}; restore the file"
          )

  def place(self, name: str) -> str:
    """How an error names a member."""
    if not self.root.is_file() or _archive(self.root) is None:
      return name
    return f"{name} in {self.root.name}"

  @contextlib.contextmanager
  def _stream(self, name: str) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
      if self.root.is_dir():
        stream = stack.enter_context((self.root / name).open("rb"))
      elif _archive(self.root) == "zip":
        archive = stack.enter_context(zipfile.ZipFile(self.root))
        stream = stack.enter_context(archive.open(name))
      else:
        archive = stack.enter_context(tarfile.open(self.root))
        stream = archive.extractfile(name)
        if stream is None:
          raise DataError(f"{self.place(name)} is no file; repack the archive")
        stack.enter_context(stream)
      if name.endswith(".xz"):
        stream = stack.enter_context(lzma.open(stream))
      elif name.endswith(".gz"):
        stream = stack.enter_context(gzip.open(stream))
      yield stream


def locate(raw: str | pathlib.Path, *, publisher: str) -> RawFiles:
  """The files at `raw`: a folder, a zip or tar archive, or one file.

  For one file that is no archive, its folder is taken: a log rarely comes
  without the tables beside it.
  """
  root = pathlib.Path(raw).expanduser()
  given = ""
  if not root.exists():
    raise DataError(
      f"{root} does not exist; download the data set from {publisher} and give"
      " its folder or archive with --raw"
    )
  if root.is_file() and _archive(root) is None:
    root, given = root.parent, root.name
  if root.is_dir():
    names = [
      path.relative_to(root).as_posix()
      for path in root.glob("*")
      if path.is_file()
    ]
    # One folder down, as archives unpack; deeper would mix up data sets.
    nested = [
      path.relative_to(root).as_posix()
      for path in root.glob("*/*")
      if path.is_file()
    ]
    names = sorted(names) + sorted(nested)
  else:
    names = _members(root)
  return RawFiles(root=root, names=tuple(names), given=given)


def one_file(path: pathlib.Path) -> tuple[RawFiles, str]:
  """A single file or an archive that holds one, and its member's name."""
  if _archive(path) is None:
    names = (path.name,)
    root = path.parent
  else:
    names, root = tuple(_members(path)), path
    if len(names) != 1:
      raise DataError(
        f"{path} holds {len(names)} files where one is expected; unpack it and"
        " give the file that is meant"
      )
  return RawFiles(root=root, names=names), names[0]


def scratch_of(connection: Any) -> pathlib.Path:
  """A new temporary folder, removed with the connection.

  It lies beside the engine's own file if it has one: where there is room.
  """
  query = "FROM duckdb_databases() SELECT path WHERE NOT internal LIMIT 1"
  ((file,),) = connection.con.sql(query).fetchall()
  parent = pathlib.Path(file).parent if file else None
  scratch = pathlib.Path(tempfile.mkdtemp(prefix="fmjax-", dir=parent))
  weakref.finalize(connection, shutil.rmtree, scratch, ignore_errors=True)
  return scratch


def plain_name(name: str) -> str:
  """The file's own name, less .xz or .gz."""
  name = name.rsplit("/", 1)[-1]
  for suffix in _COMPRESSED:
    name = name.removesuffix(suffix)
  return name


def _archive(path: pathlib.Path) -> str | None:
  """ "zip", "tar" or None, by the name: a truncated archive has no magic."""
  name = path.name.lower()
  if name.endswith(".zip"):
    return "zip"
  if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz")):
    return "tar"
  return None


def _members(path: pathlib.Path) -> list[str]:
  try:
    if _archive(path) == "zip":
      with zipfile.ZipFile(path) as archive:
        names = [i.filename for i in archive.infolist() if not i.is_dir()]
    else:
      with tarfile.open(path) as archive:
        names = [member.name for member in archive if member.isfile()]
  except _DAMAGED as error:
    raise DataError(
      f"{path} is truncated or damaged ({error}); download it again"
    ) from None
  # macOS adds a shadow of every file.
  return sorted(name for name in names if "__MACOSX" not in name)


def _checked(stream: Any, *, encoding: str, place: str) -> Iterator[str]:
  """The text in chunks; raises at the first byte that is not `encoding`."""
  decoder = codecs.getincrementaldecoder(encoding)()
  lines = 0
  final = False
  while not final:
    data = stream.read(_CHUNK)
    final = not data
    try:
      text = decoder.decode(data, final)
    except UnicodeDecodeError as error:
      lines += error.object[: error.start].count(b"\n")
      byte = error.object[error.start]
      raise DataError(
        f"{place}, line {lines + 1}: byte 0x{byte:02x} is not"
        f" {encoding.upper()}; convert the file, e.g. iconv -f LATIN1 -t UTF-8"
      ) from None
    lines += text.count("\n")
    yield text

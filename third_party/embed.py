"""Makes the logs that ship with fmjax from the files their publishers offer.

  python third_party/embed.py movietweetings --raw PATH
  python third_party/embed.py kuairand-pure --raw PATH

PATH is the folder or archive as published. Only the columns that the reader
uses are kept, row for row and in the published order. Numbers are stored as
such where that gives back the very same text, so that the reader delivers the
same events from either. Writes <name>.parquet for each table and SHA256SUMS.
"""

import argparse
import hashlib
import pathlib

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmjax.data.readers import kuairand, movietweetings, raw

_READERS = {"movietweetings": movietweetings, "kuairand-pure": kuairand}
_FEW_VALUES = 4_096  # a dictionary of these is smaller than differences


def embed(name: str, raw_path: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes one log's tables and their checksums to `folder`."""
  reader = _READERS[name]
  connection = ibis.duckdb.connect()
  files = raw.locate(raw_path, publisher=reader.PUBLISHER)
  folder.mkdir(parents=True, exist_ok=True)
  sums = []
  for stem, table in reader.tables(files, connection).items():
    columns = table.order_by("row").drop("row").to_pyarrow()
    columns = pa.table({c: _compact(columns[c]) for c in columns.column_names})
    path = folder / f"{stem}.parquet"
    _write(columns, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.append(f"{digest}  {path.name}\n")
    print(f"{path}: {columns.num_rows:,} rows, {path.stat().st_size:,} bytes")
  (folder / "SHA256SUMS").write_text("".join(sums))


def _compact(text: pa.ChunkedArray) -> pa.ChunkedArray:
  """As int64 or float64 if that gives back the very same text."""
  for kind in (pa.int64(), pa.float64()):
    try:
      numbers = text.cast(kind)
    except pa.ArrowInvalid:
      continue
    back = numbers.cast(pa.string())
    if kind == pa.float64():
      # Arrow writes 1 where the publishers, and DuckDB, write 1.0.
      back = pc.binary_join_element_wise(back, ".0", "")
    if back.equals(text.cast(pa.string())):
      return numbers
  return text.cast(pa.string())


def _write(columns: pa.Table, path: pathlib.Path) -> None:
  few = [
    name
    for name in columns.column_names
    if pc.count_distinct(columns[name]).as_py() <= _FEW_VALUES
    or columns[name].type == pa.string()
  ]
  pq.write_table(
    columns,
    path,
    compression="zstd",
    compression_level=22,
    row_group_size=columns.num_rows,
    data_page_size=1 << 24,
    use_dictionary=few,
    dictionary_pagesize_limit=1 << 24,
    column_encoding={
      name: "DELTA_BINARY_PACKED"
      for name in columns.column_names
      if name not in few and columns[name].type == pa.int64()
    },
    version="2.6",
  )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("name", choices=sorted(_READERS))
  parser.add_argument("--raw", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path)
  arguments = parser.parse_args()
  folder = arguments.out or pathlib.Path(__file__).parent / arguments.name
  embed(arguments.name, arguments.raw, folder)


if __name__ == "__main__":
  main()

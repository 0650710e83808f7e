"""The process that trains: its memory, and programs compiled before."""

import hashlib
import os
import pathlib
import platform
import sys

_VARIABLE = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
  """Starts this process again with malloc on huge pages, where Linux has them.

  On CPU, XLA asks malloc for the memory of every step and gives it back after
  it; to get it in pages of 4 KiB took a fifth of a training step. The C library
  reads its setting at the start of a process only. One that is set already,
  whatever it says, is kept.
  """
  if sys.platform != "linux" or _VARIABLE in os.environ:
    return
  os.environ[_VARIABLE] = _HUGE_PAGES
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_compiled() -> pathlib.Path:
  """Keeps compiled programs, so that the next process need not compile them.

  They lie in "compiled" in the folder `FMJAX_CACHE`, or in runs/compiled, apart
  for each kind of processor: a program made for one may not run on another.
  The folder stays what it is now, wherever the process goes later.
  """
  import jax  # slow, and not every verb needs it

  root = pathlib.Path(os.environ.get("FMJAX_CACHE") or "runs").absolute()
  folder = root / "compiled" / _processor()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  return folder


def _processor() -> str:
  """Eight digits that differ where the instructions do."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  kinds = {line for line in lines if line.startswith(("flags", "Features"))}
  text = "\n".join([platform.machine(), *sorted(kinds)])
  return hashlib.sha256(text.encode()).hexdigest()[:8]

"""What the process of a run sees to before it trains."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from fmjax.cli import process

SCRIPT = """
import os, sys
from fmjax.cli import process
process.use_huge_pages()
print(os.environ["GLIBC_TUNABLES"], *sys.argv[1:])
"""


def run_script(tmp_path, **environment: str) -> str:
  path = tmp_path / "script.py"
  path.write_text(SCRIPT)
  kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  done = subprocess.run(
    [sys.executable, "-u", str(path), "--json", "a b"],
    env={**kept, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_a_process_starts_again_with_huge_pages_and_its_own_words(tmp_path):
  assert run_script(tmp_path) == "glibc.malloc.hugetlb=1 --json a b"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_a_setting_of_the_user_is_kept(tmp_path):
  said = run_script(tmp_path, GLIBC_TUNABLES="glibc.malloc.perturb=0")
  assert said == "glibc.malloc.perturb=0 --json a b"


def test_a_program_compiled_once_is_found_again(tmp_path, monkeypatch):
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path))
  script = """
import jax
from fmjax.cli import process
print(process.keep_compiled())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x @ x.T)(jax.numpy.ones((3, 3))).block_until_ready()
"""

  def compiled() -> list[tuple[str, int]]:
    done = subprocess.run(
      [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path))
    files = sorted(tmp_path.rglob("*-cache"))
    return [(path.name, path.stat().st_mtime_ns) for path in files]

  first = compiled()
  assert first
  assert compiled() == first


def test_compiled_programs_of_another_processor_lie_elsewhere(monkeypatch):
  one = process.keep_compiled()
  monkeypatch.setattr(process.platform, "machine", lambda: "another")
  assert process.keep_compiled() != one


@pytest.mark.parametrize("cache", [None, "cache"])
def test_compiled_programs_stay_where_the_process_began(
  tmp_path, monkeypatch, cache
):
  monkeypatch.chdir(tmp_path)
  if cache is None:
    monkeypatch.delenv("FMJAX_CACHE", raising=False)
  else:
    monkeypatch.setenv("FMJAX_CACHE", cache)
  process.keep_compiled()
  monkeypatch.chdir("/")
  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
  assert folder.is_relative_to(tmp_path)

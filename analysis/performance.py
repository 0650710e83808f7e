"""What performance.ipynb shows: a benchmark's figure or table.

Where nobody has run the benchmark, a sentence says what runs it.
"""

import dataclasses
import io
from collections.abc import Callable

from analysis import bench, plots, tables

_DPI = 80  # the outputs are committed; the figures proper lie in figures/


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
  """Something that a notebook knows how to show, one of two ways.

  Attributes:
    about: in place of what cannot be shown.
    markdown: a table or a sentence.
    png: a figure.
  """

  about: str
  markdown: str | None = None
  png: bytes | None = None

  def __repr__(self) -> str:
    return self.about

  def _repr_markdown_(self) -> str | None:
    return self.markdown

  def _repr_png_(self) -> bytes | None:
    return self.png


def figure(name: str) -> Shown:
  """A figure by its name in `plots.BENCH`."""
  source, draw = plots.BENCH[name]
  result = bench.read(source)
  if result is None:
    return _absent(source)
  file = io.BytesIO()
  plots.write(draw, result, file, dpi=_DPI)
  return Shown(about=_question(draw), png=file.getvalue())


def table(name: str) -> Shown:
  """A table by its name in `tables.BENCH`."""
  source, make = tables.BENCH[name]
  result = bench.read(source)
  if result is None:
    return _absent(source)
  return Shown(about=_question(make), markdown=make(result))


def results() -> Shown:
  """All results, and those that there are not."""
  text = tables.measured(bench.read_all())
  return Shown(about=_question(tables.measured), markdown=text)


def _absent(source: str) -> Shown:
  sentence = bench.not_measured(source)
  return Shown(about=sentence, markdown=sentence)


def _question(function: Callable[..., object]) -> str:
  return (function.__doc__ or "").splitlines()[0]

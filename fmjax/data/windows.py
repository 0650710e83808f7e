"""Histories as batches: random access by step, through Grain.

`training_batches(...)[t]` is a pure function of (seed, t). The plan of which
window goes where is packing.py's; here the tokens are put in place, a whole
batch at a time, by indexing columns in which all histories follow one another.
"""

import dataclasses
import functools
from typing import Literal

import grain
import numpy as np

from fmjax.config import (
  ChronologicalLast,
  ConfigError,
  EqualWeights,
  Recency,
  RecencyWeighted,
  UniformRecency,
  Weighting,
)
from fmjax.data.batch import Array, Batch
from fmjax.data.decoded import (
  Histories,
  histories,
  target_tokens,
  training_targets,
)
from fmjax.data.held_out import untargeted
from fmjax.data.packing import Packed, pack, query_windows
from fmjax.data.recency import OrderedAtLast, in_time_order, weighing
from fmjax.data.row_stream import RowStream
from fmjax.data.schema import DataError, DataSpec, Encoded, Kind, When
from fmjax.data.store import Prepared
from fmjax.data.weighting import importance_weighing, training_importance

_UNIFORM = UniformRecency()
_EQUAL = EqualWeights()


def training_batches(
  prepared: Prepared,
  *,
  window: int,
  stride: int,
  rows: int,
  seed: int,
  recency: Recency = _UNIFORM,
  weighting: Weighting = _EQUAL,
  steps: int | None = None,
  outcomes: tuple[str, ...] = (),
  process_index: int = 0,
  process_count: int = 1,
) -> grain.MapDataset[Batch]:
  """Endless: element t is this process's share of the rows of step t.

  Args:
    prepared: the log; its tokens before the cut are read.
    window: positions of a row.
    stride: most targets of a window.
    rows: of all processes together.
    seed: of the order and of the phases of the windows.
    recency: how the latest tokens count more.
    weighting: which targets are more important.
    steps: of the run; `ChronologicalLast` counts back from them.
    outcomes: post-action features of the targets that losses ask for.
    process_index: which share.
    process_count: of how many.

  Raises:
    ConfigError: `recency` needs times and the log has only an order, or
      `weighting` reads what the log has not.
  """
  lengths = _training_lengths(prepared)
  stream = RowStream(
    lengths,
    window=window,
    stride=stride,
    rows=rows,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
  )
  if not isinstance(recency, UniformRecency) and not prepared.schema.timed:
    raise ConfigError(
      f"data.recency={recency} needs real times and {prepared.schema.source}"
      " has only an order; use UniformRecency()"
    )
  plain = functools.partial(
    _for_training,
    prepared=prepared,
    window=window,
    weighting=weighting,
    outcomes=outcomes,
  )
  match recency:
    case UniformRecency():
      return plain(stream)
    case RecencyWeighted(half_life_days=half_life_days):
      return plain(stream).map(
        weighing(prepared, half_life_days=half_life_days)
      )
    case ChronologicalLast(share=share):
      if steps is None:
        raise ValueError(f"{recency} needs the number of steps")
      ordered = in_time_order(
        prepared, lengths, window=window, stride=stride, seed=seed
      )
      return plain(OrderedAtLast(stream, ordered, share=share, steps=steps))


def evaluation_batches(
  prepared: Prepared,
  *,
  split: Literal["validation", "test"],
  targets: Literal["first", "all"],
  window: int,
  rows: int,
) -> grain.MapDataset[Batch]:
  """Every query of a split once; `weight_bt` is 1 there and 0 elsewhere.

  Queries are the split's target tokens: of each user the first, or all. Context
  is the whole history before, of whatever split. The last batch is filled up
  with empty rows.
  """
  index = prepared.index
  first, end = {
    "validation": (index.validation_start, index.validation_end),
    "test": (index.test_start, index.tokens),
  }[split]
  user, token = target_tokens(histories(prepared), first, end)
  if not len(user):
    raise DataError(
      f"the {split} split holds no target token; use a longer log, or a larger"
      f" data.split.{split}"
    )
  user, begins = np.unique(user, return_index=True)
  first = token[begins]
  if targets == "first":
    end = first + 1
  else:
    end = 1 + token[np.append(begins[1:], len(token)) - 1]
  windows = query_windows(user, first, end, window=window)
  packed = pack(windows, capacity=window, rng=None)
  return _batches(_Pages(packed, rows), prepared, window=window)


def batch_iterator(
  dataset: grain.MapDataset[Batch], *, start: int = 0, ahead: int = 4
) -> grain.DatasetIterator[Batch]:
  """Batches from step `start` on; one thread prepares `ahead` of them.

  `get_state()` is {"next_index": the step of the next batch}, and
  `set_state` of it continues there, in this process or another. One thread,
  because the work holds Python's lock for most of its time.
  """
  reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
  iterator = iter(dataset.to_iter_dataset(reading))
  iterator.set_state({"next_index": start})
  return iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochFacts:
  """What one epoch costs.

  Attributes:
    windows: parts of histories.
    rows: that they are packed into.
    positions: of those rows, padding included.
    filled: positions that hold a token.
    tokens: training targets; the same in every epoch.
  """

  windows: int
  rows: int
  positions: int
  filled: int
  tokens: int

  @property
  def packing_efficiency(self) -> float:
    return self.filled / self.positions


def epoch_facts(
  prepared: Prepared,
  *,
  window: int,
  stride: int,
  seed: int,
  weighting: Weighting = _EQUAL,
  epoch: int = 0,
) -> EpochFacts:
  lengths = _training_lengths(prepared)
  stream = RowStream(lengths, window=window, stride=stride, rows=1, seed=seed)
  packed = stream.epoch(epoch)
  return EpochFacts(
    windows=len(packed.windows),
    rows=packed.rows,
    positions=packed.rows * window,
    filled=int(packed.windows.length.sum()),
    tokens=tokens_per_epoch(prepared, weighting),
  )


def _training_lengths(prepared: Prepared) -> np.ndarray:
  """Training tokens of each user, up to the last who has any.

  Users follow their first token, so those first seen after the cut are last:
  without them, nothing after the cut changes what is drawn before it.
  """
  return np.trim_zeros(prepared.index.train_end, "b")


def tokens_per_epoch(prepared: Prepared, weighting: Weighting = _EQUAL) -> int:
  """Training targets: tokens before the cut whose action is a target.

  Those of items that are held out are none, nor are those of no importance.
  """
  if not isinstance(weighting, EqualWeights):
    return int(np.count_nonzero(training_importance(prepared, weighting)))
  if not prepared.schema.target_actions and not prepared.held_out_v.any():
    return int(prepared.index.train_end.sum(dtype=np.int64))
  user, _ = training_targets(prepared)
  return len(user)


class _Pages:
  """A finite plan, `rows` at a time; a Grain source."""

  def __init__(self, packed: Packed, rows: int):
    self._packed, self._rows = packed, rows

  def __len__(self) -> int:
    return -(-self._packed.rows // self._rows)

  def __repr__(self) -> str:
    return f"_Pages(packed_rows={self._packed.rows}, rows={self._rows})"

  def __getitem__(self, index: int) -> Packed:
    return self._packed.part(index * self._rows, (index + 1) * self._rows)


def _for_training(
  source: RowStream | OrderedAtLast,
  prepared: Prepared,
  *,
  window: int,
  outcomes: tuple[str, ...],
  weighting: Weighting,
) -> grain.MapDataset[Batch]:
  batches = _batches(source, prepared, window=window, outcomes=outcomes)
  held_out_v = prepared.held_out_v
  if held_out_v.any():
    batches = batches.map(functools.partial(untargeted, held_out_v=held_out_v))
  if not isinstance(weighting, EqualWeights):
    batches = batches.map(importance_weighing(prepared, weighting))
  return batches


def _batches(
  source: RowStream | OrderedAtLast | _Pages,
  prepared: Prepared,
  *,
  window: int,
  outcomes: tuple[str, ...] = (),
) -> grain.MapDataset[Batch]:
  put = functools.partial(
    assemble,
    histories=histories(prepared),
    spec=prepared.spec,
    window=window,
    outcomes=outcomes,
  )
  return grain.MapDataset.source(source).map(put)


# ---- tokens in their places ----------------------------------------------


def assemble(
  packed: Packed,
  *,
  histories: Histories,
  spec: DataSpec,
  window: int,
  outcomes: tuple[str, ...] = (),
) -> Batch:
  """The batch of `packed` rows of `window` positions."""
  windows, length = packed.windows, packed.windows.length
  columns, first = histories.read(windows.user)
  of = np.repeat(np.arange(len(windows)), length)
  place = np.arange(len(of)) - np.repeat(np.cumsum(length) - length, length)
  token = windows.start[of] + place
  cell = (packed.row * window + packed.offset)[of] + place
  shape = (packed.rows, window)

  def spread(values: np.ndarray, dtype: type) -> np.ndarray:
    full = np.zeros(packed.rows * window, dtype)
    full[cell] = values
    return full.reshape(shape)

  # Column row 0 is blank: padding, and what came before a history's start.
  here = spread(first[of] + token, np.int64)
  before = spread(np.where(token > 0, first[of] + token - 1, 0), np.int64)
  asked = spread(token >= windows.first_target[of], np.float32)
  request: dict[str, Array] = {
    encoded.feature.name: columns[encoded.feature.name].take(here, axis=0)
    for encoded in spec.known_at(When.REQUEST)
  }
  post_action = {
    encoded.feature.name: _column_names(encoded)
    for encoded in spec.known_at(When.POST_ACTION)
  }
  previous: dict[str, Array] = {
    name: columns[name].take(before, axis=0)
    for names in post_action.values()
    for name in names
  }
  outcome: dict[str, Array] = {
    name: columns[name].take(here, axis=0)
    for outcome_name in outcomes
    for name in post_action[outcome_name]
  }
  return Batch(
    item_bt=columns["item"].take(here),
    weight_bt=columns["target"].take(here) * asked,
    segment_bt=spread(packed.segment[of], np.int32),
    position_bt=spread(place, np.int32),
    time_bt=columns["start_s"].take(here),
    user_bt=spread(windows.user[of], np.int32),
    index_bt=spread(token, np.int32),
    request=request,
    previous={
      "item": columns["item"].take(before),
      "time": columns["start_s"].take(before),
      **previous,
    },
    outcome=outcome,
  )


def _column_names(encoded: Encoded) -> list[str]:
  name = encoded.feature.name
  return [name, f"{name}_count"] if encoded.feature.kind is Kind.BAG else [name]

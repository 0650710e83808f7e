"""Which tokens are for training, validation and testing."""

import dataclasses
from typing import Any

import ibis

from fmjax.config import LeaveLastOut, Split, TemporalSplit
from fmjax.data.schema import DataError, Schema

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
# Begins on one side of a cut and ends on the other, or lies between the targets
# that leave-last-out holds out: context for what follows, a target in no part.
CROSSING = "crossing"
PARTS = (TRAIN, VALIDATION, TEST, CROSSING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
  """Microseconds since 1970: train < validation_us ≤ validation < test_us."""

  validation_us: int
  test_us: int


def find_cuts(
  events: ibis.Table, split: TemporalSplit, *, schema: Schema, connection: Any
) -> Cuts:
  """The times at which the last shares of the *events* begin.

  Raises:
    DataError: the log has no real times, or too few different ones.
  """
  if not schema.timed:
    raise DataError(
      f"{schema.source} has no timestamps, only an order, so it cannot be"
      " split at a time; use split = LeaveLastOut()"
    )
  count = connection.to_pyarrow(events.count()).as_py()
  in_time = events.select("timestamp").order_by("timestamp")

  def at_share(share: float) -> int:
    # Rounded before it is floored: 1 - 0.1 - 0.1 times 10 is 7.99…
    place = int(round(share * count, 6))
    row = in_time.limit(1, offset=min(place, count - 1))
    return connection.to_pyarrow(row)["timestamp"][0].as_py()

  cuts = Cuts(
    validation_us=at_share(1 - split.validation - split.test),
    test_us=at_share(1 - split.test),
  )
  first = connection.to_pyarrow(in_time.limit(1))["timestamp"][0].as_py()
  if not first < cuts.validation_us < cuts.test_us:
    raise DataError(
      f"the {count} events of {schema.source} cannot be cut at shares"
      f" validation={split.validation} and test={split.test}: too many of them"
      " share a timestamp; use larger shares or split = LeaveLastOut()"
    )
  return cuts


def assign(tokens: ibis.Table, split: Split, cuts: Cuts | None) -> ibis.Table:
  """Tokens with a `split` column; `cuts` are those of a temporal split.

  Raises:
    ValueError: a temporal split without cuts.
  """
  match split:
    case TemporalSplit():
      if cuts is None:
        raise ValueError("a temporal split needs its cuts: call find_cuts")
      return tokens.mutate(
        split=ibis.cases(
          (_.end_us < cuts.validation_us, TRAIN),
          (
            (_.start_us >= cuts.validation_us) & (_.end_us < cuts.test_us),
            VALIDATION,
          ),
          (_.start_us >= cuts.test_us, TEST),
          else_=CROSSING,
        )
      )
    case LeaveLastOut():
      return _leave_last_out(tokens)


def _leave_last_out(tokens: ibis.Table) -> ibis.Table:
  """The last *target* is test, the one before it validation.

  Other tokens after the validation target are context of the test at most:
  those between the two cross, those after the test target end the history.
  """
  user = ibis.window(group_by="user_id")
  to_end = ibis.cumulative_window(
    group_by="user_id", order_by=[ibis.desc("start_us"), ibis.desc("row")]
  )
  is_target: Any = tokens.target.cast("int64")
  ranked: Any = tokens.mutate(
    in_history=is_target.sum().over(user),
    from_end=is_target.sum().over(to_end),  # targets from here on
  )
  return ranked.mutate(
    split=ibis.cases(
      (_.in_history < 3, TRAIN),
      (_.from_end == 0, TEST),
      (_.target & (_.from_end == 1), TEST),
      (_.from_end == 1, CROSSING),
      (_.target & (_.from_end == 2), VALIDATION),
      else_=TRAIN,
    )
  ).drop("from_end", "in_history")

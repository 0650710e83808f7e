"""Events become tokens: adjacent actions on one item are merged, or not."""

from typing import Any

import ibis

from fmjax.config import EventTokens, Granularity, RunTokens
from fmjax.data.schema import Feature, Kind, Schema, When

# Deferred column access; Ibis' own annotation refuses it as an argument.
_: Any = ibis._

_US = 1_000_000


def tokenize(
  events: ibis.Table, schema: Schema, granularity: Granularity
) -> ibis.Table:
  """Tokens of clean events, in no particular order.

  Args:
    events: as `clean` leaves them.
    schema: declares the features.
    granularity: what is merged.

  Returns:
    user_id, item_id, row (of the first event; (start_us, row) is the order of a
    history), start_us and end_us (of the first and the last event), duration_ms
    (float, sum, null if none is known), event_count, action (array, distinct,
    sorted) and action_count, target (some event's action is a target) and
    target_us (when the first of those began, else null), then the declared
    features: a request-time feature is the first event's, a post-action feature
    the mean over events if numeric, else the last event's.
  """
  match granularity:
    case EventTokens():
      return _event_tokens(events, schema)
    case RunTokens():
      return _run_tokens(events, schema, granularity.max_gap_s * _US)


def _is_target(action: Any, schema: Schema) -> Any:
  """Of each row; a column even where every event is a target."""
  actions = list(schema.target_actions)
  return action.isin(actions) | (ibis.literal(not actions) & action.notnull())


def _event_tokens(events: ibis.Table, schema: Schema) -> ibis.Table:
  return events.select(
    "user_id",
    "item_id",
    "row",
    start_us=_.timestamp,
    end_us=_.timestamp,
    duration_ms=_.duration_ms.cast("float64"),
    event_count=ibis.literal(1, "int64"),
    action=ibis.array([_.action]),
    action_count=ibis.array([ibis.literal(1, "int64")]),
    target=_is_target(_.action, schema),
    target_us=_is_target(_.action, schema).ifelse(_.timestamp, None),
    **{f.name: _[f.name] for f in schema.features},
  )


def _run_tokens(
  events: ibis.Table, schema: Schema, max_gap_us: int
) -> ibis.Table:
  in_order = ibis.window(group_by="user_id", order_by=["timestamp", "row"])
  apart = (_.item_id.lag() != _.item_id) | (
    _.timestamp - _.timestamp.lag() > max_gap_us
  )
  next_apart = (_.item_id.lead() != _.item_id) | (
    _.timestamp.lead() - _.timestamp > max_gap_us
  )
  marked = events.mutate(
    seq=ibis.row_number().over(in_order),
    begins=apart.over(in_order).fill_null(True),
    _ends=next_apart.over(in_order).fill_null(True),
  )
  # Most runs are one event, which needs no aggregate.
  alone = _.begins & _._ends
  single = _event_tokens(marked.filter(alone), schema)
  return single.union(_merged(marked.filter(~alone), schema))


def _merged(marked: ibis.Table, schema: Schema) -> ibis.Table:
  """Tokens of runs of two or more events."""
  to_here = ibis.cumulative_window(
    group_by="user_id", order_by=["timestamp", "row"]
  )
  runs = marked.mutate(run=_.begins.cast("int64").sum().over(to_here))
  runs = runs.drop("begins", "_ends")

  # First by action, then by run: a run's action types and their counts need
  # both, and every other aggregate can be taken in two stages.
  means = [f for f in schema.features if _averaged(f)]
  firsts = [f for f in schema.features if f.when == When.REQUEST]
  lasts = [f for f in schema.features if f not in firsts + means]
  # One struct, so that a null of the first event stays null: aggregates that
  # pick a value skip nulls, and would take a later event's.
  first: Any = ibis.struct(
    {"row": _.row, **{f.name: _[f.name] for f in firsts}}
  )
  last: Any = ibis.struct(
    {"end_us": _.timestamp, **{f.name: _[f.name] for f in lasts}}
  )
  by_action = runs.group_by(["user_id", "run", "action"]).aggregate(
    item_id=_.item_id.min(),
    start_us=_.timestamp.min(),
    seq_first=_.seq.min(),
    seq_last=_.seq.max(),
    events=_.count(),
    duration_ms=_.duration_ms.sum(),
    first=first.argmin(_.seq),
    last=last.argmax(_.seq),
    # Collected in order, then summed: a parallel sum of floats differs in the
    # last bits from run to run.
    **{f"all_{f.name}": _[f.name].collect(order_by=_.seq) for f in means},
  )
  by_run: Any = by_action.group_by(["user_id", "run"]).aggregate(
    item_id=_.item_id.min(),
    start_us=_.start_us.min(),
    event_count=_.events.sum().cast("int64"),
    duration_ms=_.duration_ms.sum().cast("float64"),
    action_count=_.events.collect(order_by=_.action),
    actions=_.action.collect(order_by=_.action),
    target=_is_target(_.action, schema).any(),
    target_us=_.start_us.min(where=_is_target(_.action, schema)),
    first=_.first.argmin(_.seq_first),
    last=_.last.argmax(_.seq_last),
    **{
      f"all_{f.name}": _[f"all_{f.name}"].collect(order_by=_.action).flatten()
      for f in means
    },
  )
  values = {
    **{f.name: by_run.first[f.name] for f in firsts},
    **{f.name: by_run.last[f.name] for f in lasts},
    **{f.name: by_run[f"all_{f.name}"].means() for f in means},
  }
  return by_run.select(
    "user_id",
    "item_id",
    row=by_run.first["row"],
    start_us=by_run.start_us,
    end_us=by_run.last["end_us"],
    duration_ms=by_run.duration_ms,
    event_count=by_run.event_count,
    action=by_run.actions,
    action_count=by_run.action_count,
    target=by_run.target,
    target_us=by_run.target_us,
    **{f.name: values[f.name] for f in schema.features},
  )


def _averaged(feature: Feature) -> bool:
  return feature.kind == Kind.NUMERIC and feature.when == When.POST_ACTION

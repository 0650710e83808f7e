"""How much more popular than a user's own history is what they are shown?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax.data.store import Prepared
from fmjax.eval.metrics import DRAWS, by_user, intervals, seeds_of, summary
from fmjax.eval.ranked import TOP, Ranked

LIFT = f"popularity_lift@{TOP}"


def popularity_lift(
  answers: Ranked | Sequence[Ranked],
  prepared: Prepared,
  *,
  draws: int = DRAWS,
  seed: int = 0,
) -> dict[str, float | list[float]]:
  """Popularity lift (Abdollahpouri et al., 2020) with its 95 % interval.

  The mean popularity of the recommended items, relative to that of the items in
  the histories they were recommended after: 0 where people are shown what is as
  popular as what they know, 1 where it is twice as popular, -1 where nobody
  knows it. An item's popularity is its share of the training tokens. Means are
  over the items of a query, then over the queries; those whose history holds no
  item of training, and those with nothing recommended, are left out.

  Args:
    answers: of one method; several seeds of it are averaged.
    prepared: the data that they were asked of.
    draws: resamples of the users.
    seed: of the resampling.

  Returns:
    `LIFT` and `<LIFT>_ci`; nothing if no query is left.
  """
  count_v = prepared.catalog.train_count_v.astype(np.float64)
  share_v = count_v / max(count_v.sum(), 1)
  item_n, offset_u = prepared.items_of()
  sums = np.concatenate([[0.0], np.cumsum(share_v[item_n])])
  runs = seeds_of(answers)
  user_n, length_n = runs[0].user, runs[0].history_length
  begin_n = offset_u[user_n]
  history_n = sums[begin_n + length_n] - sums[begin_n]
  shown = [(run.top10_nk > 0).sum(1) for run in runs]
  asked_n = (history_n > 0) & np.all([shown_n > 0 for shown_n in shown], axis=0)
  if not asked_n.any():
    return {}
  # Row 0 is no item and has no share.
  recommended_n = np.mean(
    [
      share_v[run.top10_nk].sum(1)[asked_n] / shown_n[asked_n]
      for run, shown_n in zip(runs, shown, strict=True)
    ],
    axis=0,
  )
  history_n = history_n[asked_n] / length_n[asked_n]
  user_n = user_n[asked_n]
  recommended, history = (
    by_user(user_n, value) for value in (recommended_n, history_n)
  )
  ends = intervals({LIFT: recommended}, history, draws=draws, seed=seed)
  return {
    LIFT: float(recommended.sum() / history.sum() - 1),
    f"{LIFT}_ci": [end - 1 for end in ends[LIFT]],
  }


def measured(
  answers: Ranked | Sequence[Ranked], prepared: Prepared
) -> dict[str, Any]:
  """All that is reported of answers: `metrics.summary` and the lift."""
  return {**summary(answers), **popularity_lift(answers, prepared)}

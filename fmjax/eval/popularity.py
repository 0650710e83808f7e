"""How much more popular than a user's own history is what they are shown?"""

from typing import Any

import numpy as np

from fmjax.data.store import Prepared
from fmjax.eval.metrics import DRAWS, by_user, intervals, summary
from fmjax.eval.ranked import TOP, Ranked

LIFT = f"popularity_lift@{TOP}"


def popularity_lift(
  ranked: Ranked, prepared: Prepared, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, float | list[float]]:
  """Popularity lift (Abdollahpouri et al., 2020) with its 95 % interval.

  The mean popularity of the recommended items, relative to that of the items in
  the histories they were recommended after: 0 where people are shown what is as
  popular as what they know, 1 where it is twice as popular, -1 where nobody
  knows it. An item's popularity is its share of the training tokens. Means are
  over the items of a query, then over the queries; those whose history holds no
  item of training, and those with nothing recommended, are left out.

  Args:
    ranked: the answers.
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
  begin_n = offset_u[ranked.user]
  history_n = sums[begin_n + ranked.history_length] - sums[begin_n]
  shown_n = (ranked.top10_nk > 0).sum(1)
  asked_n = (history_n > 0) & (shown_n > 0)
  if not asked_n.any():
    return {}
  # Row 0 is no item and has no share.
  recommended_n = share_v[ranked.top10_nk].sum(1)[asked_n] / shown_n[asked_n]
  history_n = history_n[asked_n] / ranked.history_length[asked_n]
  user_n = ranked.user[asked_n]
  recommended, history = (
    by_user(user_n, value) for value in (recommended_n, history_n)
  )
  ends = intervals({LIFT: recommended}, history, draws=draws, seed=seed)
  return {
    LIFT: float(recommended.sum() / history.sum() - 1),
    f"{LIFT}_ci": [end - 1 for end in ends[LIFT]],
  }


def measured(ranked: Ranked, prepared: Prepared) -> dict[str, Any]:
  """All that is reported of answers: `metrics.summary` and the lift."""
  return {**summary(ranked), **popularity_lift(ranked, prepared)}

"""The probability of every title at a request, and the ranking it makes.

Of n requests on one day, each with a surface f and a last title; votes[n, s]:
how often the user chose each series, more than `RECENT` events ago,

  U[n, s] = moment[n, s] · (α · attraction[n, s] + votes[n, s])
  urn(v)  = U[n, s(v)] · W[f, v] / Σ_w U[n, s(w)] · W[f, w]
  p(v)    = go_on_n · 1[v is the last title] + (1 - go_on_n) · urn(v)

attraction is what draws who never chose a series, moment what the hour and the
device make of all; α is `CONCENTRATION`.
"""

import dataclasses

import numpy as np

from fmjax.data.readers.synthetic_titles import Day

TOP = 10  # titles kept of each ranking
RECENT = 100  # the user's last events, whose votes count little
RECENT_VOTE = 0.2
CONCENTRATION = 2.0  # as many votes weigh as much as all attraction
# What a recent event counts to the forgetful oracle, who knows no other votes:
# about the best.
FORGETFUL_VOTE = 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
  """Requests n on one day, all that is observed before the choice but votes.

  Attributes:
    day: the catalog.
    surface: int64 [n].
    moment_ns: by hour and device.
    attraction_ns: by locale; sums to 1.
    go_on: probability of the last title, beside its part in the urn; [n].
    last_s: series of the last title, [n]; any where `go_on` is 0.
    last_k: its place in the series.
  """

  day: Day
  surface: np.ndarray
  moment_ns: np.ndarray
  attraction_ns: np.ndarray
  go_on: np.ndarray
  last_s: np.ndarray
  last_k: np.ndarray

  def pull(self, votes_ns: np.ndarray) -> np.ndarray:
    """U [n, s]."""
    return self.moment_ns * (CONCENTRATION * self.attraction_ns + votes_ns)

  def draw(
    self, pull_ns: np.ndarray, random_an: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Titles [s, k], from three uniform numbers each.

    A number is far enough below 1 that it reaches no sum of weights, whatever
    the rounding.
    """
    s = pick(pull_ns * self.day.total_fs[self.surface], random_an[1])
    k = pick(self.day.weight_fsk[self.surface, s], random_an[2])
    goes_on = random_an[0] < self.go_on
    return np.where(goes_on, self.last_s, s), np.where(goes_on, self.last_k, k)

  def log_p(
    self, s: np.ndarray, k: np.ndarray, pull_ns: np.ndarray
  ) -> np.ndarray:
    """Of the titles [s, k], float64 [n]."""
    return self._log_p(s, k, pull_ns, self.day.weight_fsk, self.day.total_fs)

  def log_p_ageless(
    self, s: np.ndarray, k: np.ndarray, pull_ns: np.ndarray
  ) -> np.ndarray:
    """Where every title keeps its mean weight, whatever its age."""
    return self._log_p(
      s, k, pull_ns, self.day.ageless_fsk, self.day.ageless_total_fs
    )

  def rank(
    self, s: np.ndarray, k: np.ndarray, pull_ns: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the titles [s, k], 1-based, and the numbers of the first ten.

    Ties count against the title: those of one series and one launch day are
    alike when they are new.

    Returns:
      rank, int32 [n]; top_nk, int32, -1 where fewer titles have launched.
    """
    day, f, n = self.day, self.surface, np.arange(len(s))
    total = (pull_ns * day.total_fs[f]).sum(axis=1)
    pull_ns = pull_ns * ((1 - self.go_on) / total)[:, None]
    weight, last_weight = (
      day.weight_fsk[f, series, place]
      for series, place in ((s, k), (self.last_s, self.last_k))
    )
    is_last = self._is_last(s, k)
    p = pull_ns[n, s] * weight + is_last * self.go_on
    p_last = pull_ns[n, self.last_s] * last_weight + self.go_on

    # The urn's part of p(v) reaches p where W is at least this; exactly so in
    # the title's own series, where ties are.
    least_ns = p[:, None] / pull_ns
    least_ns[n, s] = np.where(is_last, least_ns[n, s], weight)
    rank = day.at_least(f, least_ns).sum(axis=1)
    # Counted with the title itself, unless it is the last one; that one may
    # owe its place to more than the urn.
    by_urn = last_weight >= least_ns[n, self.last_s]
    rank += is_last | ((self.go_on > 0) & ~by_urn & (p_last >= p))
    return rank.astype(np.int32), self._top(pull_ns, p_last)

  def _log_p(
    self,
    s: np.ndarray,
    k: np.ndarray,
    pull_ns: np.ndarray,
    weight_fsk: np.ndarray,
    total_fs: np.ndarray,
  ) -> np.ndarray:
    f, n = self.surface, np.arange(len(s))
    total = (pull_ns * total_fs[f]).sum(axis=1)
    urn = pull_ns[n, s] * weight_fsk[f, s, k] / total
    return np.log((1 - self.go_on) * urn + self._is_last(s, k) * self.go_on)

  def _is_last(self, s: np.ndarray, k: np.ndarray) -> np.ndarray:
    same = (s == self.last_s) & (k == self.last_k)
    return same & (self.go_on > 0)

  def _top(self, pull_ns: np.ndarray, p_last: np.ndarray) -> np.ndarray:
    """The ten likeliest, among the first ten of ten series and the last title.

    Args:
      pull_ns: such that the urn's part of p(v) is pull · W.
      p_last: of the last title.
    """
    day, f = self.day, self.surface[:, None]
    row_n1 = np.arange(len(p_last))[:, None]
    likeliest_ns = pull_ns * day.falling_fsk[self.surface, :, 0]
    s_nk = _largest(likeliest_ns, TOP)
    title_nkk = day.order_fsk[:, :, :TOP][f, s_nk]
    p_nkk = day.falling_fsk[:, :, :TOP][f, s_nk]
    p_nkk *= pull_ns[row_n1, s_nk][:, :, None]
    is_last_nkk = (s_nk == self.last_s[:, None])[:, :, None] & (
      title_nkk == self.last_k[:, None, None]
    )
    p_nkk[is_last_nkk] = 0.0  # it stands beside, with all of its probability
    p_nc = np.column_stack([p_nkk.reshape(len(p_last), -1), p_last])
    series = pull_ns.shape[1]
    title_nkk = title_nkk * series + s_nk[:, :, None]
    last = self.last_k * series + self.last_s
    title_nc = np.column_stack([title_nkk.reshape(len(p_last), -1), last])

    chosen_nk = _largest(p_nc, TOP)
    falling_nk = np.argsort(-p_nc[row_n1, chosen_nk], axis=1)
    chosen_nk = chosen_nk[row_n1, falling_nk]
    there_nk = p_nc[row_n1, chosen_nk] > 0
    top_nk = np.full((len(p_last), TOP), -1, np.int32)
    top_nk[:, : chosen_nk.shape[1]] = np.where(
      there_nk, title_nc[row_n1, chosen_nk], -1
    )
    return top_nk


def _largest(p_nc: np.ndarray, count: int) -> np.ndarray:
  """Columns of the `count` largest of each row, or of all, in any order."""
  if p_nc.shape[1] <= count:
    return np.broadcast_to(np.arange(p_nc.shape[1]), p_nc.shape)
  return np.argpartition(-p_nc, count - 1, axis=1)[:, :count]


def pick(weight_nc: np.ndarray, random: np.ndarray) -> np.ndarray:
  """A column of each row, in proportion to its weight; random in [0, 1)."""
  ends_nc = np.cumsum(weight_nc, axis=1)
  return (ends_nc <= (random * ends_nc[:, -1])[:, None]).sum(axis=1)

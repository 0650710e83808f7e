"""Small made-up results of the benchmarks, in the form that these write."""

import pytest

SIDES = ("fmjax", "peer")
FACTS = {
  "command": "python -m experiments.bench.x --fast",
  "date": "2026-01-02",
  "machine": {
    "cpu": "Abacus",
    "architecture": "beads",
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "system": "Linux",
  },
  "versions": {"fmjax": "0.1.0", "jax": "0.10.2"},
  "code_hash": "abc",
}
PEER = {"name": "Peer", "version": "1.2", "versions": {"torch": "3.4"}}


def leg(seconds):
  return {"seconds": seconds, "tokens": 1_000, "peak_rss_bytes": 2**30}


def loss(ours, theirs):
  """Of pairs with these seconds."""
  pairs = [
    {"fmjax": leg(a), "peer": leg(b)} for a, b in zip(ours, theirs, strict=True)
  ]
  ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
  return {
    "ratio": ratios[0],
    "pair_ratios": ratios,
    "tokens_per_s": {"fmjax": 1_000 / ours[0], "peer": 1_000 / theirs[0]},
    "peak_rss_bytes": {"fmjax": 2**30, "peer": 3 * 2**30},
    "memory_ratio": 1 / 3,
    "pairs": pairs,
    "peer": PEER,
  }


def point(seconds, value):
  return {"train_s": seconds, "ndcg@10": value}


def length(events, seconds):
  run = {"events": events, "seconds": seconds, "peak_rss_bytes": 2**30}
  return {**run, "events_per_s": events / seconds, "runs": [{**PEER, **run}]}


def ranked(hit_rate, ndcg):
  values = {"hr@10": hit_rate, "ndcg@10": ndcg}
  ends = {f"{name}_ci": [v - 0.01, v + 0.01] for name, v in values.items()}
  return {**values, **ends}


def low_rank(speedup):
  return {
    "attention_speedup_4096": speedup,
    "memory_ratio_4096": 0.2,
    "cost_ratio_8192_1024": 1.2,
    "step_us_per_token": {"1024": 40.0, "8192": 48.0},
  }


def told(difference):
  interval = [difference - 0.01, difference + 0.01]
  return {"difference": difference, "interval": interval, "separates": True}


@pytest.fixture
def made_up():
  """Every result but that of a GPU."""
  found = {
    "train_throughput": {
      "losses": {
        "full_softmax": loss([1.0, 1.1], [8.0, 6.6]),
        "sampled": loss([1.0], [12.0]),
        "bce": loss([1.0], [2.0]),
      }
    },
    "time_to_quality": {
      "ratio": 0.1,
      "ratio_upper_bound": 0.1,
      "fmjax_s": 100.0,
      "peer_s": 1_000.0,
      "threshold": 0.17,
      "peer": PEER,
      "curves": {
        "fmjax": [point(50.0, 0.1), point(100.0, 0.17)],
        "peer": [point(500.0, 0.1), point(1_000.0, 0.18)],
      },
    },
    "floor": {
      "attention_pairs": {
        "pairs": 40_000.0,
        "computed": 25_000.0,
        "in_visible_blocks": 23_000.0,
        "visible": 17_000.0,
      },
      "peak": [{"what": "large", "shapes": "[2, 2] · [2, 2]", "gflop_s": 9.0}],
      "stream_gb_s": 20.0,
      "parts": [
        {
          "part": name,
          "flops": 2e9,
          "bytes": 3e6,
          "least_ms": least_ms,
          "measured_ms": measured_ms,
        }
        for name, least_ms, measured_ms in [("loss", 4, 6), ("rest", 0, 2)]
      ],
      "least_ms": 4.0,
      "step_ms": 8.0,
      "changes": [
        {"change": "plain", "step_ms": 16.0, "tokens_per_s": 1e3},
        {"change": "one that cost", "step_ms": 20.0, "tokens_per_s": 8e2},
        {"change": "one that saved", "step_ms": 8.0, "tokens_per_s": 2e3},
      ],
      "remat": [{"remat": "NoRemat", "step_ms": 8.0, "temp_bytes": 2**20}],
      "dtype": [{"dtype": "float32", "step_ms": 8.0}],
    },
    "parts": {
      "parts": [
        {
          "part": "feed_forward",
          "fast_ms": 2.0,
          "plain_ms": 3.0,
          "ratio": 1.5,
          "fast_what": "flat",
          "plain_what": "not flat",
        },
        {
          "part": "alone",
          "fast_ms": 2.0,
          "plain_ms": None,
          "ratio": None,
          "fast_what": "one form",
          "plain_what": None,
        },
      ]
    },
    "evaluation": {
      "ratio": 0.2,
      "fmjax_s": 1.0,
      "peer_s": 5.0,
      "users": 1_234,
      "pairs": [{"fmjax": {"seconds": 1.0}, "peer": {"seconds": 5.0}}],
      "first": {"fmjax": {"seconds": 2.0}, "peer": {"seconds": 5.0}},
      "peer": PEER,
    },
    "input": {
      "ratio": 30.0,
      "ratios": {"log": 30.0},
      "input_tokens_per_s": {"log": 3e6},
      "step_turns": [1e5, 1e5],
      "input_turns": {"log": [3e6, 4e6]},
      "logs": {"log": {"source": "x", "events": 2_000_000, "in_memory": True}},
    },
    "attention": {
      "block": 32,
      "rank": 2,
      "shape": {"width": 64},
      **low_rank(6.0),
      "ranks": {"2": low_rank(6.0), "4": low_rank(3.0)},
      "lengths": [
        {
          "window": window,
          "ms": {
            "full": slow,
            "window": 2.0,
            "low_rank_2": 3.0,
            "low_rank_4": 6.0,
          },
          "temp_bytes": {
            "full": 9e6,
            "window": 1e6,
            "low_rank_2": 2e6,
            "low_rank_4": 3e6,
          },
        }
        for window, slow in ((1_024, 6.0), (4_096, 90.0))
      ],
    },
    "peer_quality": {
      "ours": ranked(0.35, 0.2),
      "peer": ranked(0.3, 0.17),
      "paired_hr@10": told(0.05),
      "paired_ndcg@10": told(0.03),
      "peer_version": "1.2",
      "peer_curve": [
        {"epoch": epoch, "ndcg@10": value}
        for epoch, value in ((1, 0.1), (2, 0.2), (3, 0.15))
      ],
      "seeds": 3,
      "users": 1_234,
    },
    "prepare": {
      "memory_limit": "2GB",
      "sizes": [length(1_000_000, 1.0), length(20_000_000, 20.0)],
      "peer": [length(1_000_000, 3.0), length(20_000_000, 80.0)],
    },
  }
  return {name: {**FACTS, **result} for name, result in found.items()}

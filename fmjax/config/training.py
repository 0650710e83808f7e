"""Objective, optimizer and run."""

import dataclasses
from typing import Literal, get_args

from fmjax.config.tree import (
  Config,
  ConfigError,
  require_not_negative,
  require_positive,
  suggest,
)

Targets = Literal["first", "all"]
TARGETS = list(get_args(Targets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSoftmax(Config):
  """Next-item cross-entropy over the catalog, `chunk` tokens at a time."""

  chunk: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformProposal(Config):
  """Every item is as likely a negative as any other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopularityProposal(Config):
  """An item is a negative as often as training meets it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InBatchProposal(Config):
  """Negatives are drawn from the targets of the batch (Yi et al., 2019)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedProposal(Config):
  """A share of the negatives is drawn uniformly, the others by popularity.

  After Yang et al., 2020, who mix uniform negatives with those of the batch.
  """

  uniform: float = 0.5


Proposal = (
  UniformProposal | PopularityProposal | InBatchProposal | MixedProposal
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSoftmax(Config):
  """Cross-entropy among sampled negatives, shared by all tokens of a batch.

  `logq` times the log of how often each is expected is taken from its logit: at
  1 the sum over negatives is an unbiased estimate of that over all items that
  can be drawn (Bengio and Senecal, 2008); at 0 what the proposal prefers is
  pushed down.
  """

  negatives: int = 128
  proposal: Proposal = UniformProposal()
  logq: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Config):
  """SASRec's loss: the target against uniform negatives of its own."""

  negatives: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneralizedBce(Config):
  """gBCE (Petrov and Macdonald, 2023): the target's probability to a power β.

  It undoes the overconfidence that few negatives make; at `calibration` 0 it is
  BCE, at 1 it is fully calibrated.
  """

  negatives: int = 256
  calibration: float = 0.75


Objective = FullSoftmax | SampledSoftmax | BinaryCrossEntropy | GeneralizedBce


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineDecay(Config):
  """Linear warm-up, then half a cosine to `final_fraction` of the peak."""

  warmup: float = 0.05  # share of the steps
  final_fraction: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableDecay(Config):
  """Linear warm-up, a constant rate, and a fall to 0 over the last steps.

  The warm-up is counted in steps, so runs of all lengths are one until the
  shorter one decays: short runs branch off a long one (Hu et al., 2024,
  "MiniCPM"). The rate falls by 1 - √, which Haegele et al. (2024, "Scaling Laws
  and Compute-Optimal Training Beyond Fixed Training Durations") found best.
  """

  warmup_steps: int = 50
  decay: float = 0.2  # share of the steps

  def stable_until(self, steps: int) -> int:
    """Steps taken before the rate begins to fall."""
    return steps - max(1, round(self.decay * steps))


Schedule = CosineDecay | StableDecay


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
  """AdamW; norms and biases are not decayed."""

  learning_rate: float = 1e-3
  schedule: Schedule = CosineDecay()
  weight_decay: float = 0.01
  b1: float = 0.9
  b2: float = 0.98
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
  steps: int = 500
  seed: int = 0
  evaluate_every: int = 100  # steps; selects the step on validation NDCG@10
  targets: Targets = "first"  # of each user, in a result
  checkpoint_every: int = 100  # steps
  log_every: int = 10  # steps
  mesh_data: int = 1  # devices along the "data" axis
  mesh_model: int = 1  # devices along the "model" axis


def validate_objective(objective: Objective) -> None:
  """Refuses losses over nothing."""
  match objective:
    case FullSoftmax(chunk=chunk):
      require_positive({"objective.chunk": chunk})
    case SampledSoftmax(negatives=q, proposal=proposal, logq=logq):
      require_positive({"objective.negatives": q})
      _require_share({"objective.logq": logq})
      if isinstance(proposal, MixedProposal):
        _require_mixed(proposal.uniform, negatives=q)
    case BinaryCrossEntropy(negatives=q):
      require_positive({"objective.negatives": q})
    case GeneralizedBce(negatives=q, calibration=calibration):
      require_positive({"objective.negatives": q})
      _require_share({"objective.calibration": calibration})


def _require_share(values: dict[str, float]) -> None:
  for path, value in values.items():
    if not 0 <= value <= 1:
      raise ConfigError(f"{path}={value} is not in [0, 1]")


def _require_mixed(uniform: float, *, negatives: int) -> None:
  _require_share({"objective.proposal.uniform": uniform})
  drawn = round(uniform * negatives)
  if drawn in (0, negatives):
    one = "UniformProposal()" if drawn else "PopularityProposal()"
    raise ConfigError(
      f"objective.proposal.uniform={uniform} of objective.negatives={negatives}"
      f" is {drawn} of them and mixes nothing; use {one}, or another share"
    )


def validate_optim(optim: OptimConfig) -> None:
  """Refuses rates and shares outside their range."""
  shares = {"optim.b1": optim.b1, "optim.b2": optim.b2}
  match optim.schedule:
    case CosineDecay(warmup=warmup, final_fraction=final_fraction):
      shares["optim.schedule.warmup"] = warmup
      shares["optim.schedule.final_fraction"] = final_fraction
    case StableDecay(warmup_steps=warmup_steps, decay=decay):
      require_not_negative({"optim.schedule.warmup_steps": warmup_steps})
      require_positive({"optim.schedule.decay": decay})
      shares["optim.schedule.decay"] = decay
  for path, value in shares.items():
    if not 0 <= value < 1:
      raise ConfigError(f"{path}={value} is not in [0, 1)")
  require_not_negative({"optim.weight_decay": optim.weight_decay})
  require_positive(
    {
      "optim.learning_rate": optim.learning_rate,
      "optim.clip_norm": optim.clip_norm,
    }
  )


def validate_run(run: RunConfig) -> None:
  """Refuses steps, periods and meshes of nothing."""
  require_not_negative({"run.seed": run.seed})
  require_positive(
    {
      "run.steps": run.steps,
      "run.evaluate_every": run.evaluate_every,
      "run.checkpoint_every": run.checkpoint_every,
      "run.log_every": run.log_every,
      "run.mesh_data": run.mesh_data,
      "run.mesh_model": run.mesh_model,
    }
  )
  if run.targets not in TARGETS:
    raise ConfigError(
      f"run.targets={run.targets!r}" + suggest(run.targets, TARGETS)
    )

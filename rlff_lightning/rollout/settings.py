"""What one RL iteration samples, as a config says it."""

from dataclasses import dataclass

from rlff_lightning.errors import UserError
from rlff_lightning.functional.advantages import Scale
from rlff_lightning.functional.kl import KLEstimator


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """What one RL iteration samples, and how it is spread over optimizer steps."""

    prompts: int = 16
    """Contexts per iteration and process, N."""
    group_size: int = 8
    """Replies per context, G."""
    temperature: float = 1.0
    """Of the sampled replies, and of every log-probability in the loss."""
    max_tokens: int = 256
    """Limit of a completion, reasoning and end-of-sequence included."""
    updates: int = 1
    """Optimizer steps per pass over an iteration; each takes its own part of the prompts."""
    epochs: int = 1
    """Passes over an iteration's completions; ratios are against the policy at rollout."""
    ahead: bool = False
    """Sample the next iteration while this one is trained on: one iteration stale, which the
    objective's ``mismatch_cap`` corrects by weights; ``mismatch_range`` alone leaves out the
    stalest completions and takes the others as they are. Saves time if the engine computes
    elsewhere, as on a server."""
    iterations_per_epoch: int = 1
    """RL iterations that make a Trainer epoch."""
    advantage_scale: Scale = "group"
    """Advantages are divided by the std of the ``group``, of the ``batch``, or not (``none``)."""
    reward_kl_coef: float = 0.0
    """Weight of each completion's KL to the reference model in its reward, of the trainer's
    log-probabilities at rollout; a KL in the loss is the objective's ``kl_coef``. In a group of
    equal rewards the KL alone makes the advantages, which a division by the ``group``'s std
    brings to full size: prefer ``advantage_scale`` ``batch`` or ``none`` with it."""
    reward_kl_estimator: KLEstimator = "k1"
    """How the KL in the reward is estimated."""

    def __post_init__(self) -> None:
        for name in ("prompts", "max_tokens", "updates", "epochs", "iterations_per_epoch"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"RolloutSettings.{name} must be at least 1, got {value!r}")
        if self.group_size < 2:
            raise UserError(
                f"RolloutSettings.group_size must be at least 2, got {self.group_size!r}; "
                "a reply is scored against its siblings"
            )
        if self.temperature <= 0:
            raise UserError(
                f"RolloutSettings.temperature must be above 0, got {self.temperature!r}"
            )
        if self.reward_kl_coef < 0:
            raise UserError(
                f"RolloutSettings.reward_kl_coef must be at least 0, got {self.reward_kl_coef!r}"
            )

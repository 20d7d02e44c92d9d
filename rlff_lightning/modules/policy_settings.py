"""What a policy's objective, its rollout and its Trainer must agree on."""

from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_warn

from rlff_lightning.errors import UserError
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.rollout.loader import ExperienceLoader
from rlff_lightning.rollout.settings import RolloutSettings


def check_agreement(objective: PolicyObjective, rollout: RolloutSettings) -> None:
    """Refuse what cannot be meant of the two together, and warn of what rarely is.

    Args:
        objective: Of the policy.
        rollout: Of the same stage.

    Raises:
        UserError: If completions are stale and nothing weighs or leaves out any.
    """
    owner = type(objective).__name__
    if rollout.ahead and not objective.corrects_mismatch:
        raise UserError(
            "RolloutSettings.ahead must be false where the objective has neither mismatch_cap "
            "nor mismatch_range: nothing would correct for the staleness"
        )
    length = objective.max_tokens
    if objective.aggregation == "constant" and length != rollout.max_tokens:
        rank_zero_warn(
            f"{owner}.max_tokens={length} divides the loss, but completions may have "
            f"rollout.max_tokens={rollout.max_tokens}: set both to the same, or the loss is "
            f"{rollout.max_tokens / (length or 1):.3g} times what the paper's is"
        )
    if objective.is_without_std and rollout.advantage_scale != "none":
        rank_zero_warn(
            f"{owner} is meant for advantages that no std divides: set rollout.advantage_scale to "
            f"none, got {rollout.advantage_scale!r}"
        )


def check_batches(trainer: Any, experience: ExperienceLoader) -> None:
    """Refuse a Trainer that would step in the middle of an update, or end an epoch in one.

    Args:
        trainer: Of the policy.
        experience: What it trains on.

    Raises:
        UserError: If accumulation changes on the way, or an epoch is limited to a part of an
            iteration.
    """
    if any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):
        raise UserError(
            "trainer.callbacks must hold no GradientAccumulationScheduler: an iteration is cut "
            "into micro-batches once; set trainer.accumulate_grad_batches"
        )
    limit, whole = trainer.limit_train_batches, len(experience)
    given = min(limit if isinstance(limit, int) else int(limit * whole), whole)
    needed = experience.batches_per_iteration
    if given % needed and not trainer.fast_dev_run:
        raise UserError(
            f"trainer.limit_train_batches must make whole iterations of {needed} micro-batches "
            f"(accumulate_grad_batches, rollout.updates and rollout.epochs), got {limit!r} of "
            f"{whole}; set rollout.iterations_per_epoch"
        )

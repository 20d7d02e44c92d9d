"""What a policy's objective and its rollout must agree on."""

from lightning.pytorch.utilities import rank_zero_warn

from rlff_lightning.errors import UserError
from rlff_lightning.functional.policy_objective import PolicyObjective
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

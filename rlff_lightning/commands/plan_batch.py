"""How much of a stage goes through its models at once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

from rlff_lightning.commands.plan_model import PlannedModel
from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.dialogue.reward_format import RewardInput
from rlff_lightning.errors import UserError
from rlff_lightning.models.group_inputs import Sharing
from rlff_lightning.models.prefix_sharing import why_not_shared
from rlff_lightning.models.training_memory import MicroBatch
from rlff_lightning.rollout.settings import RolloutSettings

Kind = Literal["policy", "reward model", "supervised"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """Sizes that the data decide, not the config."""

    reply_tokens: int = 256
    """Longest reply in data, tokens."""
    candidates: int = 4
    """Labelled replies to one context."""


def training_batch(
    kind: Kind,
    model: PlannedModel,
    resolved: Mapping[str, Any],
    rollout: RolloutSettings,
    parts: int,
    assumed: Assumed,
) -> MicroBatch:
    """Give the largest micro-batch that a stage's config allows.

    Args:
        kind: What it trains.
        model: On what.
        resolved: The whole config.
        rollout: A policy's.
        parts: Micro-batches of an update.
        assumed: What the data decide.

    Raises:
        UserError: If a size is not above 0.
    """
    arguments = resolved["model"]["init_args"]
    if kind == "policy":
        sharing: Sharing = arguments.get("sharing") or "auto"
        return MicroBatch(
            groups=ceil(rollout.prompts / rollout.updates / parts),
            group_size=rollout.group_size,
            prompt_tokens=_chat(arguments).max_prompt_tokens,
            reply_tokens=rollout.max_tokens,
            sharing=sharing_of(model, is_trained=True) if sharing == "auto" else sharing,
        )
    given = ((resolved.get("data") or {}).get("init_args") or {}).get("batch_size")
    rows = at_least_one("data.init_args.batch_size", 1 if given is None else given)
    if kind == "supervised":
        return MicroBatch(
            groups=rows,
            group_size=1,
            prompt_tokens=_chat(arguments).max_prompt_tokens,
            reply_tokens=assumed.reply_tokens,
        )
    longest = RewardInput(**(arguments.get("reads") or {})).max_tokens
    reply = min(assumed.reply_tokens, max(longest // 2, 1))
    reads_last = (arguments.get("head") or {}).get("pooling", "last") == "last"
    return MicroBatch(
        groups=rows,
        group_size=assumed.candidates,
        prompt_tokens=max(longest - reply, 1),
        reply_tokens=reply,
        sharing=sharing_of(model, is_trained=True) if reads_last else "padded",
    )


def scoring_batch(training: MicroBatch, reward: PlannedModel, rows: int) -> MicroBatch:
    """Give what a reward model scores at once of a policy's replies."""
    config = reward.architecture.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or training.prompt_tokens
    return replace(
        training,
        groups=max(at_least_one("RewardModelScorer.batch_size", rows) // training.group_size, 1),
        # It reads no more than it has positions for.
        prompt_tokens=max(min(training.prompt_tokens, limit - training.reply_tokens), 1),
        sharing=sharing_of(reward, is_trained=False),
    )


def sharing_of(model: PlannedModel, *, is_trained: bool) -> Sharing:
    """Say how a model computes groups by itself, where prompts are long enough to share them."""
    whole = replace(model, adapter=None, quantize=None, gradient_checkpointing=False)
    built = whole.build(None, has_head=False)
    built.train(is_trained and not model.is_frozen)
    return "padded" if why_not_shared(built) else "shared"


def at_least_one(name: str, value: Any) -> int:
    """Take a count from a config.

    Raises:
        UserError: If it is no whole number above 0.
    """
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be at least 1, got {value!r}")
    return value


def _chat(arguments: Mapping[str, Any]) -> ChatSettings:
    return ChatSettings(**(arguments.get("chat") or {}))

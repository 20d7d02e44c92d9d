"""What a stage's config asks of a device: the sizes of its batches, its models, its engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from rlff_lightning.commands.plan_model import (
    PlannedModel,
    Resolve,
    planned_model,
    pocket_architecture,
)
from rlff_lightning.errors import UserError
from rlff_lightning.models.group_inputs import Sharing
from rlff_lightning.models.training_memory import MicroBatch, Precision

Kind = Literal["policy", "reward model", "supervised"]
_KINDS: dict[str, Kind] = {
    "modules.policy.": "policy",
    "modules.reward_model.": "reward model",
    "modules.supervised.": "supervised",
}
_PRECISIONS: dict[str, Precision] = {
    "32": "32-true",
    "32-true": "32-true",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
}
_SHARDED = ("FSDP2", "ModelParallelStrategy", "FSDPStrategy", "fsdp")
_VLLM = "rlff_lightning.engines.vllm.VLLMEngine"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """Sizes that the data decide, not the config."""

    reply_tokens: int = 256
    """Longest reply in data, tokens."""
    candidates: int = 4
    """Labelled replies to one context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """A training stage as its config describes it."""

    kind: Kind
    """What it trains."""
    model: PlannedModel
    """The model that is trained."""
    backbone: Literal["policy", "backbone"] | None
    """Key of that model's settings; ``None`` for one that is made from scratch."""
    batch: MicroBatch
    """The largest micro-batch of one process."""
    precision: Precision
    """Of the Trainer."""
    num_micro_batches: int
    """Of an update."""
    processes: int
    """Devices on all nodes."""
    is_sharded: bool
    """Weights, gradients and optimizer are spread over the processes."""
    needs_reference: bool
    """A frozen copy of the whole model stands beside it."""
    engine: Mapping[str, Any] | None
    """Arguments of an engine in this process."""
    reward: PlannedModel | None
    """The reward model that scores."""
    scoring: MicroBatch | None
    """What is scored at once."""
    shares_base: bool
    """The reward model computes with the policy's base."""
    completions: int
    """Replies sampled per iteration by one process."""
    max_length: int
    """Prompt and completion together, tokens."""


def read_stage(
    resolved: Mapping[str, Any],
    config: Path,
    resolve: Resolve,
    *,
    gpus: int | None,
    architecture: str | None,
    assumed: Assumed,
) -> PlannedStage:
    """Read what matters for memory from a resolved config.

    Raises:
        UserError: If the stage does not train, or its model's architecture is unknown.
    """
    model, trainer = resolved.get("model") or {}, resolved.get("trainer") or {}
    path = str(model.get("class_path", ""))
    kind = next((kind for part, kind in _KINDS.items() if part in path), None)
    if kind is None:
        raise UserError(
            f"{config}: rlff plan knows stages that train ({', '.join(_KINDS.values())}), got "
            f"{path or 'no model'}"
        )
    arguments: Mapping[str, Any] = model["init_args"]
    keys: tuple[Literal["policy", "backbone"], ...] = ("policy", "backbone")
    backbone = next((key for key in keys if arguments.get(key)), None)
    if backbone is None:
        shape = pocket_architecture(arguments["pocket"])
        planned = PlannedModel(name="pocket", architecture=shape)
    else:
        planned = planned_model(arguments[backbone], config, resolve, architecture)
    precision = str(trainer.get("precision") or "32-true")
    if precision not in _PRECISIONS:
        raise UserError(
            f"{config}: trainer.precision must be one of {', '.join(_PRECISIONS)} to be planned, "
            f"got {precision!r}"
        )
    parts = int(trainer.get("accumulate_grad_batches") or 1)
    reward, shares_base, rows = _reward(arguments, config, resolve)
    batch = _batch(kind, arguments, resolved.get("data") or {}, parts, assumed)
    objective = (arguments.get("objective") or {}).get("init_args") or {}
    rollout = arguments.get("rollout") or {}
    return PlannedStage(
        kind=kind,
        model=planned,
        backbone=backbone,
        batch=batch,
        precision=_PRECISIONS[precision],
        num_micro_batches=parts,
        processes=gpus or _processes(trainer),
        is_sharded=any(name in str(trainer.get("strategy")) for name in _SHARDED),
        needs_reference=planned.adapter is None
        and bool(objective.get("kl_coef") or rollout.get("reward_kl_coef")),
        engine=_engine(arguments),
        reward=reward,
        scoring=_scoring(batch, rows) if reward else None,
        shares_base=shares_base,
        completions=int(rollout.get("prompts", 0)) * int(rollout.get("group_size", 0)),
        max_length=batch.prompt_tokens + batch.reply_tokens,
    )


def _batch(
    kind: Kind,
    arguments: Mapping[str, Any],
    data: Mapping[str, Any],
    parts: int,
    assumed: Assumed,
) -> MicroBatch:
    chat = arguments.get("chat") or {}
    prompt = int(chat.get("max_prompt_tokens", 1024))
    rows = int((data.get("init_args") or {}).get("batch_size", 1))
    if kind == "policy":
        rollout = arguments["rollout"]
        groups = ceil(rollout["prompts"] / rollout["updates"] / parts)
        sharing: Sharing = arguments.get("sharing") or "auto"
        return MicroBatch(
            groups=groups,
            group_size=rollout["group_size"],
            prompt_tokens=prompt,
            reply_tokens=rollout["max_tokens"],
            sharing="shared" if sharing == "auto" else sharing,
        )
    if kind == "supervised":
        return MicroBatch(
            groups=rows, group_size=1, prompt_tokens=prompt, reply_tokens=assumed.reply_tokens
        )
    longest = int((arguments.get("reads") or {}).get("max_tokens", 512))
    reply = min(assumed.reply_tokens, longest // 2)
    return MicroBatch(
        groups=rows,
        group_size=assumed.candidates,
        prompt_tokens=longest - reply,
        reply_tokens=reply,
        sharing="shared",
    )


def _scoring(batch: MicroBatch, rows: int) -> MicroBatch:
    return replace(batch, groups=max(rows // batch.group_size, 1), sharing="shared")


def _reward(
    arguments: Mapping[str, Any], config: Path, resolve: Resolve
) -> tuple[PlannedModel | None, bool, int]:
    for scorer in arguments.get("scorers") or []:
        if not str(scorer.get("class_path", "")).endswith(".RewardModelScorer"):
            continue
        given = scorer["init_args"]
        trained = planned_model({"model_name_or_path": given["folder"]}, config, resolve)
        return trained, bool(given.get("share_base")), int(given.get("batch_size", 128))
    return None, False, 0


def _engine(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    engine = arguments.get("engine") or {}
    return engine.get("init_args") if engine.get("class_path") == _VLLM else None


def _processes(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", 1)
    number = len(devices) if isinstance(devices, list) else devices
    per_node = int(number) if str(number).isdigit() else 1
    return per_node * int(trainer.get("num_nodes") or 1)

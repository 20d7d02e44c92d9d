"""What a stage's config asks of a device: the sizes of its batches, its models, its engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlff_lightning.commands.plan_batch import (
    Assumed,
    Kind,
    at_least_one,
    scoring_batch,
    training_batch,
)
from rlff_lightning.commands.plan_devices import num_processes
from rlff_lightning.commands.plan_model import (
    PlannedModel,
    Resolve,
    planned_model,
    pocket_architecture,
)
from rlff_lightning.errors import UserError
from rlff_lightning.models.training_memory import MicroBatch, Precision
from rlff_lightning.rollout.settings import RolloutSettings

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
        UserError: If the stage does not train, its model's architecture is unknown, or a size
            is none.
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
    if backbone is not None:
        planned = planned_model(arguments[backbone], config, resolve, architecture)
        planned = replace(planned, is_frozen=bool(arguments.get("freeze_backbone")))
    elif arguments.get("pocket"):
        shape = pocket_architecture(arguments["pocket"])
        planned = PlannedModel(name="pocket", base="pocket", architecture=shape)
    else:
        raise UserError(f"{config}: model.init_args must have a backbone or a pocket, got neither")
    precision = str(trainer.get("precision") or "32-true")
    if precision not in _PRECISIONS:
        raise UserError(
            f"{config}: trainer.precision must be one of {', '.join(_PRECISIONS)} to be planned, "
            f"got {precision!r}"
        )
    if kind == "policy" and precision == "bf16-true":
        raise UserError(
            f"{config}: trainer.precision must not be bf16-true for a policy, whose "
            "log-probabilities it rounds; take bf16-mixed, or dtype: bfloat16 of the policy"
        )
    given = trainer.get("accumulate_grad_batches")
    parts = at_least_one("trainer.accumulate_grad_batches", 1 if given is None else given)
    reward, shares_base, rows = _reward(arguments, config, resolve)
    rollout = RolloutSettings(**(arguments.get("rollout") or {}))
    batch = training_batch(kind, planned, resolved, rollout, parts, assumed)
    objective = (arguments.get("objective") or {}).get("init_args") or {}
    return PlannedStage(
        kind=kind,
        model=planned,
        backbone=backbone,
        batch=batch,
        precision=_PRECISIONS[precision],
        num_micro_batches=parts,
        processes=gpus or num_processes(trainer),
        is_sharded=any(name in str(trainer.get("strategy")) for name in _SHARDED),
        needs_reference=kind == "policy"
        and planned.adapter is None
        and bool(objective.get("kl_coef") or rollout.reward_kl_coef),
        engine=_engine(arguments),
        reward=reward,
        scoring=scoring_batch(batch, reward, rows) if reward else None,
        shares_base=shares_base,
        completions=rollout.prompts * rollout.group_size if kind == "policy" else 0,
        max_length=batch.prompt_tokens + batch.reply_tokens,
    )


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

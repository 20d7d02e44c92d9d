"""Adds up what a planned stage takes on one device, part by part."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlff_lightning.commands.plan_stage import PlannedStage
from rlff_lightning.models.static_memory import StaticMemory, static_memory
from rlff_lightning.models.training_memory import (
    Followed,
    chunk_rows,
    follow_scoring,
    follow_training,
)

GIB = 2**30
CUDA_CONTEXT = int(0.6 * GIB)
"""What CUDA and its libraries take in a process: an allowance, not measured."""
ENGINE_WORK = GIB
"""What vLLM computes in beside weights and cache: an allowance, not measured."""
_FOUR_BYTES, _TWO_BYTES = 4, 2


class Part(NamedTuple):
    """A share of a device's memory."""

    name: str
    """What it is for."""
    size: int
    """Bytes."""
    note: str = ""
    """How it comes about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What one process of a stage takes at its peak."""

    parts: tuple[Part, ...]
    """They add up to the peak."""
    static: StaticMemory
    """The trained model's lasting memory, before sharding."""
    recomputed: int
    """Activations with gradient checkpointing, bytes."""
    kept: int
    """Activations without it, bytes."""
    whole_logits: int
    """What logits would take if they existed at once, bytes."""
    cache_tokens: int | None
    """Tokens that the engine's key-value cache holds; ``None`` without an engine here."""

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(part.size for part in self.parts)

    def size(self, name: str) -> int:
        """Bytes of one part, 0 if there is none."""
        return sum(part.size for part in self.parts if part.name == name)


def estimate_stage(stage: PlannedStage, *, is_gpu: bool, memory: int | None) -> Estimate:
    """Estimate a stage's peak on one device.

    Args:
        stage: What is planned.
        is_gpu: The device is a GPU.
        memory: Of the device, bytes; the engine takes a share of it.
    """
    static = _static(stage)
    shards = stage.processes if stage.is_sharded else 1
    followed, other = (
        _follow(stage, is_gpu=is_gpu, recomputes=recomputes)
        for recomputes in (
            stage.model.gradient_checkpointing,
            not stage.model.gradient_checkpointing,
        )
    )
    gradients = followed.gradients // shards
    update = gradients + followed.logits + followed.activations
    spread = f"over {shards} devices" if shards > 1 else ""
    parts = [
        Part("weights", static.weights // shards, spread or stage.model.quantize or ""),
        Part("adapter", static.adapter // shards, spread),
        Part("optimizer", static.optimizer // shards, spread),
        Part("gradients", gradients, spread),
        Part("activations", followed.activations, _recomputing(stage)),
        Part("logits", followed.logits, "in chunks"),
    ]
    if stage.is_sharded:
        parts.append(Part("gathered layers", static.gathered, "root, two blocks, gradients"))
    elif stage.processes > 1:
        parts.append(Part("gradient buckets", static.trained, "of DDP"))
    if stage.needs_reference:
        parts.append(Part("reference", static.weights // shards, spread or "a frozen model"))
    # Scoring and updating take turns; gradients stay meanwhile.
    parts += _reward_parts(stage, update - static.trained // shards)
    engine, cache_tokens = _engine_parts(stage, static.parameters, is_gpu=is_gpu, memory=memory)
    parts += engine
    if is_gpu and stage.engine is not None and stage.engine.get("enable_sleep"):
        parts.append(Part("asleep", -asleep(parts), "the engine while the trainer updates"))
    if is_gpu:
        parts.append(Part("CUDA context", CUDA_CONTEXT, "an allowance"))
    vocab = stage.model.architecture.get_text_config().vocab_size
    rows = stage.batch.groups * stage.batch.group_size * stage.batch.reply_tokens
    both = (followed.activations, other.activations)
    recomputed, kept = both if stage.model.gradient_checkpointing else both[::-1]
    return Estimate(
        parts=tuple(part for part in parts if part.size),
        static=static,
        recomputed=recomputed,
        kept=kept,
        whole_logits=rows * vocab * _FOUR_BYTES,
        cache_tokens=cache_tokens,
    )


def asleep(parts: Iterable[Part]) -> int:
    """Bytes that ``enable_sleep`` saves: engine and update take turns, and the larger one counts.

    Args:
        parts: Of a stage whose engine stays awake.
    """
    size = {part.name: part.size for part in parts}
    engine, update = (
        sum(size.get(name, 0) for name in names)
        for names in (
            ("engine weights", "engine cache"),
            ("gradients", "activations", "logits"),
        )
    )
    return min(engine, update)


def chunk_of(stage: PlannedStage, *, is_gpu: bool) -> int:
    """Rows whose logits exist at once."""
    vocab = stage.model.architecture.get_text_config().vocab_size
    return chunk_rows(vocab, "cuda" if is_gpu else "cpu")


def _has_head(stage: PlannedStage) -> bool:
    return stage.kind != "reward model"


def _recomputing(stage: PlannedStage) -> str:
    return "computed again" if stage.model.gradient_checkpointing else "kept for backward"


def _static(stage: PlannedStage) -> StaticMemory:
    return static_memory(
        lambda depth: stage.model.build(depth, has_head=_has_head(stage)),
        num_layers=stage.model.num_layers,
        dtype=torch.bfloat16 if stage.precision == "bf16-true" else None,
    )


def _follow(stage: PlannedStage, *, is_gpu: bool, recomputes: bool) -> Followed:
    return follow_training(
        lambda depth: stage.model.build(
            depth, has_head=_has_head(stage), gradient_checkpointing=recomputes
        ),
        stage.batch,
        num_layers=stage.model.num_layers,
        precision=stage.precision,
        device="cuda" if is_gpu else "cpu",
        in_passes=stage.kind == "policy" and not (is_gpu or stage.is_sharded),
        kept="always" if stage.num_micro_batches > 1 else "forward",
    )


def _reward_parts(stage: PlannedStage, room: int) -> list[Part]:
    """Count the reward model, and what scoring needs beyond the room that an update leaves it."""
    reward, scoring = stage.reward, stage.scoring
    if reward is None or scoring is None:
        return []
    static = static_memory(
        lambda depth: reward.build(depth, has_head=False), num_layers=reward.num_layers
    )
    computes = stage.model if stage.shares_base else reward
    work = follow_scoring(
        lambda depth: computes.build(depth, has_head=False, gradient_checkpointing=False),
        scoring,
        num_layers=computes.num_layers,
        precision=stage.precision if stage.shares_base else "32-true",
    )
    if stage.shares_base:
        parts = [Part("reward model", static.adapter, "on the policy's base")]
    else:
        parts = [Part("reward model", static.weights + static.adapter, "a model of its own")]
    return [*parts, Part("scoring", max(work - room, 0), "beyond what an update takes")]


def _engine_parts(
    stage: PlannedStage, numbers: int, *, is_gpu: bool, memory: int | None
) -> tuple[list[Part], int | None]:
    engine = stage.engine
    if engine is None:
        return [], None
    weights = _engine_weights(stage, engine, numbers, is_gpu=is_gpu)
    per_token = cache_bytes_per_token(stage, is_gpu=is_gpu)
    if not is_gpu:
        cache, note = int(float(engine.get("kv_cache_gib", 1.0)) * GIB), "kv_cache_gib"
    elif memory is not None:
        share = int(float(engine.get("gpu_memory_utilization", 0.4)) * memory)
        cache, note = max(share - weights - ENGINE_WORK, 0), "what gpu_memory_utilization leaves"
    else:
        sequences = min(int(engine.get("max_num_seqs", 256)), max(stage.completions, 1))
        cache, note = sequences * stage.max_length * per_token, f"{sequences} whole sequences"
    parts = [Part("engine weights", weights, str(engine.get("quantization") or ""))]
    parts += [Part("engine work", ENGINE_WORK, "an allowance")] if is_gpu else []
    return [*parts, Part("engine cache", cache, note)], cache // per_token


def _engine_weights(
    stage: PlannedStage, engine: Mapping[str, Any], numbers: int, *, is_gpu: bool
) -> int:
    architecture = stage.model.architecture.get_text_config()
    size = _engine_bytes(engine, is_gpu=is_gpu)
    outside: int = architecture.vocab_size * architecture.hidden_size
    outside *= 1 if architecture.tie_word_embeddings else 2
    if not is_gpu:
        # vLLM multiplies by packed copies, beside which it keeps embedding and output head.
        return (numbers + outside) * size
    if not engine.get("quantization"):
        return numbers * size
    # Embedding and output head stay as they are.
    return (numbers - outside) + outside * size


def _engine_bytes(engine: Mapping[str, Any], *, is_gpu: bool) -> int:
    """Bytes of a number as the engine computes."""
    dtype = engine.get("dtype") or "auto"
    if dtype == "auto":
        dtype = "bfloat16" if is_gpu else "float32"
    return _FOUR_BYTES if dtype == "float32" else _TWO_BYTES


def cache_bytes_per_token(stage: PlannedStage, *, is_gpu: bool) -> int:
    """Key and value of one token in all layers, bytes."""
    config = stage.model.architecture.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = _engine_bytes(stage.engine or {}, is_gpu=is_gpu)
    return 2 * int(config.num_hidden_layers) * int(heads) * int(width) * size

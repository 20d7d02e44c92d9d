"""Which keys to turn where a planned stage does not fit."""

from math import ceil

from rlff_lightning.commands.plan_batch import Kind
from rlff_lightning.commands.plan_memory import GIB, Estimate, asleep, cache_bytes_per_token
from rlff_lightning.commands.plan_model import PlannedModel
from rlff_lightning.commands.plan_stage import PlannedStage

HEADROOM = 0.95
"""Share of a device's memory that may be planned; fragmentation takes some."""
_LENGTHS: dict[Kind, str] = {
    "policy": "chat.max_prompt_tokens, rollout.max_tokens or rollout.group_size",
    "reward model": "reads.max_tokens",
    "supervised": "chat.max_prompt_tokens",
}


def advise(stage: PlannedStage, estimate: Estimate, memory: int, *, is_gpu: bool) -> list[str]:
    """Say what is too large, largest gain first, and the keys that make it smaller.

    Args:
        stage: What is planned.
        estimate: Its memory.
        memory: Of the device, bytes.
        is_gpu: The device is a GPU.

    Returns:
        A line for each key; none if the stage fits.
    """
    lines = _too_small_cache(stage, estimate, memory, is_gpu=is_gpu)
    over = estimate.total - int(memory * HEADROOM)
    if over <= 0:
        return lines
    turns = sorted(_turns(stage, estimate), reverse=True)
    return [*lines, *(f"{key} ({_gib(gain)} less)" for gain, key in turns if gain > 0)]


def _turns(stage: PlannedStage, estimate: Estimate) -> list[tuple[int, str]]:
    static, size = estimate.static, estimate.size
    turns = _model_turns(stage, estimate)
    if stage.batch.groups > 1:
        key = (
            "trainer.accumulate_grad_batches higher"
            if stage.kind == "policy"
            else "data.init_args.batch_size lower, trainer.accumulate_grad_batches higher"
        )
        gain = int(size("activations") * (1 - 1 / stage.batch.groups))
        turns.append((gain, f"{key}: one context per micro-batch"))
    else:
        key = f"model.init_args.{_LENGTHS[stage.kind]} halved"
        turns.append((size("activations") // 2, key))
    # A base cannot be shared where it is sharded.
    if not stage.is_sharded and not stage.shares_base and stage.processes > 1:
        gain = static.weights + static.adapter + static.optimizer + static.trained
        gain = gain * (stage.processes - 1) // stage.processes
        turns.append((gain, "--config configs/overlay/fsdp2.yaml"))
    if stage.reward and not stage.shares_base and _can_share(stage, stage.reward):
        turns.append((size("reward model"), "scorers: RewardModelScorer.share_base: true"))
    turns.append((size("scoring"), "scorers: RewardModelScorer.batch_size lower"))
    turns.append((size("reference"), "objective.kl_coef: 0, or a LoRA policy"))
    if stage.engine is not None:
        needed = stage.max_length * min(stage.completions, 8)
        spare = size("engine cache") - needed * cache_bytes_per_token(stage, is_gpu=True)
        turns.append((spare, "engine: gpu_memory_utilization lower"))
        if not stage.engine.get("enable_sleep"):
            key = "engine: enable_sleep: true, without rollout.ahead"
            turns.append((asleep(estimate.parts), key))
        if not stage.engine.get("quantization"):
            turns.append((size("engine weights") // 3, "engine: quantization: fp8_per_tensor"))
    return turns


def _model_turns(stage: PlannedStage, estimate: Estimate) -> list[tuple[int, str]]:
    static, model = estimate.static, stage.model
    trained = static.optimizer + static.trained
    if stage.backbone is None:
        key = "model.init_args.pocket.num_layers, hidden_size or vocab_size lower"
        return [((static.weights + trained) // 2, key)]
    turns: list[tuple[int, str]] = []
    key = f"model.init_args.{stage.backbone}"
    if not model.gradient_checkpointing:
        turns.append((estimate.kept - estimate.recomputed, f"{key}.gradient_checkpointing: true"))
    if model.adapter is None:
        turns.append((trained, f"{key}.adapter: {{rank: 16}}"))
    elif model.quantize is None:
        turns.append((static.weights * 2 // 3, f"{key}.quantize: nf4"))
    return turns


def _can_share(stage: PlannedStage, reward: PlannedModel) -> bool:
    """Say whether the reward model's adapter could stand on the policy's base."""
    own = stage.model
    both_adapted = own.adapter is not None and reward.adapter is not None
    alike = (own.base, own.quantize) == (reward.base, reward.quantize)
    return both_adapted and alike and not stage.is_sharded


def _too_small_cache(
    stage: PlannedStage, estimate: Estimate, memory: int, *, is_gpu: bool
) -> list[str]:
    if stage.engine is None or estimate.cache_tokens is None:
        return []
    if estimate.cache_tokens >= stage.max_length:
        return []
    missing = stage.max_length * cache_bytes_per_token(stage, is_gpu=is_gpu)
    if not is_gpu:
        return [f"engine: kv_cache_gib at least {missing / GIB:.2f}: it must hold one sequence"]
    engine = estimate.size("engine weights") + estimate.size("engine work") + missing
    is_packed = bool(stage.engine.get("quantization"))
    if engine > memory * HEADROOM:
        way_out = "a larger device" if is_packed else "quantization: fp8_per_tensor"
        return [
            f"engine: it does not fit: its weights and one sequence take {_gib(engine)}; {way_out}"
        ]
    # Rounded up: the share that is named must do.
    share = f"engine: gpu_memory_utilization at least {ceil(100 * engine / memory) / 100:.2f}"
    other = "" if is_packed else ", or quantization: fp8_per_tensor"
    return [f"{share}{other}: its share must hold its weights and one sequence"]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

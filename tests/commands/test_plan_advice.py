from dataclasses import replace
from typing import Any

import pytest

from rlff_lightning.commands.plan_advice import advise
from rlff_lightning.commands.plan_memory import estimate_stage
from rlff_lightning.commands.plan_model import PlannedModel, pocket_architecture
from rlff_lightning.commands.plan_stage import PlannedStage
from rlff_lightning.models.backbone import LoraSettings
from rlff_lightning.models.training_memory import MicroBatch

POCKET = PlannedModel(
    name="warm_start/model",
    base="warm_start/model",
    architecture=pocket_architecture({"num_layers": 4}),
    dtype="bfloat16",
)
POLICY = PlannedStage(
    kind="policy",
    model=POCKET,
    backbone="policy",
    batch=MicroBatch(groups=2, group_size=4, prompt_tokens=64, reply_tokens=32, sharing="shared"),
    precision="bf16-mixed",
    num_micro_batches=2,
    processes=1,
    is_sharded=False,
    needs_reference=False,
    engine=None,
    reward=None,
    scoring=None,
    shares_base=False,
    completions=16,
    max_length=96,
)
LORA = replace(POCKET, adapter=LoraSettings(rank=4))


def advice(stage: PlannedStage, memory: int = 1, **engine: Any) -> str:
    stage = replace(stage, engine=engine) if engine else stage
    estimate = estimate_stage(stage, is_gpu=True, memory=memory)
    return "\n".join(advise(stage, estimate, memory, is_gpu=True))


def total(stage: PlannedStage) -> int:
    return estimate_stage(stage, is_gpu=True, memory=None).total


def test_every_key_of_the_model_that_is_advised_lowers_the_total() -> None:
    turned: list[tuple[PlannedModel, str, PlannedModel]] = [
        (
            POCKET,
            "policy.gradient_checkpointing: true",
            replace(POCKET, gradient_checkpointing=True),
        ),
        (POCKET, "policy.adapter: {rank: 16}", replace(POCKET, adapter=LoraSettings(rank=16))),
        (LORA, "policy.quantize: nf4", replace(LORA, quantize="nf4")),
    ]
    for before, key, after in turned:
        assert key in advice(replace(POLICY, model=before))
        assert total(replace(POLICY, model=after)) < total(replace(POLICY, model=before))


@pytest.mark.parametrize(
    ("kind", "backbone", "told"),
    [
        ("policy", "policy", "model.init_args.chat.max_prompt_tokens, rollout.max_tokens or"),
        ("supervised", "backbone", "model.init_args.chat.max_prompt_tokens halved"),
        ("supervised", None, "model.init_args.pocket.num_layers, hidden_size or vocab_size lower"),
        ("reward model", "backbone", "model.init_args.reads.max_tokens halved"),
    ],
)
def test_keys_are_those_of_the_stage_s_own_module(kind: Any, backbone: Any, told: str) -> None:
    stage = replace(POLICY, kind=kind, backbone=backbone, batch=replace(POLICY.batch, groups=1))
    found = advice(stage)
    assert told in found
    assert ("rollout" in found) is (kind == "policy")
    assert (".gradient_checkpointing" in found) is (backbone is not None)
    assert (".adapter" in found) is (backbone is not None)


@pytest.mark.parametrize("memory", [2**31, 2**34])
def test_an_engine_that_sleeps_and_the_update_count_once_the_larger_of_them(memory: int) -> None:
    awake, asleep = (
        estimate_stage(replace(POLICY, engine={"enable_sleep": sleeps}), is_gpu=True, memory=memory)
        for sleeps in (False, True)
    )
    engine = awake.size("engine weights") + awake.size("engine cache")
    update = sum(awake.size(name) for name in ("gradients", "activations", "logits"))
    assert min(engine, update) > 0
    assert asleep.total == awake.total - engine - update + max(engine, update)
    assert "engine: enable_sleep: true, without rollout.ahead" in advice(POLICY, seed=0)
    assert "enable_sleep" not in advice(POLICY, enable_sleep=True)


def test_a_share_that_no_device_has_is_not_advised() -> None:
    # Weights, a GiB to work in and a sequence's cache: 1.003 GiB.
    assert "gpu_memory_utilization at least 0.51, or quantization" in advice(
        POLICY, 2 * 2**30, gpu_memory_utilization=0.1
    )
    assert "engine: it does not fit: its weights and one sequence take 1.0 GiB" in advice(
        POLICY, 2**30, gpu_memory_utilization=0.1
    )
    packed = advice(POLICY, 2**30, gpu_memory_utilization=0.1, quantization="fp8_per_tensor")
    assert "one sequence take 1.0 GiB; a larger device" in packed


def test_a_base_is_shared_only_where_the_scorer_does_not_refuse_it() -> None:
    own = replace(POLICY, model=LORA, reward=LORA, scoring=POLICY.batch, processes=2)
    share, shard = "RewardModelScorer.share_base: true", "configs/overlay/fsdp2.yaml"
    assert share in advice(own)
    assert shard in advice(own)
    assert shard not in advice(replace(own, shares_base=True))
    for other in (
        replace(own, is_sharded=True),
        replace(own, reward=POCKET),
        replace(own, reward=replace(LORA, quantize="nf4")),
        replace(own, reward=replace(LORA, base="some/other")),
    ):
        assert share not in advice(other)

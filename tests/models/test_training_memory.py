"""The estimate against what real steps allocate, and against arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from rlff_lightning.models import group_logps as group_logps_module
from rlff_lightning.models import training_memory
from rlff_lightning.models.backbone import LoraSettings
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.models.memory_timeline import MemoryTimeline
from rlff_lightning.models.static_memory import static_memory
from rlff_lightning.models.training_memory import MicroBatch, chunk_rows, follow_training
from rlff_lightning.models.without_weights import build_without_weights

LAYERS = 3
CONFIG = Qwen2Config(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
BATCH = MicroBatch(groups=2, group_size=4, prompt_tokens=96, reply_tokens=24, sharing="shared")


def builder(config: Qwen2Config = CONFIG, **settings: Any) -> Callable[[int | None], Any]:
    return lambda depth: build_without_weights(config, num_layers=depth, **settings)


def real_peak(*, after_an_update: bool = False, **settings: Any) -> int:
    """Allocate for real: the trainer's own function on real tokens."""
    model = builder(**settings)(None).to_empty(device="cpu")
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    prompts = torch.randint(512, (BATCH.groups, BATCH.prompt_tokens))
    replies = torch.randint(512, (BATCH.groups * BATCH.group_size, BATCH.reply_tokens))
    rows = (prompts, torch.ones_like(prompts).bool(), replies, torch.ones_like(replies).bool())
    known = [*model.parameters(), *model.buffers(), *rows]
    with MemoryTimeline(lambda _: "all", known) as timeline:
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight) if after_an_update else None
        loss = group_logps(model, *rows, sharing="shared").logps.sum()
        model.zero_grad()  # where Lightning does it
        loss.backward()  # type: ignore[no-untyped-call]
    return timeline.peak().total


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"adapter": LoraSettings(rank=4)}],
    ids=["full", "checkpointing", "lora"],
)
def test_the_estimate_is_what_a_real_step_allocates(settings: dict[str, Any]) -> None:
    found = follow_training(builder(**settings), BATCH, num_layers=LAYERS)
    assert found.total == pytest.approx(real_peak(**settings), rel=0.03)


def test_groups_that_a_cpu_reads_in_turns_are_followed_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_logps_module, "CPU_PASS_TOKENS", 200)  # one of the two groups
    build = builder(gradient_checkpointing=True)
    found, at_once = (
        follow_training(build, BATCH, num_layers=LAYERS, in_passes=in_passes).total
        for in_passes in (True, False)
    )
    assert found == pytest.approx(real_peak(gradient_checkpointing=True), rel=0.03)
    assert at_once > 1.1 * found


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=str)
def test_a_deep_model_is_estimated_from_shallow_ones(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = Qwen2Config(**{**CONFIG.to_dict(), "num_hidden_layers": 7, "layer_types": None})
    guessed = follow_training(builder(deep, **settings), BATCH, num_layers=7)
    monkeypatch.setattr(training_memory, "DEPTHS", (7, 8))  # nothing is left to guess
    exact = follow_training(builder(deep, **settings), BATCH, num_layers=7)
    assert guessed.total == pytest.approx(exact.total, rel=0.01)


def test_the_last_update_s_gradients_stay_through_the_forward_pass() -> None:
    found = follow_training(builder(), BATCH, num_layers=LAYERS, kept="forward")
    assert found.total == pytest.approx(real_peak(after_an_update=True), rel=0.03)
    assert found.total > 1.05 * real_peak()


def test_earlier_gradients_of_an_update_stay() -> None:
    model = builder()(None)
    size = sum(weight.numel() * 4 for weight in model.parameters())
    found = follow_training(builder(), BATCH, num_layers=LAYERS, kept="always")
    # All of the earlier gradients, and new ones that are added to them and freed.
    assert size <= found.gradients <= size + max(p.numel() * 4 for p in model.parameters())


def test_lasting_memory_is_counted_from_shallow_models(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Qwen2Config(**{**CONFIG.to_dict(), "num_hidden_layers": 9, "layer_types": None})
    counted = static_memory(builder(deep, adapter=LoraSettings(rank=4)), num_layers=9)
    model = builder(deep, adapter=LoraSettings(rank=4))(None)
    sizes = {n: p.numel() * 4 for n, p in model.named_parameters()}
    adapter = sum(size for name, size in sizes.items() if "lora_" in name)
    assert counted.adapter == counted.trained == adapter
    assert counted.weights == sum(sizes.values()) - adapter
    assert counted.optimizer == 2 * adapter  # AdamW's two moments
    # Frozen embedding and head, which lie in no block, and a norm; of two blocks the adapters'
    # gradients too.
    block = sum(
        size * (2 if "lora_" in name else 1) for name, size in sizes.items() if ".layers.0." in name
    )
    assert counted.gathered == (2 * 512 * 64 + 64) * 4 + 2 * block


def test_sharded_training_of_all_weights_holds_the_roots_gradients_whole() -> None:
    counted = static_memory(builder(), num_layers=LAYERS)
    sizes = {n: p.numel() * 4 for n, p in builder()(None).named_parameters()}
    block = sum(size for name, size in sizes.items() if ".layers.0." in name)
    root = sum(size for name, size in sizes.items() if ".layers." not in name)
    assert counted.gathered == 2 * root + 4 * block


def test_four_bits_take_an_eighth_of_float32_and_a_byte_per_64() -> None:
    counted = static_memory(
        builder(adapter=LoraSettings(rank=4), quantize="nf4"), num_layers=LAYERS
    )
    # q 64*64, k and v 64*32, o 64*64, three of 64*128; biases of q, k and v; two norms of 64.
    linear = LAYERS * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    other = LAYERS * (64 + 2 * 32 + 2 * 64) + 2 * 512 * 64 + 64
    assert counted.weights == linear // 2 + linear // 64 + other * 4


def test_chunks_are_as_large_as_the_device_likes() -> None:
    assert chunk_rows(1024, "cpu") == 2**23 // 1024
    assert chunk_rows(152_064, "cuda") == 441  # 2^26 / 152064
    assert chunk_rows(10**9, "cpu") == 64

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    NemotronConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.models.prefix_attention import PREFIX_ATTENTION
from rlff_lightning.models.prefix_sharing import pack_groups

SIZES = {
    "vocab_size": 29,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
Group = tuple[Tensor, Tensor, Tensor, Tensor]


def qwen2() -> nn.Module:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)).eval()


def llama() -> nn.Module:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)).eval()


def with_lora(model: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    peft = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, weight in peft.named_parameters():
        if "lora_B" in name:  # zero at first, and then half of the gradients are zero too
            nn.init.normal_(weight, std=0.2)
    return peft


def groups(prompt_lengths: list[int], lengths: list[int], *, extra: int = 0) -> Group:
    """Random groups with ``extra`` columns of padding on either side."""
    torch.manual_seed(3)

    def mask(counts: list[int]) -> Tensor:
        steps = torch.arange(max(counts) + extra)
        return steps < torch.tensor(counts)[:, None]

    prompt_mask, completion_mask = mask(prompt_lengths).flip(1), mask(lengths)
    prompt_ids = torch.randint(0, 29, prompt_mask.shape)
    return (
        prompt_ids,
        prompt_mask,
        torch.randint(0, 29, completion_mask.shape),
        completion_mask,
    )


def loss_and_gradients(
    model: nn.Module, batch: Group, sharing: str
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    stats = group_logps(model, *batch, temperature=0.8, sharing=sharing, with_entropy=True)
    torch.manual_seed(4)
    weights = torch.randn(2, *stats.logps.shape)
    loss = (weights[0] * stats.logps + weights[1] * stats.entropy).sum()
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert grads
    return torch.cat([stats.logps.detach(), stats.entropy.detach()]), grads


def assert_shared_equals_padded(model: nn.Module, batch: Group, tolerance: float = 2e-5) -> None:
    stats, grads = loss_and_gradients(model, batch, "padded")
    shared_stats, shared_grads = loss_and_gradients(model, batch, "shared")
    torch.testing.assert_close(shared_stats, stats, atol=tolerance, rtol=0)
    assert shared_grads.keys() == grads.keys()
    for name, grad in grads.items():
        scale = grad.abs().max().item()
        torch.testing.assert_close(
            shared_grads[name], grad, atol=tolerance * max(scale, 1), rtol=0, msg=name
        )


@pytest.mark.parametrize("build", [qwen2, llama])
@pytest.mark.parametrize(
    ("prompt_lengths", "lengths"),
    [
        ([7], [5, 5, 5, 5]),
        ([7], [1, 1]),  # nothing but prompts is computed
        ([1], [4, 2]),
        ([6, 2, 9], [3, 1, 4, 1, 2, 7]),  # several groups, unequal prompts and replies
        ([6, 3], [1, 1, 2, 5]),  # a group without reply tokens beside one with them
        ([4, 5], [3, 2]),  # groups of one
        ([4], [0, 3]),  # an empty completion
    ],
)
def test_shared_prompts_give_the_loss_and_gradients_of_padded_rows(
    attention_form: str, build, prompt_lengths: list[int], lengths: list[int]
):
    assert_shared_equals_padded(build(), groups(prompt_lengths, lengths, extra=2))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_shared_equals_padded_for_any_lengths(data: st.DataObject):
    prompts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    size = data.draw(st.integers(1, 3))
    lengths = data.draw(
        st.lists(st.integers(1, 5), min_size=len(prompts) * size, max_size=len(prompts) * size)
    )
    assert_shared_equals_padded(qwen2(), groups(prompts, lengths))


@pytest.mark.parametrize("build", [qwen2, llama])
def test_shared_equals_padded_with_lora(attention_form: str, build):
    assert_shared_equals_padded(with_lora(build()), groups([6, 2], [3, 1, 4, 2]))


@pytest.mark.parametrize("has_lora", [False, True])
def test_shared_equals_padded_with_gradient_checkpointing(attention_form: str, has_lora: bool):
    model = with_lora(qwen2()) if has_lora else qwen2()
    batch = groups([6, 2], [3, 1, 4, 2])
    _, plain = loss_and_gradients(model, batch, "shared")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_shared_equals_padded(model, batch)
    _, checkpointed = loss_and_gradients(model, batch, "shared")
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad)


def test_shared_equals_padded_on_a_four_bit_base(tmp_path: Path):
    qwen2().save_pretrained(tmp_path)
    model = Backbone(str(tmp_path), quantize="nf4", adapter=LoraSettings(rank=4)).build()
    assert any("4bit" in type(module).__name__ for module in model.modules())
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    assert_shared_equals_padded(model, groups([6, 2], [3, 1, 4, 2]))


def test_shared_equals_padded_under_autocast_to_its_rounding():
    batch = groups([6, 2], [3, 1, 4, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_shared_equals_padded(llama(), batch, tolerance=0.1)


def test_siblings_do_not_see_each_other():
    model, batch = qwen2(), groups([6], [3, 4])
    before = group_logps(model, *batch, sharing="shared").logps
    changed = copy.deepcopy(batch)
    changed[2][0] = (changed[2][0] + 1) % 29
    after = group_logps(model, *changed, sharing="shared").logps
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0])


def test_a_packed_row_holds_each_prompt_once_and_no_last_token():
    prompt_ids = torch.tensor([[0, 11, 12], [21, 22, 23]])
    prompt_mask = torch.tensor([[False, True, True], [True, True, True]])
    completion_ids = torch.tensor([[31, 32], [33, 0], [34, 35], [0, 0]])
    completion_mask = torch.tensor([[True, True], [True, False], [True, True], [False, False]])
    packed = pack_groups(prompt_ids, prompt_mask, completion_ids, completion_mask)
    assert packed.input_ids.tolist() == [[11, 12, 21, 22, 23, 31, 34]]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2, 2, 3]]
    assert packed.layout.sequences == ((0, 2), (2, 5), (5, 6), (6, 7))
    assert packed.layout.groups == (((5, 6), (0, 2)), ((6, 7), (2, 5)))
    assert packed.last.tolist() == [5, 1, 6, 4]
    # 31 follows 12, 32 follows 31, 33 follows 12, 34 follows 23, 35 follows 34.
    assert packed.predictors.tolist() == [1, 5, 1, 4, 6]


def test_a_packed_row_can_hold_last_tokens_too():
    prompt_ids = torch.tensor([[11, 12]])
    completion_ids = torch.tensor([[31, 32], [33, 0], [0, 0]])
    completion_mask = torch.tensor([[True, True], [True, False], [False, False]])
    packed = pack_groups(
        prompt_ids,
        torch.ones(1, 2, dtype=torch.bool),
        completion_ids,
        completion_mask,
        with_last_token=True,
    )
    assert packed.input_ids.tolist() == [[11, 12, 31, 32, 33]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert packed.last.tolist() == [3, 4, 1]


def test_a_model_with_prefix_attention_still_computes_as_with_sdpa():
    model = qwen2()
    ids = torch.randint(0, 29, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    before = model(input_ids=ids, attention_mask=mask).logits
    group_logps(model, *groups([6], [3, 4]), sharing="shared")
    assert model.config._attn_implementation == PREFIX_ATTENTION
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 12)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (MixtralConfig(**SIZES, num_local_experts=2, output_router_logits=True), "router"),
        (NemotronConfig(**SIZES), "does not take an attention function"),
        (DogeConfig(**SIZES, is_moe=False), "does not take an attention function"),
    ],
    ids=lambda each: getattr(each, "model_type", ""),
)
def test_models_whose_attention_is_not_told_who_sees_whom_are_padded_by_auto(
    config: PretrainedConfig, told: str
):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    batch = groups([20], [3, 4, 2])
    with pytest.raises(UserError, match=told):
        group_logps(model, *batch, sharing="shared")
    found, expected = (group_logps(model, *batch, sharing=s) for s in ("auto", "padded"))
    assert torch.equal(found.logps, expected.logps)


def test_sliding_windows_are_refused_when_shared_and_padded_when_auto():
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)).eval()
    batch = groups([6], [3, 4])
    with pytest.raises(UserError, match="sliding"):
        group_logps(model, *batch, sharing="shared")
    torch.testing.assert_close(
        group_logps(model, *batch).logps, group_logps(model, *batch, sharing="padded").logps
    )


def test_a_model_that_drops_the_layout_fails_instead_of_mixing_sequences():
    model = qwen2()
    batch = groups([6], [3, 4])
    group_logps(model, *batch, sharing="shared")
    inputs = pack_groups(*batch).model_inputs()
    del inputs["prefix_layout"]
    with pytest.raises(RuntimeError):
        model(**inputs)

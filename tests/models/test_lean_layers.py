import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GemmaConfig,
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Mamba2Config,
    ModernBertConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from rlff_lightning.models.lean_layers import use_lean_layers

OTHER_SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "rotary_pct": 0.5,
}
SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def built(config: PretrainedConfig) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def lean_kinds(model: nn.Module) -> set[str]:
    return {name for m in model.modules() if (name := type(m).__name__).startswith("Lean")}


def outcome(model: nn.Module) -> list[Tensor]:
    ids = torch.arange(10).view(2, 5)
    logits = model(ids).logits
    model.zero_grad()
    logits.square().sum().backward()
    return [logits.detach(), *(weight.grad.clone() for weight in model.parameters())]


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (Qwen2Config(**SIZES), {"LeanQwen2RMSNorm", "LeanQwen2MLP", "LeanQwen2Attention"}),
        (Qwen3Config(**SIZES), {"LeanQwen3RMSNorm", "LeanQwen3MLP", "LeanQwen3Attention"}),
        (LlamaConfig(**SIZES), {"LeanLlamaRMSNorm", "LeanLlamaMLP", "LeanLlamaAttention"}),
    ],
    ids=["qwen2", "qwen3", "llama"],
)
def test_a_lean_model_computes_the_same(config: PretrainedConfig, kinds: set[str]) -> None:
    model = built(config)
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    assert lean_kinds(lean) == kinds
    assert lean.state_dict().keys() == model.state_dict().keys()
    for a, b in zip(outcome(lean), outcome(copy.deepcopy(model)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=1e-4)
    # Once more changes nothing, and a copy is as lean.
    use_lean_layers(lean)
    assert lean_kinds(copy.deepcopy(lean)) == kinds


def test_in_bfloat16_the_models_own_norm_decides_what_is_rounded() -> None:
    model = built(Qwen2Config(**SIZES)).bfloat16()
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    ids = torch.arange(10).view(2, 5)
    torch.testing.assert_close(lean(ids).logits, model(ids).logits, atol=0.02, rtol=0.02)
    norm = lean.get_submodule("model.norm")
    rows = torch.randn(3, 16).bfloat16()
    assert norm(rows).equal(model.get_submodule("model.norm")(rows))


def test_layers_that_compute_something_else_stay_as_they_are() -> None:
    # Gemma adds one to a norm's weight and has another gate; GLM turns neighbours, not halves.
    model = built(GemmaConfig(**SIZES))
    use_lean_layers(model)
    assert lean_kinds(model) == {"LeanGemmaAttention"}
    model = built(GlmConfig(**SIZES, pad_token_id=0))
    use_lean_layers(model)
    assert "LeanGlmAttention" not in lean_kinds(model)
    other = built(Qwen2Config(**SIZES, hidden_act="gelu"))
    use_lean_layers(other)
    assert lean_kinds(other) == {"LeanQwen2RMSNorm", "LeanQwen2Attention"}


@pytest.mark.parametrize(
    "config",
    [
        # Half of each head is turned, by layers that take the rotation's usual name.
        GPTNeoXConfig(**OTHER_SIZES),
        Phi3Config(**SIZES, pad_token_id=0, partial_rotary_factor=0.5),
        # Norms with a gate beside the rows.
        Mamba2Config(
            vocab_size=31,
            hidden_size=16,
            num_hidden_layers=2,
            num_heads=4,
            head_dim=8,
            state_size=4,
            n_groups=1,
            pad_token_id=0,
        ),
        Qwen3NextConfig(
            **{**SIZES, "num_hidden_layers": 4, "num_experts": 2, "num_experts_per_tok": 1},
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            linear_num_value_heads=2,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_models_with_layers_of_other_kinds_compute_the_same(config: PretrainedConfig) -> None:
    model = built(config)
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    ids = torch.arange(10).view(2, 5)
    torch.testing.assert_close(lean(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_names_the_rotations_dimension_computes_the_same() -> None:
    torch.manual_seed(0)
    sizes = {name: value for name, value in OTHER_SIZES.items() if name != "rotary_pct"}
    config = ModernBertConfig(**sizes, pad_token_id=0, attn_implementation="eager")
    model = AutoModel.from_config(config).eval()
    lean = copy.deepcopy(model)
    use_lean_layers(lean)
    ids = torch.arange(1, 11).view(2, 5)
    torch.testing.assert_close(
        lean(ids).last_hidden_state, model(ids).last_hidden_state, atol=1e-5, rtol=1e-5
    )

"""The last layer computes what is read alone, and what is read is what it was."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    HrmTextConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlff_lightning.models.group_inputs import group_inputs
from rlff_lightning.models.group_logps import group_logps
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.last_layer import _LastLayer, gives_read_alone, use_last_layer
from rlff_lightning.models.reward_head import RewardModel

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
PROMPT_IDS = torch.tensor([[0, 11, 12, 3], [21, 22, 23, 5]])
PROMPT_MASK = PROMPT_IDS > 0
COMPLETION_IDS = torch.tensor([[30, 2, 4], [3, 0, 0], [4, 5, 0], [0, 0, 0]])
COMPLETION_MASK = COMPLETION_IDS > 0
GROUPS = PROMPT_IDS, PROMPT_MASK, COMPLETION_IDS, COMPLETION_MASK
NUM_READ = {"predictors": int(COMPLETION_MASK.sum()), "last": len(COMPLETION_IDS)}
PLAIN = [Qwen2Config, Qwen3Config, LlamaConfig]


def built(config: PretrainedConfig, kind: type = AutoModelForCausalLM) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = kind.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def num_fed_forward(model: nn.Module) -> list[int]:
    """Watch how many tokens the feed-forward part of each layer computes."""
    fed: list[int] = []
    for module in model.modules():
        if hasattr(module, "down_proj"):
            module.register_forward_hook(lambda _, given, __: fed.append(given[0].shape[1]))
    return fed


def outcome(model: nn.Module) -> list[Tensor]:
    stats = group_logps(model, *GROUPS, sharing="shared", with_entropy=True)
    (stats.logps.square().sum() + stats.entropy.sum()).backward()
    grads = [w.grad for w in model.parameters() if w.grad is not None]
    return [stats.logps.detach(), stats.entropy.detach(), *grads]


@pytest.mark.parametrize("config", PLAIN)
@pytest.mark.parametrize("option", ["all", "lora", "checkpointing"])
def test_log_probabilities_and_gradients_stay_and_unread_tokens_are_left_out(
    config: type[PretrainedConfig], option: str
) -> None:
    model = built(config(**SIZES))
    if option == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
    if option == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.double().train()
    other = copy.deepcopy(model)
    use_last_layer(other)
    assert [gives_read_alone(each) for each in (model, other)] == [False, True]
    fed = num_fed_forward(other)
    expected, found = outcome(model), outcome(other)
    assert len(found) == len(expected) > 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    # Seven tokens of prompts, and those of replies that are fed: all but each one's last.
    num_packed = 7 + 3
    assert fed[:2] == [num_packed, NUM_READ["predictors"]]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_reward_model_computes_the_last_tokens_alone_if_it_reads_one_layer(
    layers: int, adapted: bool
) -> None:
    trunk = built(Qwen2Config(**SIZES), AutoModel).eval()
    if adapted:
        trunk = get_peft_model(trunk, LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(1)
    model = RewardModel(trunk, HeadSettings(layers=layers))
    with torch.no_grad():
        expected = model.forward_groups(*GROUPS, sharing="padded")
        use_last_layer(trunk)
        fed = num_fed_forward(trunk)
        found = model.forward_groups(*GROUPS, sharing="shared")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert fed[1] == (NUM_READ["last"] if layers == 1 else fed[0])


def test_under_autocast_the_log_probabilities_are_those_of_padded_rows() -> None:
    model = built(Qwen2Config(**SIZES)).eval()
    use_last_layer(model)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        padded, shared = (
            group_logps(model, *GROUPS, sharing=sharing).logps for sharing in ("padded", "shared")
        )
    torch.testing.assert_close(shared, padded, rtol=0, atol=0.03)


def test_a_layer_that_gives_other_tokens_is_told() -> None:
    model = built(Qwen2Config(**SIZES)).eval()
    inputs = group_inputs(model, "shared", *GROUPS)
    layout = replace(inputs.inputs["prefix_layout"], read=inputs.read)
    promised = inputs._replace(inputs={"prefix_layout": layout})
    with pytest.raises(RuntimeError, match="was to give 6 states, got 10"):
        promised.take(torch.zeros(1, 10, 16))


def test_stacks_that_are_run_through_in_turns_are_left_as_they_are() -> None:
    model = built(HrmTextConfig(**SIZES, max_position_embeddings=64))
    use_last_layer(model)
    assert not gives_read_alone(model)
    assert not [module for module in model.modules() if isinstance(module, _LastLayer)]


def test_a_call_without_groups_gives_every_token() -> None:
    model = built(Qwen2Config(**SIZES)).eval()
    ids = torch.arange(1, 11).view(2, 5)
    expected = model(ids).logits
    use_last_layer(model)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, head_dim=8),  # norms behind both parts
        GPTNeoXConfig(**SIZES),  # both parts side by side
        GraniteConfig(**SIZES, residual_multiplier=0.5),
        Phi3Config(**SIZES),  # dropout between them
    ],
    ids=lambda config: config.model_type,
)
def test_layers_of_another_build_are_left_as_they_are(config: PretrainedConfig) -> None:
    model = built(config)
    kinds = [type(module) for module in model.modules()]
    use_last_layer(model)
    assert [type(module) for module in model.modules()] == kinds
    assert not gives_read_alone(model)


def test_experts_are_asked_for_what_is_read_too() -> None:
    model = built(MixtralConfig(**SIZES, num_local_experts=3)).eval()
    expected = group_logps(model, *GROUPS, sharing="padded").logps
    use_last_layer(model)
    found = group_logps(model, *GROUPS, sharing="shared").logps
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

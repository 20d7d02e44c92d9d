import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig, PretrainedConfig, Qwen2Config

from rlff_lightning.models.dropout import switch_dropout_off

CONFIGS = [
    GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2),
    OPTConfig(
        vocab_size=31,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        pad_token_id=0,
    ),
    Qwen2Config(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_dropout=0.3,
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_two_training_passes_agree_once_dropout_is_off(config: PretrainedConfig) -> None:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(copy.deepcopy(config)).train()
    ids = torch.arange(1, 11).view(2, 5)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    found = switch_dropout_off(model)
    assert found
    assert all("drop" in each and "=0." in each for each in found)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert switch_dropout_off(model) == []


def test_an_adapter_keeps_its_own() -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[0])),
        LoraConfig(r=2, lora_dropout=0.25),
    )
    switch_dropout_off(model)
    dropouts = {
        (".lora_dropout" in name, module.p)
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout)
    }
    assert dropouts == {(True, 0.25), (False, 0.0)}

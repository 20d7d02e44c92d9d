from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from rlff_lightning.errors import UserError
from rlff_lightning.models.adapters import merged_copy, merged_weights, policy_without_adapter
from rlff_lightning.models.backbone import Backbone, LoraSettings

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def trained_lora(folder: Path, **options) -> PeftModel:
    model = Backbone(str(folder), adapter=LoraSettings(rank=4), **options).build()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.2)
    return model


def test_without_its_adapter_a_policy_is_its_base(pocket_folder: Path):
    base, model = Backbone(str(pocket_folder)).build(), trained_lora(pocket_folder)
    adapted = model(IDS).logits
    with policy_without_adapter(model):
        assert torch.equal(model(IDS).logits, base(IDS).logits)
    assert torch.equal(model(IDS).logits, adapted)
    assert not torch.allclose(adapted, base(IDS).logits, atol=1e-2)


def test_switching_off_and_on_changes_no_requires_grad(pocket_folder: Path):
    model = trained_lora(pocket_folder)
    for is_trained in (True, False):
        for name, weight in model.named_parameters():
            weight.requires_grad_(is_trained and "lora_A" in name)
        before = [p.requires_grad for p in model.parameters()]
        with policy_without_adapter(model):
            assert [p.requires_grad for p in model.parameters()] == before
        assert [p.requires_grad for p in model.parameters()] == before


def test_the_adapter_is_on_again_after_an_error(pocket_folder: Path):
    model = trained_lora(pocket_folder)
    adapted = model(IDS).logits
    with pytest.raises(KeyError), policy_without_adapter(model):
        raise KeyError
    assert torch.equal(model(IDS).logits, adapted)


def test_a_model_without_adapter_has_no_reference_inside(pocket_folder: Path):
    model = Backbone(str(pocket_folder)).build()
    with pytest.raises(UserError, match="LoRA"), policy_without_adapter(model):
        pass


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_a_merged_copy_computes_what_the_adapted_model_does(pocket_folder: Path, quantize):
    model = trained_lora(pocket_folder, quantize=quantize)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    merged = merged_copy(model)
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, atol=2e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_modules())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])


def test_a_merged_copy_shares_no_weight(pocket_folder: Path):
    model = trained_lora(pocket_folder)
    merged, before = merged_copy(model), model(IDS).logits
    with torch.no_grad():
        for weight in merged.parameters():
            weight.zero_()
    assert torch.equal(model(IDS).logits, before)


def test_merging_rounds_once(pocket_folder: Path):
    model = trained_lora(pocket_folder, dtype="bfloat16")
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    # alpha / rank = 32 / 4 = 8.
    exact = layer.base_layer.weight.double() + 8 * (high.double() @ low.double())
    merged = dict(merged_weights(model))["model.layers.0.mlp.up_proj.weight"]
    # bfloat16 keeps 8 bits: one rounding is wrong by at most 2^-8 of the value.
    assert merged.dtype == torch.bfloat16
    assert ((merged.double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-7).all()


@pytest.mark.parametrize("has_lora", [True, False])
def test_merged_weights_are_named_as_in_a_checkpoint(pocket_folder: Path, has_lora: bool):
    plain = Backbone(str(pocket_folder)).build()
    model = trained_lora(pocket_folder) if has_lora else plain
    names = [name for name, _ in merged_weights(model, torch.float16)]
    # The tied head is left out: named_parameters gives a shared weight once.
    assert names == [name for name, _ in plain.named_parameters()]
    assert all(w.dtype == torch.float16 for _, w in merged_weights(model, torch.float16))


def test_adapters_that_are_more_than_lora_are_not_merged(pocket_folder: Path):
    model = get_peft_model(
        Backbone(str(pocket_folder)).build(),
        LoraConfig(r=2, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    )
    with pytest.raises(UserError, match="plain LoRA"):
        list(merged_weights(model))

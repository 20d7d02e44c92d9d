import json
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, Qwen2ForCausalLM, Qwen2Model

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.saving import save_model

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def test_a_full_model_trains_all_its_weights(pocket_folder: Path):
    model = Backbone(str(pocket_folder)).build()
    assert isinstance(model, Qwen2ForCausalLM)
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_lora_trains_adapters_only_and_starts_as_the_base(pocket_folder: Path):
    base = Backbone(str(pocket_folder)).build()
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=4)).build()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    assert torch.equal(model(IDS).logits, base(IDS).logits)


def test_lora_has_no_dropout_by_default(pocket_folder: Path):
    model = Backbone(str(pocket_folder), adapter=LoraSettings()).build()
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())


def test_four_bit_weights_compute_about_what_the_full_ones_do(pocket_folder: Path):
    full = Backbone(str(pocket_folder)).build()
    model = Backbone(str(pocket_folder), quantize="nf4", adapter=LoraSettings(rank=4)).build()
    layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8
    error = (model(IDS).logits - full(IDS).logits).norm() / full(IDS).logits.norm()
    assert 0 < error < 0.3
    model(IDS).logits.sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_four_bit_scores_gradients_and_weights_are_the_same_after_evaluation(pocket_folder: Path):
    model = Backbone(str(pocket_folder), quantize="nf4", adapter=LoraSettings(rank=4)).build()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    training = model(IDS).logits
    training.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, training, atol=2e-6, rtol=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    model.train()
    model.zero_grad()
    model(IDS).logits.square().sum().backward()
    for name, grad in grads.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad)


def test_bfloat16_weights_keep_float32_adapters_and_frequencies(pocket_folder: Path):
    model = Backbone(str(pocket_folder), dtype="bfloat16", adapter=LoraSettings(rank=4)).build()
    kinds = {"lora_" in name: p.dtype for name, p in model.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    model.to(torch.bfloat16)
    model(IDS)
    assert model.get_base_model().model.rotary_emb.inv_freq.dtype == torch.float32


def test_gradient_checkpointing_changes_no_gradient(pocket_folder: Path):
    grads = []
    for is_on in (False, True):
        model = Backbone(
            str(pocket_folder), adapter=LoraSettings(rank=4), gradient_checkpointing=is_on
        ).build()
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(weight, std=0.1)
        assert model.get_base_model().is_gradient_checkpointing == is_on
        model(IDS).logits.square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_saved_adapter_loads_as_a_trainable_policy(pocket_folder: Path, tmp_path: Path):
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=4)).build()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    save_model(model, None, tmp_path / "adapter")
    loaded = Backbone(str(tmp_path / "adapter")).build()
    assert isinstance(loaded, PeftModel)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(UserError, match="adapter already"):
        Backbone(str(tmp_path / "adapter"), adapter=LoraSettings()).build()


def test_the_trunk_of_a_language_model_gives_its_hidden_states(pocket_folder: Path):
    backbone = Backbone(str(pocket_folder))
    trunk, model = backbone.build_trunk(), backbone.build()
    assert isinstance(trunk, Qwen2Model)
    assert torch.equal(trunk(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


def test_an_encoder_trunk_has_no_unused_pooler(tmp_path: Path):
    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    trunk = Backbone(str(tmp_path / "bert")).build_trunk()
    trunk(IDS).last_hidden_state.square().sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())


def test_the_tokenizer_pads_with_its_end_token_if_it_has_no_other(pocket_folder: Path):
    tokenizer = Backbone(str(pocket_folder)).tokenizer()
    assert tokenizer.pad_token == "<eos>"
    assert tokenizer("w0 w3")["input_ids"] == [2, 5]


def test_a_qwen2_config_does_not_change_how_the_tokenizer_splits(pocket_folder: Path):
    # Split at whitespace only; Qwen2's own tokenizer would split "w1" and ".w2" and know no "é".
    tokenizer = Backbone(str(pocket_folder)).tokenizer()
    assert len(tokenizer) == 32
    assert tokenizer("w1 w12 é")["input_ids"] == [3, 14, 1]


def test_yaml_describes_a_backbone(tmp_path: Path):
    parser = ArgumentParser()
    parser.add_argument("--policy", type=Backbone)
    file = tmp_path / "model.yaml"
    file.write_text(
        "model_name_or_path: some/model\nquantize: nf4\nadapter:\n  rank: 8\n", encoding="utf-8"
    )
    backbone = parser.instantiate(parser.parse_args([f"--policy={file}"])).policy
    assert backbone == Backbone("some/model", quantize="nf4", adapter=LoraSettings(rank=8))


def test_yaml_may_name_the_class(tmp_path: Path):
    parser = ArgumentParser()
    parser.add_argument("--policy", type=Backbone)
    file = tmp_path / "model.yaml"
    file.write_text(
        "class_path: rlff_lightning.models.backbone.Backbone\n"
        "init_args:\n  model_name_or_path: some/model\n  dtype: bfloat16\n",
        encoding="utf-8",
    )
    backbone = parser.instantiate(parser.parse_args([f"--policy={file}"])).policy
    assert backbone == Backbone("some/model", dtype="bfloat16")


def test_a_missing_folder_is_one_line(tmp_path: Path):
    for load in ("build", "build_trunk", "tokenizer"):
        with pytest.raises(UserError, match="no such model folder") as caught:
            getattr(Backbone(str(tmp_path / "nowhere")), load)()
        assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_one_line(pocket_folder: Path):
    (pocket_folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="found none") as caught:
        Backbone(str(pocket_folder)).build()
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_one_line(pocket_folder: Path):
    (pocket_folder / "config.json").unlink()
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        Backbone(str(pocket_folder)).build()
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_one_line(pocket_folder: Path):
    for file in pocket_folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer") as caught:
        Backbone(str(pocket_folder)).tokenizer()
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_weights_is_one_line(pocket_folder: Path):
    file = pocket_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be loaded as a model: ") as error:
        Backbone(str(pocket_folder)).build()
    assert "\n" not in str(error.value)


def test_missing_weights_are_not_replaced_by_random_ones(pocket_folder: Path):
    weights = load_file(pocket_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, pocket_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        Backbone(str(pocket_folder)).build()


def test_an_adapter_whose_base_is_gone_names_the_base(pocket_folder: Path, tmp_path: Path):
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=4)).build()
    save_model(model, None, tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    changed = json.loads(settings.read_text()) | {"base_model_name_or_path": "/gone/base"}
    settings.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="/gone/base"):
        Backbone(str(tmp_path / "adapter")).build()


def test_an_adapter_that_is_damaged_or_lacks_a_layer_is_refused(
    pocket_folder: Path, tmp_path: Path
):
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=4)).build()
    save_model(model, None, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    kept = {name: weight for name, weight in weights.items() if "layers.1." not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, file)
    with pytest.raises(UserError, match=r"weights are missing for \d+ keys: .*layers\.1\."):
        Backbone(str(tmp_path / "adapter")).build()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be loaded as an adapter"):
        Backbone(str(tmp_path / "adapter")).build()


@pytest.mark.parametrize("settings", [{"rank": 0}, {"dropout": 1.0}])
def test_lora_settings_out_of_range_are_refused(settings: dict[str, float]):
    with pytest.raises(UserError, match=next(iter(settings))):
        LoraSettings(**settings)

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.prefix_sharing import use_prefix_attention
from rlff_lightning.models.saving import new_folder, save_model


def test_a_full_model_is_saved_as_transformers_loads_it(
    pocket_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
):
    model = Backbone(str(pocket_folder)).build()
    use_prefix_attention(model)
    save_model(model, tokenizer, tmp_path / "runs" / "model")
    found = {path.name for path in (tmp_path / "runs" / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= found
    assert "rlff" not in (tmp_path / "runs" / "model" / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "model")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert loaded.generation_config.eos_token_id == 0


def test_an_adapter_is_saved_without_its_base(pocket_folder: Path, tmp_path: Path):
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=2)).build()
    save_model(model, None, tmp_path / "adapter")
    found = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= found
    assert "model.safetensors" not in found


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with new_folder(tmp_path / "a") as unfinished:
        (unfinished / "new").touch()
        assert (tmp_path / "a" / "old").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_save_leaves_the_old_folder_and_no_rest(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()

    def save() -> None:
        with new_folder(tmp_path / "a") as unfinished:
            (unfinished / "half").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

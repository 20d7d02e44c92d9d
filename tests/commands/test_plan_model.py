import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from rlff_lightning.commands.plan_model import planned_model
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.errors import UserError

QWEN = "Qwen/Qwen2.5-7B-Instruct-1M"
POLICY = config_folder() / "recipes" / "4_policy.fit.yaml"


def never(_: Path) -> dict[str, Any]:
    raise AssertionError("no earlier stage's config is needed")


def write_adapter(folder: Path, base: str) -> None:
    LoraConfig(
        r=8, lora_alpha=24, target_modules=["q_proj", "v_proj"], base_model_name_or_path=base
    ).save_pretrained(str(folder))


def test_an_adapter_that_was_written_names_its_rank_and_the_model_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "warm_start" / "model", QWEN)
    settings = {"model_name_or_path": "warm_start/model", "quantize": "nf4", "dtype": "bfloat16"}
    found = planned_model(settings, POLICY, never)
    assert (found.name, found.num_layers, found.quantize) == (QWEN, 28, "nf4")
    assert found.adapter is not None
    assert sorted(found.adapter.target_modules) == ["q_proj", "v_proj"]
    assert (found.adapter.rank, found.adapter.alpha) == (8, 24)
    # A base that is not at hand has the architecture that is given.
    write_adapter(tmp_path / "warm_start" / "model", "some/unknown-model")
    shape = config_folder() / "recipes" / "shapes" / "Llama-3.1-8B-Instruct.json"
    assert planned_model(settings, POLICY, never, str(shape)).num_layers == 32


def test_a_reward_model_that_was_written_is_loaded_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reward_model" / "model"
    write_adapter(folder, QWEN)
    for quantize in ("nf4", None):
        (folder / "reward_head.json").write_text(json.dumps({"quantize": quantize}))
        found = planned_model({"model_name_or_path": "reward_model/model"}, POLICY, never)
        assert (found.name, found.quantize) == (QWEN, quantize)
        assert found.adapter is not None


def test_a_pocket_model_is_planned_as_the_policy_loads_it() -> None:
    pocket = {"vocab_size": 512, "num_layers": 2}
    settings = {
        "model_name_or_path": "warm_start/model",
        "adapter": {"rank": 4},
        "quantize": "nf4",
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    }
    found = planned_model(settings, POLICY, lambda _: {"model": {"init_args": {"pocket": pocket}}})
    assert (found.num_layers, found.architecture.vocab_size) == (2, 512)
    assert (found.quantize, found.dtype, found.gradient_checkpointing) == ("nf4", "bfloat16", True)


def test_settings_of_an_adapter_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(UserError, match=r"adapter_config\.json: must be a LoRA adapter's sett"):
        planned_model({"model_name_or_path": str(tmp_path)}, POLICY, never)


def test_an_earlier_stage_that_trains_no_model_is_told() -> None:
    with pytest.raises(UserError, match=r"futures/model must be .* 2_futures\.predict\.yaml names"):
        planned_model(
            {"model_name_or_path": "futures/model"}, POLICY, lambda _: {"model": {"init_args": {}}}
        )

import json

import pytest

from rlff_lightning.engines.adapter_folder import (
    base_and_adapter,
    check_adapter_folder,
    drop_other_versions,
    version_folder,
)
from rlff_lightning.errors import UserError


def write(folder, **config):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8} | config))
    (folder / "adapter_model.safetensors").touch()


def test_versions_sort_as_they_were_written(tmp_path):
    names = [version_folder(tmp_path, version).name for version in (2, 10, 100000)]
    assert names == sorted(names)


def test_only_other_versions_are_dropped(tmp_path):
    for name in ("adapter-000001", "adapter-000002", "adapter-000003.partial", "mine"):
        (tmp_path / name).mkdir()
    drop_other_versions(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter-000002", "mine"]


def test_the_largest_rank_of_any_layer_counts(tmp_path):
    write(tmp_path, rank_pattern={"q_proj": 32})
    check_adapter_folder(tmp_path, 32)
    check_adapter_folder(tmp_path)
    with pytest.raises(UserError, match=r"max_lora_rank 16, got 32"):
        check_adapter_folder(tmp_path, 16)


def test_other_adapters_and_half_written_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must hold adapter_config\.json"):
        check_adapter_folder(tmp_path)
    write(tmp_path, peft_type="IA3")
    with pytest.raises(UserError, match="peft_type must be LORA, got 'IA3'"):
        check_adapter_folder(tmp_path)
    write(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"must hold adapter_model\.safetensors"):
        check_adapter_folder(tmp_path)


def test_an_adapter_folder_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert base_and_adapter(str(tmp_path)) == ("some/base", tmp_path)
    assert base_and_adapter("some/base") == ("some/base", None)

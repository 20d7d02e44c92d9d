from pathlib import Path

import pytest

from rlff_lightning.engines.limits import check_model_folder
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.model_folder import check_name, model_folder

OFFLINE = "huggingface_hub.constants.HF_HUB_OFFLINE"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(OFFLINE, False)
    return tmp_path


@pytest.mark.parametrize("name", ["./model", "/gone/model", "~/gone/model", "run/stage/model"])
def test_what_no_hub_would_take_as_a_name_is_a_missing_folder(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: no such model folder$"):
        check_name(name)


def test_a_name_is_a_missing_folder_as_soon_as_its_parent_exists() -> None:
    check_name("warm_start/model")
    Path("warm_start").mkdir()
    with pytest.raises(UserError, match=r"^warm_start/model: no such model folder$"):
        check_name("warm_start/model")
    Path("warm_start/model").mkdir()
    check_name("warm_start/model")
    # The parent of a name without a slash is the working folder, which always exists.
    check_name("gpt2")


def test_without_a_hub_a_name_means_a_folder_unless_the_cache_holds_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OFFLINE, True)
    for name in ("someone/model", "gpt2", "no name of a hub"):
        with pytest.raises(UserError, match=f"^{name}: no such model folder, nor .* cache"):
            check_name(name)
    # The cache's own layout: a ref names the snapshot that holds the files.
    cached = folder / "cache" / "models--someone--model"
    for file, text in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        (cached / file).parent.mkdir(parents=True)
        (cached / file).write_text(text)
    check_name("someone/model")
    with pytest.raises(UserError):
        check_name("someone/other")


def test_models_and_engines_refuse_a_missing_folder_alike() -> None:
    Path("warm_start").mkdir()
    lines = []
    for attempt in (
        Backbone("warm_start/model").build,
        Backbone("warm_start/model").tokenizer,
        lambda: check_model_folder("VLLMEngine", "warm_start/model"),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        lines.append(str(caught.value))
    assert lines == ["warm_start/model: no such model folder"] * 3


def test_a_model_inside_a_package_is_found_and_a_missing_one_names_the_extra() -> None:
    # Any package with a folder will do: nothing is read from it.
    found = model_folder("package:rlff_lightning/models")
    assert (found / "model_folder.py").is_file()
    check_name("package:rlff_lightning/models")
    for name in ("package:rlff_lightning/gone", "package:no_such_package/model", "package:a b/c"):
        with pytest.raises(UserError, match=r"rlff-lightning\[encoder\]") as caught:
            check_name(name)
        assert "\n" not in str(caught.value)

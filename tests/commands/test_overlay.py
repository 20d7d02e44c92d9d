from pathlib import Path

import pytest

from rlff_lightning.commands.overlay import overlay_files
from rlff_lightning.commands.stages import Stage
from rlff_lightning.errors import UserError

STAGES = [
    Stage(name=name, verb="fit", config=Path(f"/configs/{name}.yaml"))
    for name in ("warm_start", "policy")
]


def test_a_file_comes_on_top_of_every_stage(tmp_path: Path) -> None:
    file = tmp_path / "smoke.yaml"
    file.touch()
    assert overlay_files(file, STAGES) == {"warm_start": [file], "policy": [file]}


def test_a_folder_changes_the_stages_it_names(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").touch()
    found = overlay_files(tmp_path, STAGES)
    assert found == {"warm_start": [], "policy": [tmp_path / "policy.yaml"]}


def test_a_folder_with_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no <stage>\.yaml"):
        overlay_files(tmp_path, STAGES)
    (tmp_path / "polcy.yaml").touch()
    with pytest.raises(UserError, match=r"did you mean policy\.yaml"):
        overlay_files(tmp_path, STAGES)
    with pytest.raises(UserError, match="is missing"):
        overlay_files(tmp_path / "none", STAGES)

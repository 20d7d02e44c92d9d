from pathlib import Path

import pytest

from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import read_arguments, read_stages
from rlff_lightning.commands.trainer_run import resolve

CONFIGS = config_folder()
PIPELINES = sorted({file.parent for file in CONFIGS.glob("*/[0-9]*_*.*.yaml")})
STAGES = [(folder, stage) for folder in PIPELINES for stage in read_stages(folder)]
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    ("folder", "name"), [(folder, stage.name) for folder, stage in STAGES], ids=lambda v: str(v)
)
def test_every_stage_of_a_pipeline_parses(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = read_stages(folder)
    stage = next(stage for stage in stages if stage.name == name)
    values = [
        f"--{key}={argument.default if argument.default is not None else 'given'}"
        for argument in read_arguments(folder, stages)
        for target, key in argument.sets
        if target == name and (argument.is_required or argument.default is not None)
    ]
    alone = resolve([stage.verb, "--config", str(stage.config), *values])
    assert alone["model"]
    # The overlay comes second and changes values only.
    both = ["--config", str(stage.config), "--config", str(CONFIGS / "overlay" / "smoke.yaml")]
    assert resolve([stage.verb, *both, *values])["model"] == alone["model"]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_parses(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(["fit", "--config", str(file)])["model"]

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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp1", "fsdp2"])
@pytest.mark.parametrize("stage", ["1_warm_start", "4_reward_model", "6_policy"])
def test_a_strategy_comes_on_top_of_every_stage_that_trains(
    strategy: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay = CONFIGS / "overlay" / f"{strategy}.yaml"
    files = [CONFIGS / "demo" / f"{stage}.fit.yaml", overlay]
    alone, both = (
        resolve(["fit", *(word for file in some for word in ("--config", str(file)))])
        for some in (files[:1], files)
    )
    assert strategy in str(both["trainer"].pop("strategy")).lower()
    assert alone["trainer"].pop("strategy") == "ddp_fork"
    assert both == alone


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_parses(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(["fit", "--config", str(file)])["model"]

from pathlib import Path

import pytest

from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.trainer_run import resolve

FRAGMENTS = sorted((config_folder() / "agents").glob("*.yaml"))
SCRIPTED = "rlff_lightning.agents.scripted"
CAST = {
    "supporter": f"{SCRIPTED}.supporter.MixedSupporter",
    "seeker": f"{SCRIPTED}.seeker.ScriptedSeeker",
    "critic": f"{SCRIPTED}.seeker.ScriptedCritic",
}


def test_there_is_a_fragment_for_every_role() -> None:
    assert {role_of(fragment) for fragment in FRAGMENTS} == {*CAST, "judge"}


def role_of(fragment: Path) -> str:
    return fragment.stem.partition("_")[0]


@pytest.mark.parametrize(
    "fragment", [file for file in FRAGMENTS if role_of(file) in CAST], ids=lambda file: file.stem
)
def test_every_fragment_takes_its_role_in_a_stage(
    fragment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cast = {role: f"{{class_path: {name}}}" for role, name in CAST.items()}
    role = role_of(fragment)
    lines = [f"    {name}: {value}" for name, value in {**cast, role: str(fragment)}.items()]
    stage = "model:\n  class_path: rlff_lightning.modules.simulation.SimulationModule\n"
    Path("stage.yaml").write_text(stage + "  init_args:\n" + "\n".join(lines) + "\n")
    model = resolve(["predict", "--config", "stage.yaml"])["model"]
    named = model["init_args"][role]["class_path"]
    assert named not in CAST.values()
    assert f"class_path: {named}" in fragment.read_text()


@pytest.mark.parametrize(
    "fragment", [file for file in FRAGMENTS if role_of(file) == "judge"], ids=lambda file: file.stem
)
def test_a_judge_of_replies_is_one_key_of_a_quality_stage(
    fragment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = "model:\n  class_path: rlff_lightning.modules.quality.QualityModule\n  init_args:\n"
    stage += (
        f"    policies: {{mixed: {{class_path: {CAST['supporter']}}}}}\n    judge: {fragment}\n"
    )
    Path("stage.yaml").write_text(stage + "    comparisons: [[mixed, human]]\n")
    given = resolve(["test", "--config", "stage.yaml"])["model"]["init_args"]
    assert given["judge"]["class_path"].endswith("LanguageModelJudge")
    assert [list(pair) for pair in given["comparisons"]] == [["mixed", "human"]]

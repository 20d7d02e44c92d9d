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
    assert {fragment.stem.partition("_")[0] for fragment in FRAGMENTS} == set(CAST)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda file: file.stem)
def test_every_fragment_takes_its_role_in_a_stage(
    fragment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cast = {role: f"{{class_path: {name}}}" for role, name in CAST.items()}
    role = fragment.stem.partition("_")[0]
    lines = [f"    {name}: {value}" for name, value in {**cast, role: str(fragment)}.items()]
    stage = "model:\n  class_path: rlff_lightning.modules.simulation.SimulationModule\n"
    Path("stage.yaml").write_text(stage + "  init_args:\n" + "\n".join(lines) + "\n")
    model = resolve(["predict", "--config", "stage.yaml"])["model"]
    named = model["init_args"][role]["class_path"]
    assert named not in CAST.values()
    assert f"class_path: {named}" in fragment.read_text()

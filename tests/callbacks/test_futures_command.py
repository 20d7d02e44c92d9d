import json
from pathlib import Path

import pandas as pd
import pytest

from rlff_lightning.cli import main

CONFIG = """\
seed_everything: 3
trainer:
  accelerator: cpu
  default_root_dir: run
  logger: false
  enable_checkpointing: false
  callbacks:
    - class_path: callbacks.futures_writer.FuturesWriter
    - class_path: callbacks.simulation_progress.SimulationProgress
model:
  class_path: rlff_lightning.modules.simulation.SimulationModule
  init_args:
    supporter: {class_path: rlff_lightning.agents.scripted.supporter.MixedSupporter}
    seeker: {class_path: rlff_lightning.agents.scripted.seeker.ScriptedSeeker}
    critic: {class_path: critic_on_strike.Striking}
    num_contexts: 8
    batch_size: 3
"""
# Whether it works is a matter of the day, not of the config.
CRITIC = """\
from dataclasses import replace
from pathlib import Path
from rlff_lightning.agents.scripted.seeker import ScriptedCritic

class Striking(ScriptedCritic):
    def judge(self, conversations):
        is_on_strike = Path("strike").exists()
        return [
            replace(verdict, failure="on strike")
            if is_on_strike and sum(map(ord, conversation.source)) % 3 == 0 else verdict
            for conversation, verdict in zip(conversations, super().judge(conversations))
        ]
"""


def table() -> pd.DataFrame:
    rows = pd.read_parquet("run/futures")
    return rows.sort_values("context_number", kind="stable", ignore_index=True)


def test_quarantined_contexts_are_taken_up_again_on_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sim.yaml").write_text(CONFIG)
    (tmp_path / "critic_on_strike.py").write_text(CRITIC)
    command = ["predict", "--config", "sim.yaml"]

    (tmp_path / "strike").touch()
    assert main(command) == 0
    lines = (tmp_path / "run/futures/_quarantine.jsonl").read_text().splitlines()
    struck = {json.loads(line)["number"] for line in lines}
    assert 0 < len(struck) < 8
    assert set(table()["context_number"]) == set(range(8)) - struck

    (tmp_path / "strike").unlink()
    assert main(command) == 0  # They wait until they are asked for.
    assert set(table()["context_number"]) == set(range(8)) - struck
    assert main([*command, "--retry-quarantined"]) == 0
    assert (tmp_path / "run/futures/_quarantine.jsonl").read_text() == ""
    retried = table()
    Path("run").rename("struck")
    assert main(command) == 0
    assert table().equals(retried)

    # Faster is the same run; another reward is not.
    assert main([*command, "--model.batch_size=2"]) == 0
    capsys.readouterr()
    assert main([*command, "--model.futures.look_ahead=3"]) == 2
    assert capsys.readouterr().err == (
        "rlff: error: run/futures was begun by another run: futures.look_ahead was 2, is 3; "
        "take another folder or move this one away\n"
    )

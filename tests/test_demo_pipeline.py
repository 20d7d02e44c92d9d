"""The demo's own configs, with small values, run from the first stage to the table."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEMO = Path(__file__).parent.parent / "configs" / "demo"
SMALL = {
    "max_steps": 6,
    "val_check_interval": 6,
    "num_dialogues": 60,
    "num_contexts": 8,
    "batch_size": 4,
    "num_samples": 4,
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "num_episodes": 7,
    "every_n_train_steps": 1,
}
"""Values only; every key stands in some stage."""


def smaller(value, used):
    if isinstance(value, dict):
        used |= SMALL.keys() & value.keys()
        return {key: SMALL.get(key, smaller(item, used)) for key, item in value.items()}
    return [smaller(item, used) for item in value] if isinstance(value, list) else value


@pytest.mark.timeout(600)
def test_the_demo_runs_from_corpus_to_table(tmp_path):
    configs, used = tmp_path / "configs", set()
    configs.mkdir()
    # Stages name it beside their own folder.
    shutil.copytree(DEMO.parent / "held_out", tmp_path / "held_out")
    for stage in sorted(DEMO.glob("*.yaml")):
        config = smaller(yaml.safe_load(stage.read_text()), used)
        (configs / stage.name).write_text(yaml.safe_dump(config, sort_keys=False))
    assert used == SMALL.keys()
    command = [sys.executable, "-m", "rlff_lightning.cli", "pipeline", str(configs), "--seed", "3"]
    run = tmp_path / "run"
    first = subprocess.run([*command, "--run", str(run)], capture_output=True, text=True)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["policies"]) == ["sft", "immediate", "rlff", "optimum"]
    for figures in summary["policies"].values():
        low, high = figures["ci95"]
        # Seven episodes over two processes: none is played twice.
        assert figures["episodes"] == 7
        assert 0 <= low <= figures["success_rate"] <= high <= 1
        assert 1 <= figures["average_turns"] <= 8
    assert summary["judge"]["name"].startswith("scripted")
    assert summary["held_out"]["judge"]["name"] != summary["judge"]["name"]
    assert summary["held_out"]["people"]["worst_case"].keys() == summary["policies"].keys()
    assert summary["wall_s"] > 0
    for written in (
        "policy/learning_curves.png",
        "policy/model/model.safetensors",
        "policy/checkpoints/last.ckpt",
        "policy/completions/iteration-000001.parquet",
        "evaluate/dialogues/rlff.md",
        "evaluate/episodes/sft-0.jsonl",
        "futures/futures/part-000-00000.parquet",
    ):
        assert (run / written).is_file(), written
    again = subprocess.run([*command, "--run", str(run)], capture_output=True, text=True)
    assert again.returncode == 0
    assert "optimum" in again.stdout
    assert "Epoch" not in again.stdout + again.stderr  # every stage is skipped

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlff_lightning.cli import main
from rlff_lightning.commands.markers import DONE, Plan
from rlff_lightning.commands.stages import Stage
from rlff_lightning.commands.summary import write_summary

TRAINER = """\
trainer:
  accelerator: cpu
  logger: false
  enable_model_summary: false
  enable_progress_bar: false
  limit_val_batches: 0
  max_epochs: -1
  max_steps: {steps}
  default_root_dir: {name}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: {name}/checkpoints, save_last: true, every_n_train_steps: 2}}
model:
  class_path: lightning.pytorch.demos.boring_classes.BoringModel
"""
SUMMARY = """\
import json
from pathlib import Path
from lightning.pytorch.demos.boring_classes import BoringModel

class Goal(BoringModel):
    def __init__(self, corpus: str):
        super().__init__()
        self.corpus = corpus
    def on_test_end(self):
        row = {"success_rate": 0.5, "average_turns": 4.0, "episodes": 8, "ci95": [0.2, 0.8]}
        content = {"policies": {"sft": row}, "judge": {"name": "scripted"}, "corpus": self.corpus}
        Path("goal/summary.json").write_text(json.dumps(content))
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "goal_module.py").write_text(SUMMARY)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "1_warm.fit.yaml").write_text(TRAINER.format(steps=2, name="warm"))
    (folder / "2_goal.test.yaml").write_text(
        "trainer: {accelerator: cpu, logger: false, limit_test_batches: 1}\n"
        "model: {class_path: goal_module.Goal, init_args: {corpus: none}}\n"
        "ckpt_path: warm/checkpoints/last.ckpt\n"
    )
    (folder / "pipeline.yaml").write_text(
        "arguments:\n  corpus: {help: the dialogues, sets: [goal.model.init_args.corpus]}\n"
    )
    (tmp_path / "corpus.json").write_text("[]")
    return folder


def rlff(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rlff_lightning.cli", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_pipeline_runs_reads_its_arguments_and_repeats_nothing(toy: Path) -> None:
    first = rlff("toy", "--corpus", "corpus.json", "--run", "out", "--seed", "5")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "[1/2] warm (fit) …" in first.stdout
    assert "[2/2] goal (test) done in" in first.stdout
    assert "judged by scripted" in first.stdout
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["corpus"] == str(Path("corpus.json").resolve())
    walls = [json.loads(Path(f"out/{s}/{DONE}").read_text())["wall_s"] for s in ("warm", "goal")]
    assert summary["wall_s"] == pytest.approx(sum(walls), abs=0.01)
    assert "seed_everything: 5" in Path("out/warm/config.yaml").read_text()
    assert "max_steps=2` reached" in Path("out/warm/log.txt").read_text()

    Path("corpus.json").write_text("[1]")
    second = rlff("toy", "--corpus", "corpus.json", "--run", "out", "--seed", "5")
    assert "[1/2] warm (fit) is finished already" in second.stdout
    assert "[2/2] goal (test) done in" in second.stdout

    # What a finished stage wrote is gone, and the next one, which has changed, reads it.
    Path("out/warm/checkpoints/last.ckpt").unlink()
    third = rlff("toy", "--corpus", "gone.json", "--run", "out", "--seed", "5")
    assert third.returncode == 2
    line = "stage goal reads warm/checkpoints/last.ckpt, which is gone"
    assert line in third.stderr
    assert "--from warm makes it anew" in third.stderr


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_pipeline_leaves_no_process_and_a_checkpoint(
    number: signal.Signals, status: int, toy: Path
) -> None:
    (toy / "1_warm.fit.yaml").write_text(TRAINER.format(steps=10**9, name="warm"))
    command = [sys.executable, "-m", "rlff_lightning.cli", "pipeline", "toy", "--corpus=x"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(Path("runs/toy/warm/checkpoints/last.ckpt").exists)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(number)
        assert process.wait(30) == status
    (child,) = map(int, children.split())
    wait_for(lambda: not is_alive(child))
    assert Path("runs/toy/warm/started.json").exists()
    assert not Path("runs/toy/warm", DONE).exists()


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["pipeline", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rlff: error: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gone"], "gone is no folder and no shipped pipeline"),
        (["--seed", "1", "toy"], "DIR comes first, got --seed"),
        (["toy"], "--corpus is missing: the dialogues"),
        (["toy", "--corpse", "x"], "unknown argument --corpse; did you mean --corpus?"),
        (["toy", "--corpus", "x", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["toy", "--corpus", "x", "--only", "wram"], "'wram' (choose from "),
        (["toy", "--corpus", "x", "--overlay", "gone.yaml"], "--overlay: gone.yaml is missing"),
    ],
)
def test_a_mistake_on_the_command_line_writes_nothing(
    words: list[str], line: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in error_of(capsys, *words)
    assert not Path("runs").exists()


def test_a_misspelt_key_in_the_last_stage_is_told_before_the_first_runs(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = toy / "2_goal.test.yaml"
    file.write_text(file.read_text().replace("ckpt_path", "ckpt_paht"))
    line = error_of(capsys, "toy", "--corpus=x")
    assert "stage goal: " in line
    assert f"{file}:3: unknown key ckpt_paht; did you mean ckpt_path?" in line
    assert not Path("runs/toy/warm").exists()


def test_list_and_help_start_nothing(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipeline", "toy", "--list"]) == 0
    lines = "[1/2] warm (fit): not finished\n[2/2] goal (test): not finished\n"
    assert capsys.readouterr().out == lines
    with pytest.raises(SystemExit) as stop:
        main(["pipeline", "toy", "--help"])
    assert stop.value.code == 0
    assert "--corpus VALUE" in capsys.readouterr().out
    assert not Path("runs").exists()


def finished(run: Path, name: str, fingerprint: str) -> Plan:
    """A stage that ended as it is planned, or as it was planned once."""
    (run / name).mkdir()
    marker = {"wall_s": 1.0, "fingerprint": fingerprint}
    (run / name / DONE).write_text(json.dumps(marker))
    stage = Stage(name=name, verb="fit", config=Path(name))
    return Plan(stage=stage, argv=(), reads={}, needs=(), inputs={}, fingerprint="now")


def test_a_run_without_summary_writes_none(tmp_path: Path) -> None:
    write_summary(tmp_path, [finished(tmp_path, "a", "now")])
    assert not (tmp_path / "summary.json").exists()


def test_figures_of_a_stage_that_has_changed_are_not_given_for_the_runs(tmp_path: Path) -> None:
    plans = [finished(tmp_path, "a", "now"), finished(tmp_path, "b", "then")]
    for folder in (tmp_path, tmp_path / "b"):
        (folder / "summary.json").write_text('{"policies": {}}')
    write_summary(tmp_path, plans)
    assert not (tmp_path / "summary.json").exists()

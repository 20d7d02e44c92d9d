import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rlff_lightning.cli import main as rlff
from rlff_lightning.commands.launch import cause_of, main
from rlff_lightning.commands.node_link import Failure, first
from rlff_lightning.errors import UserError

SCRIPT = Path(__file__).parents[2] / "configs" / "launch" / "torchrun.sh"

pytestmark = pytest.mark.timeout(1200)

CONFIG = """\
seed_everything: 0
trainer:
  accelerator: cpu
  strategy: ddp
  max_steps: 8
  logger: false
  enable_model_summary: false
  default_root_dir: run
  limit_val_batches: 0
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: run/checkpoints, every_n_train_steps: 1, save_last: true}
    - class_path: interruption.Interruption
model:
  class_path: rlff_lightning.modules.supervised.SupervisedModule
  init_args:
    pocket: {vocab_size: 300, hidden_size: 32, num_layers: 1, num_heads: 1, max_positions: 512}
data:
  class_path: rlff_lightning.data.replies.ScriptedReplies
  init_args: {num_dialogues: 60, batch_size: 4}
"""

INTERRUPTION = """\
import os, signal
from pathlib import Path
from lightning.pytorch.callbacks import Callback
from rlff_lightning.errors import StoppedRun

class Interruption(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        what, _, step = os.environ.get("INTERRUPTION", "").partition(" at ")
        if trainer.global_rank != 1 or str(trainer.global_step) != step:
            return
        Path("died").write_text(step)
        if what == "raises":
            raise StoppedRun("nothing was learned")
        if what == "loses the node":
            os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)
"""


def free_pair_of_ports() -> int:
    """Give a port that is free together with the one above it."""
    while True:
        with socket.socket() as free, socket.socket() as above:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            try:
                above.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):  # taken, or beyond the last port
                continue
            return port


def launch(folder: Path, interruption: str = "", silence_s: int = 120) -> list[tuple[int, str]]:
    """Run two nodes of one process each, the second by the script; give status and last line."""
    port = str(free_pair_of_ports())
    first_node = [sys.executable, "-m", "rlff_lightning.cli", "launch", "--nodes", "2"]
    first_node += ["--ranks", "1", "--port", port, "--silence", str(silence_s), "--"]
    stage = ["fit", "--config", "stage.yaml", "--ckpt_path", "last"]
    environment = {**os.environ, "INTERRUPTION": interruption, "OMP_NUM_THREADS": "1"}
    environment |= {"NODES": "2", "NODE_RANK": "1", "HEAD": "127.0.0.1", "GPUS": "1"}
    environment |= {"PORT": port, "PYTHON": sys.executable}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    logs = [folder / f"{node}.log" for node in range(2)]
    started = []
    for command, log in zip([first_node, ["bash", str(SCRIPT)]], logs, strict=True):
        with log.open("w") as output:
            started.append(
                subprocess.Popen(
                    [*command, *stage],
                    cwd=folder,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    try:
        statuses = [process.wait(900) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = [(log.read_text().strip().splitlines() or [""])[-1] for log in logs]
    return list(zip(statuses, lines, strict=True))


def test_two_nodes_end_together_with_the_culprit_in_the_last_line_and_go_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "stage.yaml").write_text(CONFIG)
    (tmp_path / "interruption.py").write_text(INTERRUPTION)
    culprit = f"rank 1 on node 1 of 2 ({socket.gethostname()})"

    ended = launch(tmp_path, "is killed at 2")
    # A second or two, as much again on a busy machine, and 10 s for ranks that will not end.
    assert time.time() - (tmp_path / "died").stat().st_mtime < 60
    for status, line in ended:
        assert (status, line[: line.index(";")]) == (
            1,
            f"rlff launch: {culprit} died: killed by SIGKILL",
        )

    for status, line in launch(tmp_path, "raises at 3"):
        assert status == 1
        assert line.startswith(f"rlff launch: {culprit} died: StoppedRun: nothing was learned; ")

    (status, line), (lost, _) = launch(tmp_path, "loses the node at 4", silence_s=20)
    assert (status, lost) == (1, -signal.SIGKILL), line
    assert line.startswith("rlff launch: node 1 of 2 died: no sign of life for "), line

    assert [status for status, _ in launch(tmp_path)] == [0, 0]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert (tmp_path / "died").read_text() == "4"


@pytest.mark.parametrize("nodes", [1, 2])
def test_nodes_that_do_not_meet_are_told_in_one_line(tmp_path: Path, nodes: int) -> None:
    """A port that is taken, and a node that never comes."""
    with socket.socket() as taken:
        port = free_pair_of_ports()
        if nodes == 1:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        command = [sys.executable, "-m", "rlff_lightning.cli", "launch", "--ranks", "1"]
        command += ["--nodes", str(nodes), "--port", str(port), "--patience", "5", "--", "fit"]
        ended = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
    line = ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (1, 2)
    if nodes == 1:
        assert f"no meeting of the nodes at 127.0.0.1:{port} within --patience 5 s" in line
    else:
        assert line.startswith("rlff launch: node 1 of 2 died: no sign of life for 15 s")


def test_what_a_rank_died_of_is_told_to_its_launcher_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(told))
    assert rlff(["fit", "--config", str(tmp_path / "missing.yaml")]) == 2
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("rlff: error: ")
    assert "missing.yaml" in line
    failed = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(told))
    assert cause_of(failed) == f"UserError: {line}"
    silent = ProcessFailure(local_rank=0, pid=1, exitcode=-11, error_file=str(tmp_path / "none"))
    assert cause_of(silent) == "killed by SIGSEGV"
    ended = ProcessFailure(local_rank=0, pid=1, exitcode=143, error_file=str(tmp_path / "none"))
    assert cause_of(ended) == "ended by SIGTERM"


def test_who_only_lost_another_rank_is_not_to_blame() -> None:
    def failure(who: str, cause: str, time: float) -> Failure:
        return Failure(who=who, cause=cause, is_mistake=False, time=time)

    lost = failure("a", "RuntimeError: gloo: Connection closed by peer [10.0.0.1]:4242", 1.0)
    killed, later = failure("b", "killed by SIGKILL", 2.0), failure("c", "killed by SIGSEGV", 3.0)
    assert first([lost, later, killed]) == killed
    assert first([lost]) == lost
    assert first([]) is None


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("--nodes 2 --node-rank 2 -- fit", "--node-rank must be within [0, 1], got 2"),
        ("--ranks 0 -- fit", "--ranks must be at least 1, got 0"),
        ("--nodes 2", "-- must be followed by one of fit, validate, test, predict, got nothing"),
        ("-- plan", "got plan"),
        ("--port 65535 -- fit", "--port must be within [1, 65534], for the one above it is taken"),
        ("--port 0 -- fit", "--port must be within [1, 65534]"),
        ("--silence 0 -- fit", "--silence must be above 0 s, got 0.0"),
        ("--silence nan -- fit", "--silence must be above 0 s, got nan"),
        ("--patience -5 -- fit", "--patience must be above 0 s, got -5"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_starts(words: str, rule: str) -> None:
    with pytest.raises(UserError) as caught:
        main(words.split())
    assert rule in str(caught.value)

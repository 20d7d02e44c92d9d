"""The SLURM script, run by bash with stand-ins for SLURM's commands."""

import os
import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep

from rlff_lightning.commands.shipped import config_folder

SCRIPT = config_folder() / "launch" / "slurm.sbatch"
# Ends by itself unless the folder holds `waits`; then it is ended by scontrol, as SLURM would.
SRUN = """\
#!/usr/bin/env bash
echo "$@" > srun.txt
trap 'touch signalled' USR1
while [ -e waits ]; do sleep 0.1; done
exit "$(cat status)"
"""
SCONTROL = """\
#!/usr/bin/env bash
echo "$@" > scontrol.txt
rm waits
"""


def start(folder: Path, *words: str, status: int) -> "subprocess.Popen[bytes]":
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    (folder / "status").write_text(str(status))
    job = {"RUN": str(folder), "SLURM_JOB_ID": "17", "SLURM_NNODES": "2"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    job |= {"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "12", "PATH": path}
    environment = {**os.environ, **job}
    return subprocess.Popen(["bash", str(SCRIPT), *words], env=environment)


def test_the_signal_before_the_time_is_up_requeues_the_job_and_reaches_no_rank(
    tmp_path: Path,
) -> None:
    # SLURM sends it to the batch shell alone.
    assert "#SBATCH --signal=B:USR1@180\n" in SCRIPT.read_text()
    (tmp_path / "waits").touch()
    job = start(tmp_path, "fit", "--config", "stage.yaml", status=143)
    began = monotonic()
    while not (tmp_path / "srun.txt").is_file() and monotonic() - began < 60:
        sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 143
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 17\n"
    assert not (tmp_path / "signalled").exists()


def test_training_goes_on_from_the_last_checkpoint_unless_another_is_named(tmp_path: Path) -> None:
    size = "--trainer.num_nodes=2 --trainer.devices=8"
    for words, passed_on in (
        (["fit", "--config", "s.yaml"], "fit --ckpt_path last --config s.yaml"),
        (["fit", "--ckpt_path", "a.ckpt"], "fit --ckpt_path last --ckpt_path a.ckpt"),
        (["predict", "--config", "s.yaml"], "predict --config s.yaml"),
    ):
        assert start(tmp_path, *words, status=0).wait(60) == 0
        said = (tmp_path / "srun.txt").read_text()
        flags = "--kill-on-bad-exit=1 --cpus-per-task=12 --label"
        assert said == f"{flags} rlff {passed_on} {size}\n"


def test_a_rank_s_status_is_the_job_s(tmp_path: Path) -> None:
    assert start(tmp_path, "fit", "--config", "s.yaml", status=7).wait(60) == 7

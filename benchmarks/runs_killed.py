"""Kill trainings by two processes at random moments, and compare what they end with.

    python benchmarks/runs_killed.py --kills 20

Each life of a run begins with ``--ckpt_path last``. One rank or all are killed by SIGKILL at a
random moment, from the start to the eighth new checkpoint; a rank that survives is ended after 15
seconds, as a launcher would. The command ends with status 1 if a run ends with other bits than the
undisturbed one.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from safetensors.torch import load_file

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.models.pocket import PocketSettings
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.modules.supervised import SupervisedModule
from rlff_lightning.simulation.contexts import SelfPlayContexts

FSDP2 = "rlff_lightning.strategies.fsdp2.FSDP2"
RUNS = [
    ("policy", "lora", FSDP2),
    ("supervised", "full", FSDP2),
    ("policy", "full", "ddp"),
    ("reward", "lora", FSDP2),
    ("supervised", "lora", "ddp"),
]
"""Stage, what is trained, strategy."""
STEPS = 24


def main() -> int:
    """Train undisturbed, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of some of the five runs")
    options = parser.parse_args()
    draw, kills, lone, unfinished, rounds = Random(options.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        chosen = options.only or range(len(RUNS))
        for place, number in enumerate(chosen):
            stage, kind, strategy = RUNS[number]
            label = f"{stage}, {kind}, {strategy.rpartition('.')[2]}"
            whole = write_config(folder, f"whole-{number}", stage, kind, strategy)
            start = time.monotonic()
            assert life(folder, whole), f"{label}: the undisturbed run failed"
            whole_s = time.monotonic() - start
            wanted = options.kills * (place + 1) // len(chosen)
            while kills < wanted:
                rounds += 1
                killed = write_config(folder, f"killed-{rounds}", stage, kind, strategy)
                while kills < wanted:
                    victims = [draw.randrange(2)] if draw.random() < 0.5 else [0, 1]
                    if life(folder, killed, (victims, draw.random())):  # it had finished before
                        break
                    kills += 1
                    lone += len(victims) == 1
                    unfinished += has_unfinished(folder / killed / "checkpoints")
                assert life(folder, killed), f"{label}: the resumed run failed"
                if not is_equal(folder / whole, folder / killed):
                    print(f"{label}: ends with other bits than the undisturbed run")
                    return 1
            after = f"after {kills} kills in all; undisturbed {whole_s:.0f} s"
            print(f"{label}: same bits {after}", flush=True)
    print(
        f"{kills} kills, {lone} of one rank and {kills - lone} of both, in {rounds} runs; "
        f"{unfinished} left a checkpoint that was not written to its end"
    )
    return 0


def life(folder: Path, run: str, kill: tuple[list[int], float] | None = None) -> bool:
    """Run both ranks until they end, or kill some of them at a moment drawn from [0, 1).

    Returns:
        Both finished.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "rlff_lightning.cli", "fit", "--config", f"{run}.yaml"]
    command += ["--ckpt_path", "last"]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": run}
    place |= {"OMP_NUM_THREADS": "1"}
    with (folder / f"{run}.log").open("a") as log:
        ranks = [
            subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=log,
                stderr=log,
            )
            for rank in range(2)
        ]
    if kill is not None:
        victims, moment = kill
        wait_for_checkpoints(folder / run / "checkpoints", ranks, int(8 * moment))
        time.sleep(8 * moment % 1)
        for rank in victims:
            ranks[rank].send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 15
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.1)
        for rank in ranks:
            rank.kill()
    return not any(rank.wait() for rank in ranks)


def wait_for_checkpoints(folder: Path, ranks: list["subprocess.Popen[bytes]"], number: int) -> None:
    """Wait until so many new checkpoints were written, or a rank has ended."""
    seen = _latest(folder)
    while number and all(rank.poll() is None for rank in ranks):
        now = _latest(folder)
        number -= now != seen
        seen = now
        time.sleep(0.01)


def has_unfinished(folder: Path) -> bool:
    """Whether something lies among the checkpoints that none of their names leads to."""
    named = {path.resolve() for path in folder.glob("*.ckpt")}
    return any(path.resolve() not in named for path in folder.glob(".*.ckpt.*"))


def _latest(folder: Path) -> int:
    found = list(folder.glob("last*.ckpt"))
    return max((path.lstat().st_mtime_ns for path in found), default=0)


def is_equal(whole: Path, killed: Path) -> bool:
    """Compare all weights that the stage wrote, bit by bit."""
    files = sorted(path.relative_to(whole) for path in whole.glob("*/*.safetensors"))
    assert files, f"{whole} holds no weights"
    pairs = [(load_file(whole / file), load_file(killed / file)) for file in files]
    return all(torch.equal(one[name], two[name]) for one, two in pairs for name in one)


def prepare(folder: Path) -> None:
    """Make what the stages start from: a small model and labelled futures."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    pocket = PocketSettings(
        vocab_size=400, hidden_size=32, num_layers=2, num_heads=1, max_positions=512
    )
    warm_start = SupervisedModule(pocket=pocket, learning_rate=1e-2, seeker_weight=0.2)
    trainer = Trainer(default_root_dir=folder, max_steps=40, limit_val_batches=0, **quiet)
    trainer.fit(warm_start, ScriptedReplies(num_dialogues=60, batch_size=16))
    cast = MixedSupporter(), ScriptedSeeker(), ScriptedCritic()
    futures = SimulationModule(
        *cast, contexts=SelfPlayContexts(max_turns=6), num_contexts=40, seed=0
    )
    writer = FuturesWriter(num_shown=0)
    Trainer(default_root_dir=folder, callbacks=[writer], **quiet).predict(futures)


def write_config(folder: Path, run: str, stage: str, kind: str, strategy: str) -> str:
    """Write a stage's config as a user would; gives the run's name."""
    backbone = {"model_name_or_path": "model"}
    adapted = {**backbone, "adapter": {"rank": 4}} if kind == "lora" else backbone
    scripted = "rlff_lightning.agents.scripted.seeker"
    data = None
    if stage == "supervised":
        module = "rlff_lightning.modules.supervised.SupervisedModule"
        arguments = {"backbone": adapted, "learning_rate": 1e-3}
        data = {
            "class_path": "rlff_lightning.data.replies.ScriptedReplies",
            "init_args": {"num_dialogues": 12, "batch_size": 4, "val_fraction": 0.0},
        }
    elif stage == "reward":
        module = "rlff_lightning.modules.reward_model.RewardModule"
        arguments = {"backbone": adapted, "learning_rate": 1e-3}
        data = {
            "class_path": "rlff_lightning.data.labelled.StoredFutures",
            "init_args": {"folder": "futures", "batch_size": 2, "val_fraction": 0.0},
        }
    else:
        module = "rlff_lightning.modules.policy.PolicyModule"
        arguments = {
            "policy": adapted,
            "engine": {
                "class_path": "rlff_lightning.engines.transformers.TransformersEngine",
                "init_args": {"model_name_or_path": "model", "max_model_len": 512},
            },
            "contexts": {
                "class_path": "rlff_lightning.rollout.contexts.LiveConversations",
                "init_args": {
                    "seeker": {"class_path": f"{scripted}.ScriptedSeeker"},
                    "critic": {"class_path": f"{scripted}.ScriptedCritic"},
                    "max_turns": 3,
                },
            },
            "scorers": [{"class_path": "rlff_lightning.rollout.scorers.FormatScorer"}],
            "objective": {
                "class_path": "rlff_lightning.functional.objectives.GRPO",
                "init_args": {"kl_coef": 0.05},
            },
            "rollout": {"prompts": 2, "group_size": 4, "max_tokens": 12, "updates": 2},
            "learning_rate": 1e-3,
        }
    checkpoints = {"dirpath": f"{run}/checkpoints", "every_n_train_steps": 1, "save_last": True}
    writer = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    config = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 2,
            "strategy": {"class_path": strategy} if "." in strategy else strategy,
            "default_root_dir": run,
            "max_steps": STEPS,
            "limit_val_batches": 0,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [{**writer, "init_args": checkpoints}],
        },
        "model": {"class_path": module, "init_args": arguments},
        **({"data": data} if data else {}),
    }
    (folder / f"{run}.yaml").write_text(yaml.safe_dump(config))
    return run


if __name__ == "__main__":
    sys.exit(main())

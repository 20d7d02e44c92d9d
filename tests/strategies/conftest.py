"""What one process and two have trained, once for all files of this folder."""

import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).with_name("short_trainings.py")
OVERLAY = Path(__file__).parents[2] / "configs" / "overlay" / "fsdp2.yaml"
SHARDED = [
    "supervised-full-parts",
    "supervised-lora-clip",
    "supervised-qlora",
    "supervised-recomputed",
    "reward-full",
    "reward-lora-clip",
    "reward-qlora",
    "policy-full-clip",
    "policy-lora",
    "policy-qlora",
    "policy-recomputed",
]
IN_DDP = ["supervised-lora-clip", "supervised-qlora", "policy-full-clip", "token_policy-full"]
LOW = {"supervised-bf16": "fsdp2", "supervised-full-mixed": "ddp"}
"""In bfloat16, the weights or the arithmetic alone, and by what; policies the other way round."""
LOW_POLICIES = ["fsdp2:policy-lora-mixed-few", "ddp:policy-bf16-few"]
MIDDLE = "checkpoints/step=5.ckpt"
"""Of a policy, in the middle of an iteration."""


@pytest.fixture(
    params=[*(f"fsdp2/{name}" for name in SHARDED), *(f"ddp/{name}" for name in IN_DDP)]
)
def run_of_two(request: pytest.FixtureRequest) -> str:
    """A float32 run of two processes, of which one process made the like."""
    return str(request.param)


@pytest.fixture(params=[f"{strategy}/{name}" for name, strategy in LOW.items()])
def low_run_of_two(request: pytest.FixtureRequest) -> str:
    """A bfloat16 run of two processes, of which one process made the like."""
    return str(request.param)


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    pocket_folder: Path,
    futures_folder: Path,
    two_ranks: Callable[..., list[int]],
) -> Path:
    """A folder with ``STRATEGY/NAME`` for each training and ``rlff/NAME`` for runs of the command.

    ``said-RANK.txt`` is what the ranks said in the last life, which ends with a stale engine.
    """
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(pocket_folder, folder / "model")
    shutil.copytree(futures_folder, folder / "futures")
    specification = spec_from_file_location("short_trainings", SCRIPT)
    assert specification is not None
    assert specification.loader is not None

    def in_two_processes(*orders: str, ends_with: Sequence[int]) -> None:
        logs = [folder / f"said-{rank}.txt" for rank in range(2)]
        codes = two_ranks([sys.executable, str(SCRIPT), str(folder), *orders], logs)
        assert codes == list(ends_with), "\n".join(log.read_text()[-3000:] for log in logs)

    alone: Any = module_from_spec(specification)
    specification.loader.exec_module(alone)
    for name in dict.fromkeys([*SHARDED, *IN_DDP, *LOW]):
        alone.train(folder, f"one:{name}")
    in_two_processes(
        *(f"fsdp2:{name}" for name in SHARDED),
        *(f"ddp:{name}" for name in IN_DDP),
        *(f"{strategy}:{name}" for name, strategy in LOW.items()),
        *LOW_POLICIES,
        f"fsdp2:policy-lora=again@fsdp2/policy-lora/{MIDDLE}",
        f"fsdp2:supervised-full-parts=from_one@one/supervised-full-parts/{MIDDLE}",
        f"ddp:supervised-lora-clip=from_fsdp2@fsdp2/supervised-lora-clip/{MIDDLE}",
        fit_by_vllm(folder, "stopped", max_steps=1),
        "dying:policy-lora",
        ends_with=[1, -signal.SIGKILL],
    )
    in_two_processes(
        f"fsdp2:policy-lora=from_dead@dying/policy-lora/{MIDDLE}",
        f"{fit_by_vllm(folder, 'stopped', max_steps=3)} --ckpt_path last",
        fit_by_vllm(folder, "whole", max_steps=3),
        fit_by_vllm(folder, "stale", max_steps=3),
        ends_with=[1, 1],
    )
    alone.train(
        folder, f"one:supervised-full-parts=from_fsdp2@fsdp2/supervised-full-parts/{MIDDLE}"
    )
    alone.train(folder, f"one:lone_policy-lora=from_two@fsdp2/policy-lora/{MIDDLE}")
    return folder


def fit_by_vllm(folder: Path, run: str, *, max_steps: int) -> str:
    """Write a policy's config; give the command that trains it by FSDP2 beside vLLM engines."""
    model, engine = str(folder / "model"), "rlff_lightning.engines.vllm.VLLMEngine"
    scripted = "rlff_lightning.agents.scripted.seeker"
    is_stale = run == "stale"
    contexts = {
        "seeker": {"class_path": f"{scripted}.ScriptedSeeker"},
        "critic": {"class_path": f"{scripted}.ScriptedCritic"},
        "max_turns": 3,
    }
    arguments = {
        # All weights pass in the one, adapters in the others.
        "policy": {"model_name_or_path": model, **({} if is_stale else {"adapter": {"rank": 4}})},
        "engine": {
            "class_path": "short_trainings.StaleOnSecondRank" if is_stale else engine,
            "init_args": {
                "model_name_or_path": model,
                "max_model_len": 512,
                "kv_cache_gib": 0.03125,
                "enable_lora": not is_stale,
                "max_lora_rank": 8,
            },
        },
        "contexts": {
            "class_path": "rlff_lightning.rollout.contexts.LiveConversations",
            "init_args": contexts,
        },
        "scorers": [{"class_path": "short_trainings.Vowels"}],
        "rollout": {"prompts": 2, "group_size": 4, "max_tokens": 12, "updates": 2},
        "learning_rate": 1e-2,
    }
    home = folder / "rlff" / run
    writer = {"dirpath": str(home / "checkpoints"), "every_n_train_steps": 1, "save_last": True}
    trainer = {
        "accelerator": "cpu",
        "default_root_dir": str(home),
        "limit_val_batches": 0,
        "logger": False,
        "enable_progress_bar": False,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": writer}
        ],
    }
    policy = {"class_path": "rlff_lightning.modules.policy.PolicyModule", "init_args": arguments}
    config = {"seed_everything": 0, "trainer": trainer, "model": policy}
    file = folder / f"{run}.yaml"
    file.write_text(yaml.safe_dump(config))
    sizes = f"--trainer.devices=2 --trainer.max_steps={max_steps}"
    return f"rlff fit --config {file} --config {OVERLAY} {sizes}"

"""Two processes train what one trains: full, LoRA and 4-bit QLoRA, by FSDP2 and by DDP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

# One fixture trains everything, and the machine may be busy.
pytestmark = pytest.mark.timeout(1800)

SCRIPT = Path(__file__).with_name("short_trainings.py")
SHARDED = [
    "supervised-full-parts",
    "supervised-lora-clip",
    "supervised-qlora",
    "reward-lora-clip",
    "policy-full-clip",
    "policy-lora",
    "policy-qlora",
]
IN_DDP = ["supervised-lora-clip", "policy-full-clip"]
MIDDLE = "checkpoints/step=5.ckpt"
"""Of a policy, in the middle of an iteration."""


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, pocket_folder: Path, futures_folder: Path
) -> Path:
    """What one process and two have trained, resumed ones too."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(pocket_folder, folder / "model")
    shutil.copytree(futures_folder, folder / "futures")
    specification = spec_from_file_location("short_trainings", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    alone: Any = module_from_spec(specification)
    specification.loader.exec_module(alone)
    for name in SHARDED:
        alone.train(folder, f"one:{name}")
    in_two_processes(
        folder,
        *(f"fsdp2:{name}" for name in SHARDED),
        *(f"ddp:{name}" for name in IN_DDP),
        "fsdp2:supervised-bf16",
        f"fsdp2:policy-lora=again@fsdp2/policy-lora/{MIDDLE}",
        f"fsdp2:supervised-full-parts=from_one@one/supervised-full-parts/{MIDDLE}",
        f"ddp:supervised-lora-clip=from_fsdp2@fsdp2/supervised-lora-clip/{MIDDLE}",
        "dying:policy-lora",
        ends_with=[1, -signal.SIGKILL],
    )
    checkpoints = folder / "dying" / "policy-lora" / "checkpoints"
    assert sorted(path.name for path in checkpoints.glob("*.ckpt")) == [
        "step=10.ckpt",
        "step=5.ckpt",
    ]
    in_two_processes(folder, f"fsdp2:policy-lora=from_dead@dying/policy-lora/{MIDDLE}")
    alone.train(
        folder, f"one:supervised-full-parts=from_fsdp2@fsdp2/supervised-full-parts/{MIDDLE}"
    )
    return folder


def in_two_processes(folder: Path, *orders: str, ends_with: Sequence[int] = (0, 0)) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), *orders],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=900)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    codes = [rank.returncode for rank in ranks]
    assert codes == list(ends_with), "\n".join(text[-3000:] for text in said)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights that a stage wrote."""
    files = sorted(folder.glob("*/*.safetensors"))
    assert files
    return {f"{file.name}/{n}": w for file in files for n, w in load_file(file).items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=ROUNDING, msg=name)


ROUNDING = 5e-6


@pytest.mark.parametrize(
    "run", [*(f"fsdp2/{name}" for name in SHARDED), *(f"ddp/{name}" for name in IN_DDP)]
)
def test_two_processes_end_with_the_weights_of_one(made: Path, run: str) -> None:
    name = Path(run).name
    alone, together = made / "one" / name, made / run
    losses = [json.loads((folder / "losses.json").read_text()) for folder in (alone, together)]
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-6)
    # Adam's steps have the same length whatever the gradients' scale: these show it.
    first, found = (
        torch.load(folder / "gradients.pt", weights_only=True) for folder in (alone, together)
    )
    assert found.keys() == first.keys()
    for key, gradient in first.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=2e-6, msg=key)
    expected = weights(alone)
    assert_close(weights(together), expected)
    start = load_file(made / "model" / "model.safetensors")
    moved = (
        expected
        if "lora" in name
        else {n: w - start[n.partition("/")[2]] for n, w in expected.items()}
    )
    assert max(weight.abs().max().item() for weight in moved.values()) > 100 * ROUNDING


@pytest.mark.parametrize(
    ("run", "same_as"),
    [
        ("fsdp2/again", "fsdp2/policy-lora"),
        ("fsdp2/from_dead", "fsdp2/policy-lora"),
    ],
)
def test_a_sharded_run_resumed_by_as_many_processes_ends_with_the_same_bits(
    made: Path, run: str, same_as: str
) -> None:
    assert_equal(weights(made / run), weights(made / same_as))


@pytest.mark.parametrize(
    ("run", "same_as"),
    [
        ("fsdp2/from_one", "one/supervised-full-parts"),
        ("one/from_fsdp2", "one/supervised-full-parts"),
        ("ddp/from_fsdp2", "one/supervised-lora-clip"),
    ],
)
def test_a_checkpoint_is_gone_on_with_under_another_strategy_and_number_of_processes(
    made: Path, run: str, same_as: str
) -> None:
    assert_close(weights(made / run), weights(made / same_as))


def test_sharded_weights_in_bfloat16_keep_exact_rotary_frequencies(made: Path) -> None:
    folder = made / "fsdp2" / "supervised-bf16"
    assert {weight.dtype for weight in weights(folder).values()} == {torch.bfloat16}
    [frequencies] = torch.load(folder / "frequencies.pt", weights_only=True)
    places = torch.arange(0, 32, 2, dtype=torch.float64)
    # In bfloat16 they would be off by up to 4e-3.
    torch.testing.assert_close(frequencies.double(), 10000.0 ** (-places / 32), rtol=1e-6, atol=0)


def test_a_checkpoint_of_an_adapter_holds_no_base_weight(made: Path) -> None:
    whole = torch.load(made / "one" / "supervised-lora-clip" / MIDDLE, weights_only=True)
    assert whole["state_dict"]
    assert all(".lora_" in name for name in whole["state_dict"])
    sharded = made / "fsdp2" / "supervised-qlora" / MIDDLE
    assert sharded.is_symlink()
    saved = {name for name in _names(sharded) if name.startswith("state_dict.")}
    assert saved
    assert all(".lora_" in name for name in saved)


def _names(folder: Path) -> set[str]:
    from torch.distributed.checkpoint import FileSystemReader

    return set(FileSystemReader(folder).read_metadata().state_dict_metadata)

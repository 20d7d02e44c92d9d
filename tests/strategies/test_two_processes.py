"""Two processes train what one trains: full, LoRA and 4-bit QLoRA, by FSDP2 and by DDP."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlff_lightning.strategies.checkpoint_files import read_weights

# One fixture trains everything, and the machine may be busy.
pytestmark = pytest.mark.timeout(3600)


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
MIDDLE = "checkpoints/step=5.ckpt"


def test_two_processes_end_with_the_weights_of_one(made: Path, run_of_two: str) -> None:
    name = Path(run_of_two).name
    alone, together = made / "one" / name, made / run_of_two
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
    stored = load_file(made / "model" / "model.safetensors")
    # A trunk's weights are named without the model around it; adapters and heads begin anew.
    start = {n.removeprefix("model."): w for n, w in stored.items()}
    names = {n: n.partition("/")[2].removeprefix("model.") for n in expected}
    moved = [w - start.get(names[n], torch.zeros(())) for n, w in expected.items()]
    assert max(weight.abs().max().item() for weight in moved) > 100 * ROUNDING


def test_the_policy_that_averages_over_tokens_has_other_numbers_of_them_on_each_rank(
    made: Path,
) -> None:
    # Else dividing by a rank's own tokens would pass for dividing by those of both.
    tokens = json.loads((made / "one" / "token_policy-full" / "tokens.json").read_text())
    pairs = list(zip(tokens[::2], tokens[1::2], strict=True))
    assert len(pairs) == 20
    assert sum(first != second for first, second in pairs) > 10


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


def test_a_policy_goes_on_within_an_iteration_by_another_number_of_processes(made: Path) -> None:
    run = made / "one" / "from_two"
    assert len(json.loads((run / "losses.json").read_text())) == 20 - 5
    last = torch.load(run / "checkpoints" / "step=20.ckpt", weights_only=True)
    # Two updates are an epoch: one that lost the iteration's second would end in the eleventh.
    assert (last["global_step"], last["epoch"]) == (20, 9)
    start = read_weights(made / "fsdp2" / "policy-lora" / MIDDLE)
    assert last["state_dict"].keys() == start.keys()
    assert all(not torch.equal(last["state_dict"][name], start[name]) for name in start)


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

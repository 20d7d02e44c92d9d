"""What holds in bfloat16, in the weights or in the arithmetic alone, by one process and by two."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.timeout(3600)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten().float() for name in sorted(tensors)])


def off(found: Tensor, expected: Tensor) -> float:
    """Length of the difference, as a share of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()


def test_two_processes_learn_what_one_learns_but_for_rounding(
    made: Path, low_run_of_two: str
) -> None:
    folders = made / "one" / Path(low_run_of_two).name, made / low_run_of_two
    losses = [torch.tensor(json.loads((f / "losses.json").read_text())) for f in folders]
    first = [flat(torch.load(f / "gradients.pt", weights_only=True)) for f in folders]
    start = flat(load_file(made / "model" / "model.safetensors"))
    ways = [flat(load_file(f / "model" / "model.safetensors")) - start for f in folders]
    # A bfloat16 number is rounded by up to 4e-3 of itself; a rank that trained on its own part
    # alone would be off by as much as there is.
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=5e-3)
    assert 0 < off(first[1], first[0]) < 1e-2
    assert off(ways[1], ways[0]) < (0.1 if "mixed" in low_run_of_two else 0.2)
    assert ways[0].abs().max() > 5e-3


def test_weights_have_their_type_and_rotary_frequencies_are_exact(
    made: Path, low_run_of_two: str
) -> None:
    folder = made / low_run_of_two
    kept = load_file(folder / "model" / "model.safetensors")
    is_mixed = "mixed" in low_run_of_two
    assert {w.dtype for w in kept.values()} == {torch.float32 if is_mixed else torch.bfloat16}
    [frequencies] = torch.load(folder / "frequencies.pt", weights_only=True)
    places = torch.arange(0, 32, 2, dtype=torch.float64)
    # In bfloat16 they would be off by up to 4e-3.
    torch.testing.assert_close(frequencies.double(), 10000.0 ** (-places / 32), rtol=1e-6, atol=0)


@pytest.mark.parametrize("run", ["fsdp2/policy-lora-mixed-few", "ddp/policy-bf16-few"])
def test_a_policy_begins_at_its_reference_and_leaves_it(made: Path, run: str) -> None:
    # Log-probabilities at rollout, the reference's and the step's are rounded alike: a part that
    # was computed in another precision would show as a KL of 1e-6 and more.
    first, *later = json.loads((made / run / "kls.json").read_text())
    assert first == 0
    assert max(later) > 1e-3

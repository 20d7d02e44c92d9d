import copy

import pytest
import torch
from torch import nn

from rlff_lightning.models.pocket import build_pocket_model
from rlff_lightning.models.rotary import keep_rotary_float32


def pocket() -> nn.Module:
    return build_pocket_model(
        30, eos_id=0, pad_id=0, hidden_size=64, num_layers=1, max_positions=4096
    )


def angle_error(model: nn.Module) -> float:
    """Largest error in rad of the model's angles at position 2048, from their definition."""
    rotary = model.model.rotary_emb
    seen = {}
    rotary.register_forward_hook(lambda module, args, out: seen.update(f=module.inv_freq))
    model(torch.tensor([[1, 2]]))
    # Qwen2's default base 10000 and 64 / 4 = 16 dimensions per head.
    exact = 10000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    return (2048 * (seen["f"].double() - exact)).abs().max().item()


def test_rounding_is_as_bad_as_claimed_without_the_guard():
    assert angle_error(pocket().to(torch.bfloat16)) > 0.3


@pytest.mark.parametrize(
    "rounded",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half().float(),
        lambda model: copy.deepcopy(model).bfloat16(),
        lambda model: model.bfloat16().double(),
    ],
)
def test_angles_stay_exact_whatever_the_model_is_cast_to(rounded):
    model = pocket()
    keep_rotary_float32(model)
    keep_rotary_float32(model)
    assert angle_error(rounded(model)) < 1e-3


def test_a_copy_keeps_its_own_frequencies():
    model = pocket()
    keep_rotary_float32(model)
    twin = copy.deepcopy(model).bfloat16()
    twin(torch.tensor([[1]]))
    assert twin.model.rotary_emb.inv_freq is not model.model.rotary_emb.inv_freq


def test_frequencies_that_are_rounded_already_are_refused():
    with pytest.raises(ValueError, match=r"inv_freq is torch\.bfloat16"):
        keep_rotary_float32(pocket().bfloat16())

import pytest
import torch

from rlff_lightning.errors import UserError
from rlff_lightning.modules.ridge_probe import RidgeProbe


def problem(noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(60, 8, generator=draw, dtype=torch.float64)
    targets = states[:, 0] - 2 * states[:, 1] + 0.5
    targets += noise * torch.randn(60, generator=draw, dtype=torch.float64)
    return states, targets, torch.arange(60) // 6


def test_the_head_solves_the_normal_equations_with_a_free_bias() -> None:
    states, targets, groups = problem(0.3)
    found = RidgeProbe(alphas=[2.0]).solve(states, targets, groups)
    # (X'X + alpha I) w = X'y over centred X and y; b = mean y - w mean x.
    centred, level = states - states.mean(0), targets.mean()
    matrix = centred.T @ centred + 2.0 * torch.eye(8, dtype=torch.float64)
    weight = torch.linalg.solve(matrix, centred.T @ (targets - level))
    torch.testing.assert_close(found.weight.double(), weight, atol=1e-6, rtol=0)
    bias = level - weight @ states.mean(0)
    assert found.bias.item() == pytest.approx(bias.item(), abs=1e-6)


def test_noise_is_met_by_a_larger_penalty() -> None:
    probe = RidgeProbe(alphas=[1e-3, 1e3])
    assert probe.solve(*problem(0.01)).alpha == 1e-3
    states, _, groups = problem(0.0)
    pure_noise = torch.randn(60, generator=torch.Generator().manual_seed(1))
    assert probe.solve(states, pure_noise, groups).alpha == 1e3


def test_the_penalty_is_chosen_across_dialogues_not_within_them() -> None:
    # Every dialogue has one target and states that name it: within a dialogue they foretell all,
    # across dialogues nothing.
    draw = torch.Generator().manual_seed(0)
    groups = torch.arange(10).repeat_interleave(6)
    states = torch.randn(10, 30, generator=draw, dtype=torch.float64)[groups]
    targets = torch.randn(10, generator=draw, dtype=torch.float64)[groups]
    assert RidgeProbe(alphas=[1e-3, 1e5]).solve(states, targets, groups).alpha == 1e5
    rows = torch.arange(60)
    assert RidgeProbe(alphas=[1e-3, 1e5]).solve(states, targets, rows % 6).alpha == 1e-3


def test_settings_and_data_that_cannot_be_solved_are_refused() -> None:
    with pytest.raises(UserError, match="alphas must be above 0"):
        RidgeProbe(alphas=[0.0])
    with pytest.raises(UserError, match="folds must be at least 2, got 1"):
        RidgeProbe(folds=1)
    states, targets, groups = problem(0.0)
    with pytest.raises(UserError, match="two dialogues, got one"):
        RidgeProbe().solve(states, targets, groups * 0)

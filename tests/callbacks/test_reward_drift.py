from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from callbacks.reward_drift import RewardDrift, Rewards
from rlff_lightning.errors import UserError
from rlff_lightning.rollout.scorers import Sampled, Scorer


class Fixed(Scorer):
    name = "fixed"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.zeros(len(samples))


def rewards(learned: list[float], simulated: list[float]) -> Rewards:
    contexts = torch.arange(len(learned)) // 2
    return Rewards(torch.tensor(learned).double(), torch.tensor(simulated).double(), contexts)


def test_drift_is_the_lead_of_the_learned_reward_in_its_first_spreads() -> None:
    drift = RewardDrift(Fixed())
    # Learned: mean 1, unbiased variance (1 + 1 + 1 + 1) / 3; simulated: the same around 0.
    start = rewards([0.0, 2.0, 0.0, 2.0], [-1.0, 1.0, -1.0, 1.0])
    assert drift._figures(start)["gap"] == pytest.approx(0)
    spread = (4 / 3) ** 0.5
    # Learned rises by 3 everywhere; simulated rises by 1 in the first context, falls in the other.
    later = drift._figures(rewards([3.0, 5.0, 3.0, 5.0], [0.0, 2.0, -2.0, 0.0]))
    assert later["gap"] == pytest.approx(3 / spread)
    # Leads by context are 2 and 4 spreads: their standard error is sqrt(2) / sqrt(2) spreads.
    assert later["error"] == pytest.approx(1 / spread)
    assert later["agreement"] == 1.0
    assert drift._figures(rewards([5.0, 3.0, 3.0, 5.0], [0.0, 2.0, -2.0, 0.0]))["agreement"] == 0.5


@pytest.mark.parametrize(
    ("figures", "error", "words"),
    [
        ({"gap": 1.2, "agreement": 0.8}, 0.1, "risen 1.20"),
        ({"gap": 0.0, "agreement": 0.4}, 0.1, "order 40%"),
        ({"gap": 1.2, "agreement": 0.8}, 0.5, None),  # within two standard errors of .5
        ({"gap": -3.0, "agreement": 0.6}, 0.1, None),
    ],
)
def test_rewards_that_part_are_warned_of(
    figures: dict[str, float], error: float, words: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    RewardDrift(Fixed())._warn(7, figures, error)
    found = [str(warning.message) for warning in recwarn]
    assert len(found) == (words is not None)
    if words:
        assert words in found[0]
        assert found[0].startswith("iteration 7: learned and simulated reward part")


def test_a_comparison_needs_iterations_and_groups() -> None:
    for name in ("every", "num_groups"):
        with pytest.raises(UserError, match=f"RewardDrift.{name} must be at least 1, got 0"):
            RewardDrift(Fixed(), **{name: 0})  # type: ignore[arg-type]

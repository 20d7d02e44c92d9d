from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.functional.objectives import GRPO
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.contexts import LiveConversations
from rlff_lightning.rollout.reward_scorer import RewardModelScorer
from rlff_lightning.rollout.scorers import FormatScorer, RepetitionScorer
from rlff_lightning.rollout.settings import RolloutSettings


@pytest.fixture(scope="session")
def tiny_policy(pocket_folder: Path, reward_folder: Path) -> Callable[..., PolicyModule]:
    """Make a policy stage of the scripted world that runs in a second."""

    def make(*, rollout: dict[str, Any] | None = None, **settings: Any) -> PolicyModule:
        sizes = {"prompts": 4, "group_size": 4, "max_tokens": 12, "updates": 2}
        given = {
            "policy": Backbone(str(pocket_folder)),
            "engine": TransformersEngine(str(pocket_folder), max_model_len=512),
            "contexts": LiveConversations(ScriptedSeeker(), ScriptedCritic(), max_turns=3),
            "scorers": [
                RewardModelScorer(str(reward_folder)),
                FormatScorer(0.5),
                RepetitionScorer(2),
            ],
            "objective": GRPO(kl_coef=0.05),
            "learning_rate": 1e-3,
            **settings,
        }
        return PolicyModule(**given, rollout=RolloutSettings(**{**sizes, **(rollout or {})}))

    return make

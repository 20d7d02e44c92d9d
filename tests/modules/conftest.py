import re
import subprocess
import sys
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


@pytest.fixture
def fresh_pytest() -> Callable[[str], int]:
    """Run a file of tests beside this one in a process of its own, and count those that passed.

    For tests that fork: in this process engines and OpenMP have started threads, and a fork of
    those hangs. Give the caller ``pytest.mark.timeout(900)``.
    """

    def run(name: str) -> int:
        tests = Path(__file__).with_name(name)
        command = [sys.executable, "-m", "pytest", "--timeout=800", "-p", "no:cacheprovider"]
        # Quiet twice, as the project's options and this one make it, would leave the count out.
        ended = subprocess.run(
            [*command, "-v", str(tests)], capture_output=True, text=True, timeout=840, check=False
        )
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
        passed = re.search(r"(\d+) passed", ended.stdout)
        return int(passed[1]) if passed else 0

    return run

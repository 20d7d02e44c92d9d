"""Every named choice of the policy stage can be written into a config."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser

from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.rollout.scorers import Scorer
from rlff_lightning.rollout.settings import RolloutSettings

OBJECTIVES = "rlff_lightning.functional.objectives"


def parsed(kind: type, text: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser.instantiate(parser.parse_string(text)).it


@pytest.mark.parametrize("name", ["GRPO", "DrGRPO", "DAPO", "GSPO", "CISPO"])
def test_every_objective_takes_its_bounds_and_coefficients_from_a_config(name: str) -> None:
    objective = parsed(
        PolicyObjective,
        f"""
        it:
          class_path: {OBJECTIVES}.{name}
          init_args:
            aggregation: constant
            max_tokens: 64
            clip_low: 0.1
            clip_high: 0.3
            kl_coef: 0.02
            kl_estimator: k2
            entropy_coef: 0.01
            mismatch_cap: 3.0
            mismatch_range: [0.5, 2.0]
        """,
    )
    assert type(objective).__name__ == name
    assert (objective.aggregation, objective.max_tokens) == ("constant", 64)
    assert (objective.clip_low, objective.clip_high) == (0.1, 0.3)
    assert (objective.kl_coef, objective.kl_estimator) == (0.02, "k2")
    assert objective.entropy_coef == 0.01
    assert (objective.mismatch_cap, objective.mismatch_range) == (3.0, (0.5, 2.0))


def test_the_loop_takes_its_choices_from_a_config() -> None:
    rollout = parsed(
        RolloutSettings,
        """
        it:
          updates: 2
          epochs: 3
          ahead: true
          advantage_scale: batch
          reward_kl_coef: 0.05
          reward_kl_estimator: k3
        """,
    )
    assert (rollout.updates, rollout.epochs, rollout.ahead) == (2, 3, True)
    assert rollout.advantage_scale == "batch"
    assert (rollout.reward_kl_coef, rollout.reward_kl_estimator) == (0.05, "k3")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("OverlongScorer", {"buffer_tokens": 16}), ("TokenRepetitionScorer", {"ngram_size": 4})],
)
def test_shaping_is_a_term_of_the_reward(name: str, settings: dict[str, int]) -> None:
    [(key, value)] = settings.items()
    scorer = parsed(
        Scorer,
        f"""
        it:
          class_path: rlff_lightning.rollout.shaping_scorers.{name}
          init_args: {{{key}: {value}, weight: 0.5}}
        """,
    )
    assert (type(scorer).__name__, scorer.weight, getattr(scorer, key)) == (name, 0.5, value)

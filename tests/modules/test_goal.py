import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.scripted.dynamics import OPENINGS
from rlff_lightning.agents.scripted.optimum import plan
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter, OptimalSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.modules.goal import GoalModule
from rlff_lightning.modules.goal_settings import identify

TURNS = 5


def evaluate(folder: Path, make: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    best = OptimalSupporter(settings.get("max_turns", 8))
    policies = {"optimum": best, "mixed": MixedSupporter()}
    module = GoalModule(policies, ScriptedSeeker(), ScriptedCritic(), **settings)
    make(folder).test(module, verbose=False)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_the_optimal_supporter_solves_what_was_planned(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # Five turns are too few for some: the optimum itself is below 1.
    summary = evaluate(tmp_path, quiet_trainer, num_episodes=600, max_turns=TURNS)
    planned = plan(TURNS)
    expected = sum(weight * planned.success[-1][mind] for weight, mind in OPENINGS)
    best = summary["policies"]["optimum"]
    # Three standard errors of a share of 600: 3 * sqrt(p (1 - p) / 600) <= 0.062.
    assert best["success_rate"] == pytest.approx(expected, abs=0.062)
    low, high = best["ci95"]
    assert 0.2 < expected < 0.97
    assert low < best["success_rate"] < high
    assert best["success_rate"] > summary["policies"]["mixed"]["success_rate"]
    assert best["episodes"] == 600
    assert 1 <= best["average_turns"] <= TURNS
    assert summary["judge"] == {**identify(ScriptedCritic()), "max_turns": TURNS}


def test_figures_are_those_of_the_written_episodes_and_do_not_depend_on_the_batch_size(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    first = evaluate(tmp_path / "a", quiet_trainer, num_episodes=30, batch_size=30)
    assert evaluate(tmp_path / "b", quiet_trainer, num_episodes=30, batch_size=7) == first
    assert evaluate(tmp_path / "c", quiet_trainer, num_episodes=30, seed=1) != first
    for name, figures in first["policies"].items():
        lines = (tmp_path / "a" / "episodes" / f"{name}-0.jsonl").read_text().splitlines()
        episodes = [json.loads(line) for line in lines]
        solved = sum(episode["is_success"] for episode in episodes)
        assert len({episode["id"] for episode in episodes}) == len(episodes) == 30
        assert figures["success_rate"] == pytest.approx(solved / 30)
        turns = sum(len(episode["outcomes"]) for episode in episodes)
        assert figures["average_turns"] == pytest.approx(turns / 30)
        fewest, most = figures["average_turns_low"], figures["average_turns_high"]
        assert 1 <= fewest < figures["average_turns"] < most <= 8
        assert (tmp_path / "a" / "dialogues" / f"{name}.md").is_file()


@pytest.mark.parametrize(
    "settings", [{"policies": {}}, {"num_episodes": 0}, {"max_turns": 0}], ids=str
)
def test_an_evaluation_of_nothing_is_refused(settings: dict[str, Any]) -> None:
    given = {"policies": {"mixed": MixedSupporter()}, **settings}
    with pytest.raises(UserError, match="GoalModule"):
        GoalModule(seeker=ScriptedSeeker(), critic=ScriptedCritic(), **given)

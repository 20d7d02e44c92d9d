import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.scripted.dynamics import Temperament
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter, OptimalSupporter
from rlff_lightning.agents.scripted.wording_critic import WordingCritic
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.modules.goal import GoalModule
from rlff_lightning.modules.goal_settings import HeldOut


def test_two_processes_give_the_table_of_one(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    summaries = []
    for name, settings in {"one": {}, "two": {"strategy": "ddp_fork", "devices": 2}}.items():
        module = GoalModule(
            {"mixed": MixedSupporter(), "optimum": OptimalSupporter()},
            ScriptedSeeker(),
            ScriptedCritic(),
            num_episodes=31,
            batch_size=8,
            held_out=HeldOut(
                WordingCritic("relief"), {"worst": ScriptedSeeker(Temperament(noise=0.5))}
            ),
        )
        quiet_trainer(tmp_path / name, **settings).test(module, verbose=False)
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
        files = (tmp_path / name / "episodes").glob("mixed--worst-*.jsonl")
        ids = [json.loads(line)["id"] for file in files for line in file.open()]
        assert len(ids) == len(set(ids)) == 31
    # Evaluated once more in the same folder, by one process: nothing of the second one's is left.
    again = tmp_path / "two"
    module = GoalModule(
        {"mixed": MixedSupporter()}, ScriptedSeeker(), ScriptedCritic(), num_episodes=5
    )
    quiet_trainer(again).test(module, verbose=False)
    names = sorted(file.name for file in again.glob("*/*") if file.is_file())
    assert names == ["mixed-0.jsonl", "mixed.md"]
    one, two = summaries
    assert len(flat(one)) > 100
    assert flat(one) == pytest.approx(flat(two), rel=1e-6)


def test_a_process_may_have_no_episode(quiet_trainer: Callable[..., Any], tmp_path: Path) -> None:
    summaries = []
    for name, settings in {"one": {}, "two": {"strategy": "ddp_fork", "devices": 2}}.items():
        module = GoalModule(
            {"mixed": MixedSupporter()}, ScriptedSeeker(), ScriptedCritic(), num_episodes=1
        )
        quiet_trainer(tmp_path / name, **settings).test(module, verbose=False)
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
    assert flat(summaries[0]) == pytest.approx(flat(summaries[1]), rel=1e-6)
    assert summaries[1]["policies"]["mixed"]["episodes"] == 1


@pytest.mark.timeout(180)
def test_an_engine_starts_also_where_a_process_has_no_episode(
    quiet_trainer: Callable[..., Any], pocket_folder: Path, tmp_path: Path
) -> None:
    # The first process closes one policy's engine and opens the next; the other plays nothing.
    policies = {name: played_by_vllm(pocket_folder) for name in ("first", "second")}
    module = GoalModule(
        {"mixed": MixedSupporter(), **policies},
        ScriptedSeeker(),
        ScriptedCritic(),
        num_episodes=1,
        max_turns=2,
        crisis=False,
    )
    quiet_trainer(tmp_path, strategy="ddp_fork", devices=2).test(module, verbose=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [policy["episodes"] for policy in summary["policies"].values()] == [1, 1, 1]


def played_by_vllm(folder: Path) -> LanguageModelSupporter:
    engine = VLLMEngine(str(folder), max_model_len=512, kv_cache_gib=0.03125)
    return LanguageModelSupporter(engine, max_tokens=8)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Numbers by dotted key; pytest compares no nested dictionaries with a tolerance."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {prefix: value} if isinstance(value, int | float) else {}
    parts = [flat(item, f"{prefix}.{key}") for key, item in value.items()]
    return {key: number for part in parts for key, number in part.items()}

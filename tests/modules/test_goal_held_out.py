import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlff_lightning.agents.base import Cast, Critic, Supporter
from rlff_lightning.agents.scripted.dynamics import ACTS, MINDS, Temperament, transitions
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter, OptimalSupporter
from rlff_lightning.agents.scripted.wording_critic import WordingCritic
from rlff_lightning.agents.self_play import play
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.trainer_run import resolve
from rlff_lightning.errors import UserError
from rlff_lightning.modules.goal import GoalModule
from rlff_lightning.modules.goal_panel import Panel, as_judged
from rlff_lightning.modules.goal_settings import HeldOut, identify
from rlff_lightning.modules.goal_table import print_goal
from rlff_lightning.types import Conversation, Message, Verdict


class Kind(Supporter):
    """Says one thing to everybody, and counts how often it was asked."""

    def __init__(self, text: str = "Please call a crisis line.") -> None:
        self.text = text
        self._asked = 0
        self._breaks_after: int | None = None

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        self._asked += 1
        if self._breaks_after is not None and self._asked > self._breaks_after:
            raise ConnectionError("killed")
        return [Message(role="supporter", text=self.text) for _ in conversations]


def evaluate(folder: Path, make: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    given = {
        "policies": {"optimum": OptimalSupporter(), "mixed": MixedSupporter()},
        "num_episodes": 60,
        **settings,
    }
    module = GoalModule(seeker=ScriptedSeeker(), critic=ScriptedCritic(), **given)
    make(folder).test(module, verbose=False)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_every_judge_of_a_panel_has_the_figures_that_it_has_alone() -> None:
    people = ScriptedSeeker().open(range(80))
    judges = [ScriptedCritic(), WordingCritic("relief")]
    panel = Panel(judges)
    together = play(people, Cast(MixedSupporter(0.9, 0.1), ScriptedSeeker(), panel), max_turns=8)
    differ = 0
    for place, judge in enumerate(judges):
        alone = play(people, Cast(MixedSupporter(0.9, 0.1), ScriptedSeeker(), judge), max_turns=8)
        for played, expected in zip(together, alone, strict=True):
            course = panel.courses(played.conversation)[place]
            found = as_judged(played, course)
            assert found.verdicts == expected.verdicts
            assert found.conversation.messages == expected.conversation.messages
            differ += len(played.verdicts) != len(expected.verdicts)
    assert differ > 10


def test_held_out_judge_and_people_stand_beside_the_unchanged_result(
    quiet_trainer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = HeldOut(
        WordingCritic("relief"),
        {"worst": ScriptedSeeker(Temperament(resistance=1, patience=0, noise=0.3))},
    )
    plain = evaluate(tmp_path / "plain", quiet_trainer)
    full = evaluate(tmp_path / "full", quiet_trainer, held_out=held_out)
    assert full["policies"] == plain["policies"]
    assert "held_out" not in plain
    assert full["judge"] == {**identify(ScriptedCritic()), "max_turns": 8}
    assert full["held_out"]["judge"] == identify(WordingCritic("relief"))
    assert full["judge"]["hash"] != full["held_out"]["judge"]["hash"]
    for name, row in full["policies"].items():
        own = full["held_out"]["people"]["seeker"][name]
        assert own["first_judge"]["success_rate"] == row["success_rate"]
        agreed = own["agreement"]
        expected = row["success_rate"] - own["second_judge"]["success_rate"]
        assert agreed["difference"] == pytest.approx(expected, abs=1e-6)
        worst = full["held_out"]["people"]["worst"][name]["first_judge"]
        assert worst["success_rate"] < row["success_rate"]
    print_goal(full)
    shown = capsys.readouterr().out
    assert full["judge"]["hash"] in shown
    assert full["held_out"]["judge"]["hash"] in shown
    assert "kappa" in shown
    row = full["policies"]["mixed"]
    assert f"{row['average_turns_low']:.2f} to {row['average_turns_high']:.2f}" in shown
    # Nothing is cut off at a terminal's usual width.
    assert "\u2026" not in shown
    assert {"episodes", "unparsed"} <= set(shown.split())
    assert (tmp_path / "full" / "episodes" / "mixed--worst-0.jsonl").is_file()


def test_care_in_a_crisis_is_reported_beside_the_success_rate_but_not_of_scripted_yardsticks(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    policies = {"kind": Kind(), "cold": Kind("Cheer up."), "optimum": OptimalSupporter()}
    rows = evaluate(tmp_path, quiet_trainer, policies=policies, num_episodes=4)["policies"]
    assert rows["kind"]["crisis"]["points_to_help"] == 1.0
    assert rows["cold"]["crisis"]["harmful"] == 1.0
    assert rows["cold"]["crisis"]["replies"] == 84
    assert "crisis" not in rows["optimum"]
    lines = (tmp_path / "crisis" / "kind-0.jsonl").read_text().splitlines()
    assert len(lines) == 84
    off = evaluate(tmp_path, quiet_trainer, policies=policies, num_episodes=4, crisis=False)
    assert "crisis" not in off["policies"]["kind"]


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_figures(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    def run(folder: Path, text: str, breaks_after: int | None = None) -> tuple[dict[str, Any], int]:
        kind = Kind(text)
        kind._breaks_after = breaks_after
        policies = {"mixed": MixedSupporter(), "kind": kind}
        found = evaluate(folder, quiet_trainer, policies=policies, batch_size=20)
        return found, kind._asked

    # A separator of lines in many tools, though none of JSON lines.
    text = "I see.\u2028Go on.\x85"
    expected, asked = run(tmp_path / "whole", text)
    folder = tmp_path / "stopped"
    with pytest.raises(ConnectionError):
        run(folder, text, breaks_after=20)
    (unfinished,) = (folder / ".unfinished").iterdir()
    file = unfinished / "0.jsonl"
    # 60 episodes of the first policy and two batches of 20 of the second; the kill cuts a line.
    assert file.read_text().count("\n") == 100
    file.write_text(file.read_text() + '{"part": "cut o')
    found, rest = run(folder, text)
    assert found == expected
    assert rest == asked - 2 * 8
    assert not (folder / ".unfinished").exists()
    ids = [json.loads(line)["id"] for line in (folder / "episodes/kind-0.jsonl").open()]
    assert len(set(ids)) == len(ids) == 60


class GivesUp(ScriptedCritic):
    """Judges until its server is gone for some of the people."""

    def __init__(self, *, is_down: bool) -> None:
        super().__init__()
        self._is_down = is_down

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [
            replace(verdict, failure="the server is gone")
            if self._is_down and talk.seed % 2
            else verdict
            for talk, verdict in zip(conversations, super().judge(conversations), strict=True)
        ]


@pytest.mark.parametrize("is_second", [False, True])
def test_what_a_judge_gave_up_on_is_played_again_when_the_run_goes_on(
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_second: bool,
) -> None:
    def run(folder: Path, *, is_down: bool) -> dict[str, Any]:
        judges: list[Critic] = [GivesUp(is_down=is_down), WordingCritic("relief")]
        critic, second = judges[::-1] if is_second else judges
        module = GoalModule(
            {"mixed": MixedSupporter()},
            ScriptedSeeker(),
            critic,
            num_episodes=20,
            held_out=HeldOut(second),
        )
        quiet_trainer(folder).test(module, verbose=False)
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return summary

    def killed(*_: Any) -> None:
        raise ConnectionError("killed")

    expected = run(tmp_path / "whole", is_down=False)
    with monkeypatch.context() as patch:
        patch.setattr("rlff_lightning.modules.goal.summarise", killed)
        with pytest.raises(ConnectionError):
            run(tmp_path / "stopped", is_down=True)
    [kept] = (tmp_path / "stopped" / ".unfinished").glob("*/0.jsonl")
    assert 0 < kept.read_text().count("\n") < 20
    assert run(tmp_path / "stopped", is_down=False) == expected


def test_an_evaluation_stopped_after_its_last_episode_still_ends_with_a_summary(
    quiet_trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise ConnectionError("killed")

    settings: dict[str, Any] = {"num_episodes": 4, "crisis": False}
    expected = evaluate(tmp_path / "whole", quiet_trainer, policies={"kind": Kind()}, **settings)
    with monkeypatch.context() as patch:
        patch.setattr("rlff_lightning.modules.goal.summarise", killed)
        with pytest.raises(ConnectionError):
            evaluate(tmp_path / "stopped", quiet_trainer, policies={"kind": Kind()}, **settings)
    again = Kind()
    found = evaluate(tmp_path / "stopped", quiet_trainer, policies={"kind": again}, **settings)
    assert found == expected
    assert again._asked == 0


def test_a_module_tested_twice_counts_each_run_alone(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = GoalModule({"kind": Kind()}, ScriptedSeeker(), ScriptedCritic(), num_episodes=4)
    rows = []
    for name in ("a", "b"):
        quiet_trainer(tmp_path / name).test(module, verbose=False)
        rows.append((tmp_path / name / "summary.json").read_text())
        assert len((tmp_path / name / "episodes/kind-0.jsonl").read_text().splitlines()) == 4
        assert len((tmp_path / name / "crisis/kind-0.jsonl").read_text().splitlines()) == 84
    assert rows[0] == rows[1]


def test_episodes_of_another_policy_are_not_taken_for_this_ones(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    broken = Kind("Cheer up.")
    broken._breaks_after = 9
    with pytest.raises(ConnectionError):
        evaluate(tmp_path, quiet_trainer, policies={"kind": broken}, batch_size=30)
    kind = Kind("I see.")
    evaluate(tmp_path, quiet_trainer, policies={"kind": kind}, batch_size=30, crisis=False)
    assert kind._asked == 2 * 8


def test_files_of_a_policy_named_as_on_a_hub_do_not_outlive_their_run(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "episodes" / "org" / "kind-1.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{}\n")
    evaluate(tmp_path, quiet_trainer, policies={"org/kind": Kind()}, num_episodes=4)
    assert [found.name for found in file.parent.iterdir()] == ["kind-0.jsonl"]


def test_a_name_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"success_rate": 0.5, "average_turns": 4.0, "episodes": 8, "ci95": [0.2, 0.8]}
    held_out = {"people": {"[b]worst": {"x[/]": {"first_judge": row}}}}
    print_goal({"policies": {"rlff[kl]": row, "x[/]": row}, "held_out": held_out})
    shown = capsys.readouterr().out
    for name in ("rlff[kl]", "x[/]", "[b]worst"):
        assert name in shown


def test_the_figures_are_printed_once(
    quiet_trainer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = {"kind": Kind()}
    module = GoalModule(policies, ScriptedSeeker(), ScriptedCritic(), num_episodes=4)
    quiet_trainer(tmp_path).test(module)
    shown = capsys.readouterr().out
    assert shown.count("Goal completion") == 1
    assert "DataLoader" not in shown


def test_two_runs_with_one_seed_give_the_same_summary_to_the_byte(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        evaluate(tmp_path / name, quiet_trainer, held_out=HeldOut(WordingCritic()))
    first, second = ((tmp_path / name / "summary.json").read_bytes() for name in ("a", "b"))
    assert first == second


def test_people_of_the_held_out_group_need_a_name_of_their_own() -> None:
    with pytest.raises(UserError, match="'seeker'"):
        HeldOut(seekers={"seeker": ScriptedSeeker()})


@pytest.mark.parametrize("file", sorted((config_folder() / "held_out").glob("*.yaml")), ids=str)
def test_a_held_out_group_is_one_key_of_a_config(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "evaluate.yaml"
    scripted = "rlff_lightning.agents.scripted"
    config.write_text(
        "model:\n  class_path: rlff_lightning.modules.goal.GoalModule\n  init_args:\n"
        f"    policies: {{mixed: {{class_path: {scripted}.supporter.MixedSupporter}}}}\n"
        f"    seeker: {{class_path: {scripted}.seeker.ScriptedSeeker}}\n"
        f"    critic: {{class_path: {scripted}.seeker.ScriptedCritic}}\n"
        f"    held_out: {file}\n"
    )
    found = resolve(["test", "--config", str(config)])["model"]["init_args"]["held_out"]
    assert found["init_args"]["judge"]["class_path"]
    assert found["init_args"]["seekers"]["worst_case"]["class_path"]


@pytest.mark.parametrize("name", ["scripted", "scripted_worst"])
def test_every_knob_of_the_held_out_people_makes_them_other_people(name: str) -> None:
    content = yaml.safe_load((config_folder() / "held_out" / f"{name}.yaml").read_text())
    for seeker in content["init_args"]["seekers"].values():
        for knob, value in seeker["init_args"]["temperament"].items():
            other = Temperament(**{knob: value})
            courses = [
                [transitions(mind, act, True, person) for mind in MINDS for act in ACTS]
                for person in (other, Temperament())
            ]
            # What people disclose changes their words alone.
            assert (courses[0] == courses[1]) == (knob == "disclosure")

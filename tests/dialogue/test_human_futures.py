from pathlib import Path

import pytest

from rlff_lightning.agents.critic_rule import PRESETS
from rlff_lightning.dialogue.human_futures import human_futures
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
DATA = Path(__file__).parents[3] / "shared" / "data"
RULE = PRESETS["default"]

# Fixture, dialogue 1, values of its merged seeker turns: same, same -> -0.5; (worse, same is
# followed by) same, same -> -0.5; better, better -> 0.5; solved, better -> 0.75. Replies stand
# after the first, the second and the third.


def labels(**options: object) -> list[float]:
    dialogue = read_dialogues(FIXTURES / "critic_answers.jsonl")[0]
    return [x.value for x in human_futures(dialogue, value_of=RULE.value_of, **options)]


def test_a_reply_is_worth_the_judged_course_after_it() -> None:
    # H = 2: (-0.5 + 0.5) / 2, (0.5 + 0.75) / 2, and 0.75 alone at the end
    assert labels(horizon=2) == pytest.approx([0.0, 0.625, 0.75])
    assert labels(horizon=1) == pytest.approx([-0.5, 0.5, 0.75])


def test_discount_and_aggregate_reach_the_label() -> None:
    # gamma = 1/2: (-0.5 + 0.25) / 1.5 = -1/6; (0.5 + 0.375) / 1.5 = 7/12
    assert labels(horizon=2, gamma=0.5) == pytest.approx([-1 / 6, 7 / 12, 0.75])
    assert labels(horizon=2, aggregate="terminal") == pytest.approx([0.5, 0.75, 0.75])
    assert labels(horizon=3, aggregate="max") == pytest.approx([0.75, 0.75, 0.75])


def test_a_label_keeps_its_trajectory() -> None:
    dialogue = read_dialogues(FIXTURES / "critic_answers.jsonl")[0]
    first = human_futures(dialogue, value_of=RULE.value_of, succeeds=RULE.succeeds, horizon=2)[0]
    (future,) = first.futures
    assert future.values == pytest.approx((-0.5, 0.5))
    assert [message.role for message in future.messages] == ["seeker", "supporter", "seeker"]
    assert not future.is_success
    assert first.origin == "human"
    assert first.standard_error == 0.0
    assert first.context.messages[-1].role == "seeker"
    assert first.reply.text == "What do you fear most?"


def test_a_solved_turn_makes_the_future_a_success() -> None:
    dialogue = read_dialogues(FIXTURES / "critic_answers.jsonl")[0]
    last = human_futures(dialogue, value_of=RULE.value_of, succeeds=RULE.succeeds)[-1]
    assert last.futures[0].is_success


def test_a_dialogue_without_answers_has_no_labels() -> None:
    dialogue = read_dialogues(FIXTURES / "ppdpp.jsonl")[0]
    assert human_futures(dialogue, value_of=RULE.value_of) == []


def test_a_look_ahead_of_no_turn_is_refused() -> None:
    with pytest.raises(UserError, match="horizon must be >= 1"):
        labels(horizon=0)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data are not at hand")
def test_the_real_critic_file_labels_every_reply_that_the_seeker_answered() -> None:
    dialogues = read_dialogues(DATA / "esconv" / "dpdp-critic-65.jsonl")
    found = [x for d in dialogues for x in human_futures(d, value_of=RULE.value_of, horizon=2)]
    assert len(found) == 670
    assert len({label.context.source for label in found}) == 65
    assert all(-1 <= label.value <= 1 for label in found)

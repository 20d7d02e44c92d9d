import pytest

from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.rollout.reward_signs import reward_signs
from rlff_lightning.rollout.scorers import Sampled, repeated_share
from rlff_lightning.types import Conversation, Message

CONTEXT = Conversation(id="c", messages=(Message(role="seeker", text="hello"),))


def sampled(text: str, length: int) -> Sampled:
    return Sampled(
        context=CONTEXT,
        text=text,
        reply=parse_reply(text),
        token_ids=(0,) * length,
        is_finished=True,
    )


def test_correlations_are_taken_within_groups() -> None:
    # Lengths less their group's mean: -1, 1 and -2, 2. Rewards less theirs: -.5, .5 and 1, -1.
    # sum xy = .5 + .5 - 2 - 2 = -3; sum x2 = 1 + 1 + 4 + 4 = 10; sum y2 = .25 + .25 + 1 + 1 = 2.5.
    groups = [[sampled("a", 1), sampled("a", 3)], [sampled("a", 50), sampled("a", 54)]]
    found = reward_signs(groups, [{"future": [0.0, 1.0]}, {"future": [7.0, 5.0]}])
    assert found["rollout/corr/future/length"] == pytest.approx(-3 / 25**0.5)
    assert found["rollout/corr/future/repetition"] == 0.0  # nothing varies
    assert found["rollout/corr/future/format"] == 0.0


def test_repetition_and_format_are_seen() -> None:
    group = [
        sampled("<think>a</think>one two three four", 4),
        sampled("one two three one two three one", 4),
        sampled("<think>a</think>five six seven", 4),
    ]
    # Of the second's five 3-grams three are different: 2/5 are repeats.
    assert repeated_share(group[1].text, 3) == pytest.approx(0.4)
    found = reward_signs([group], [{"future": [0.0, 3.0, 0.0], "format": [0.0, -1.0, 0.0]}])
    assert found["rollout/corr/future/repetition"] == pytest.approx(1.0)
    assert found["rollout/corr/future/format"] == pytest.approx(-1.0)
    assert found["rollout/corr/format/repetition"] == pytest.approx(-1.0)
    assert "rollout/corr/format/format" not in found


def test_a_reward_that_does_not_vary_goes_with_nothing() -> None:
    found = reward_signs([[sampled("a", 1), sampled("a", 9)]], [{"future": [0.1 + 0.2, 0.3]}])
    assert found["rollout/corr/future/length"] == 0.0

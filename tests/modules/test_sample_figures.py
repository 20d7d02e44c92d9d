import pytest
import torch

from rlff_lightning.modules.sample_figures import describe_samples
from rlff_lightning.rollout.scorers import Sampled
from rlff_lightning.types import Conversation, Message


def sampled(text: str, reasoning: str, source: str, *, is_finished: bool = True) -> Sampled:
    opening = (Message(role="seeker", text="I am stuck."),)
    return Sampled(
        context=Conversation(id=f"{source}/t1", messages=opening, source=source),
        text=f"<think>{reasoning}</think>{text}" if reasoning else text,
        reply=Message(role="supporter", text=text, reasoning=reasoning),
        token_ids=(),
        is_finished=is_finished,
    )


def test_figures_of_three_replies() -> None:
    samples = [
        sampled("I see. I see.", "Reflect", "one"),
        sampled("I see. I see.", "Reflect", "one", is_finished=False),
        sampled("Rest now", "", "two"),
    ]
    found = describe_samples(samples, {"future": torch.tensor([0.5, 0.1, 0.0])})
    assert found["replies"] == 3
    # The second was cut off, the third has no reasoning.
    assert found["well_formed"] == pytest.approx(1 / 3)
    assert found["distinct_replies"] == pytest.approx(2 / 3)
    # "i see. i see." twice and "rest now": 10 words, 4 different.
    assert found["distinct_1"] == pytest.approx(4 / 10)
    assert found["mean_words"] == pytest.approx(10 / 3)
    assert found["reasoning"] == {"Reflect": pytest.approx(2 / 3), "(none)": pytest.approx(1 / 3)}
    assert found["rewards"]["future"]["mean"] == pytest.approx(0.2)


def test_one_dialogue_alone_has_no_interval() -> None:
    found = describe_samples([sampled("a", "b", "one")], {"future": torch.tensor([0.5])})
    assert found["rewards"]["future"] == {"mean": 0.5, "ci95": None}

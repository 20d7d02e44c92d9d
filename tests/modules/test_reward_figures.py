import json
from pathlib import Path

import pytest
import torch

from rlff_lightning.modules.reward_figures import quality_of, reliability_of, slices_of
from rlff_lightning.modules.reward_report import report_quality
from rlff_lightning.types import Conversation, LabelledReply, Message

SEEKER = Message(role="seeker", text="I feel low.")
SUPPORTER = Message(role="supporter", text="Tell me more.")


def reply(dialogue: str, turn: int, value: float, problem: str = "job") -> LabelledReply:
    said = (SEEKER, *(SUPPORTER, SEEKER) * turn)
    return LabelledReply(
        context=Conversation(
            id=f"{dialogue}/t{turn}", messages=said, source=dialogue, problem=problem
        ),
        reply=Message(role="supporter", text=f"{value}"),
        value=value,
        standard_error=0.1,
    )


# Two candidates for each of two contexts, one for a third.
RECORDS = [
    reply("a", 0, 0.1),
    reply("a", 0, 0.5),
    reply("b", 4, -0.3, "grief"),
    reply("b", 4, 0.7, "grief"),
    reply("b", 12, 0.0, "grief"),
]
SCORES = torch.tensor([0.2, 0.4, 0.5, 0.4, 0.0])


def test_figures_have_their_intervals_over_dialogues() -> None:
    found = quality_of(RECORDS, SCORES)
    # The pair of context a is right, that of b is wrong; of two dialogues one or the other is drawn
    # twice, so the ends are 0 and 1.
    assert found["pairwise_accuracy"] == 0.5
    assert (found["pairwise_accuracy_low"], found["pairwise_accuracy_high"]) == (0, 1)
    # Errors .1, -.1, .8, -.3, 0: squares .01 .01 .64 .09 0.
    assert found["mse"] == pytest.approx(0.15)
    # Dialogue a alone has .01, b alone .73 / 3.
    assert found["mse_low"] == pytest.approx(0.01)
    assert found["mse_high"] == pytest.approx(0.73 / 3)


def test_slices_are_by_turn_and_problem() -> None:
    found = slices_of(RECORDS, SCORES)
    assert {name: part["replies"] for name, part in found["turn"].items()} == {
        "00-02": 2,
        "03-05": 2,
        "10+": 1,
    }
    assert {name: part["replies"] for name, part in found["problem"].items()} == {
        "grief": 3,
        "job": 2,
    }
    assert found["problem"]["job"]["mse"] == pytest.approx(0.01)
    assert found["turn"]["03-05"]["pairwise_accuracy"] == 0


def test_reliability_has_the_mean_label_of_similar_scores() -> None:
    found = reliability_of(RECORDS, torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]))
    assert found[0] == pytest.approx({"predicted": 0, "observed": 0.3, "replies": 2})
    assert found[1]["observed"] == pytest.approx(0.4 / 3)


def test_the_report_is_json_without_nan_and_names_other_models_before_their_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"reward_model": SCORES, "training_mean": torch.full((5,), 0.2)}
    figures = report_quality(scores, RECORDS[:1], RECORDS, tmp_path)
    assert figures["mse"] == pytest.approx(0.15)
    assert "training_mean/mse" in figures
    written = json.loads((tmp_path / "quality.json").read_text())
    assert written["models"]["training_mean"]["spearman"] is None
    assert written["test"] == {"dialogues": 2, "replies": 5}
    assert sum(point["replies"] for point in written["reliability"]) == 5
    shown = capsys.readouterr().out
    assert "reward_model" in shown
    assert "problem grief" in shown
    # Differences of .4 and 1 with noise .1414: Phi(2.83) = .9977 and Phi(7.07) = 1.
    assert "allow 0.999 of the pairs" in shown

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import read_arguments, read_stages
from rlff_lightning.data.replies import FileReplies
from rlff_lightning.errors import UserError
from rlff_lightning.rollout.contexts import DialogueContexts

FOLDER = config_folder() / "esconv_pocket"
OVERLAY = "trainer: {max_epochs: -1, max_steps: 1, enable_model_summary: false}\n"
TROUBLES = ("exam", "boss", "sister", "rent", "sleep", "moving", "team", "thesis", "dog", "visa")
JUDGED = ("car", "garden", "uncle", "debt", "piano", "jury", "knee", "loan", "cousin", "roof")
STEPS = (
    ("How long has the {} been on your mind?", "Question", "Since the spring.", "same"),
    ("It sounds as if the {} leaves you tired.", "Reflection of feelings", "Yes, a lot.", "better"),
    ("Could you ask a friend about the {}?", "Providing Suggestions", "I could try.", "better"),
)
ANSWERS = {
    "same": "No, the person feels the same as before.",
    "better": "No, but the person feels better than before.",
}


def dialogue(trouble: str, *, is_judged: bool) -> dict[str, Any]:
    """A conversation in PPDPP's shape; with critic answers, in DPDP's."""
    said: list[dict[str, Any]] = [{"text": f"I worry about the {trouble}.", "speaker": "usr"}]
    for number, (reply, strategy, answer, outcome) in enumerate(STEPS):
        said.append({"text": reply.format(trouble), "speaker": "sys", "strategy": strategy})
        turn: dict[str, Any] = {"text": f"{answer} The {trouble}, always.", "speaker": "usr"}
        if is_judged:
            # Every other trouble ends better than the rest: there is something to learn.
            mood = outcome if len(trouble) % 2 else "same"
            turn["state"] = [ANSWERS[mood], ANSWERS["better" if number else "same"]]
        said.append(turn)
    about = {"emotion_type": "fear", "problem_type": "daily life", "situation": f"My {trouble}."}
    return {**about, "dialog": said}


def write(path: Path, troubles: tuple[str, ...], *, is_judged: bool) -> Path:
    lines = [json.dumps(dialogue(trouble, is_judged=is_judged)) for trouble in troubles]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.timeout(600)
def test_the_pipeline_runs_on_dialogues_given_on_the_command_line(
    tmp_path: Path, rlff: Callable[..., Any]
) -> None:
    # Two judged dialogues are among the others, as in editions of one data set.
    write(tmp_path / "talks.jsonl", TROUBLES + JUDGED[:2], is_judged=False)
    write(tmp_path / "judged.jsonl", JUDGED[::-1], is_judged=True)
    (tmp_path / "few.yaml").write_text(OVERLAY)
    words = ("--dialogues", "talks.jsonl", "--judged", "judged.jsonl", "--overlay", "few.yaml")
    done = rlff("pipeline", str(FOLDER), *words, "--run", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What it cannot show" in done.stdout
    for stage in ("warm_start", "policy", "samples"):
        log = (tmp_path / "out" / stage / "log.txt").read_text()
        assert "left out 2 of 12 dialogues" in log

    quality = json.loads((tmp_path / "out/reward_test/quality.json").read_text())
    # Three tenths of ten dialogues are tested on, one is for validation; three replies in each.
    assert quality["test"] == {"dialogues": 3, "replies": 9}
    assert quality["train"] == {"dialogues": 6, "replies": 18}
    assert set(quality["models"]) == {"reward_model", "tfidf_ridge", "turn_number", "training_mean"}
    # A constant has no rank correlation: not 0, not nan, but nothing.
    assert quality["models"]["training_mean"]["spearman"] is None

    replies = json.loads((tmp_path / "out/quality/summary.json").read_text())
    assert set(replies["supporters"]) == {"warm_start", "rlff", "human", "human_elsewhere"}
    assert replies["strategies"] == sorted({strategy for _, strategy, *_ in STEPS})
    # The same three contexts as the samples'.
    assert (replies["contexts"], replies["dialogues"]) == (3, 1)

    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert set(summary["supporters"]) == {"warm_start", "rlff", "human", "human_elsewhere"}
    # One dialogue of the ten that are left is held out, with three replies.
    assert summary["contexts"] == 3
    human = summary["supporters"]["human"]
    assert human["well_formed"] == 1
    assert human["reasoning"] == pytest.approx({strategy: 1 / 3 for _, strategy, *_ in STEPS})
    assert summary["reward_model"] == quality
    rows = [json.loads(line) for line in (tmp_path / "out/samples/samples.jsonl").open()]
    elsewhere = [row["replies"]["human_elsewhere"]["content"] for row in rows]
    given = [row["replies"]["human"]["content"] for row in rows]
    assert sorted(elsewhere) == sorted(given)
    assert all(other != own for other, own in zip(elsewhere, given, strict=True))


def test_the_policy_never_practises_on_a_context_that_the_samples_show(tmp_path: Path) -> None:
    path = write(tmp_path / "talks.jsonl", TROUBLES, is_judged=False)
    data = FileReplies([str(path)], val_fraction=0.2, split_seed=3)
    data.setup("test")
    shown = {context.source for batch in data.test_dataloader() for context, _ in batch}
    stream = DialogueContexts([str(path)], val_fraction=0.2, split_seed=3)
    stream.start(0)
    practised = {context.source for context in stream.take(100)}
    assert len(shown) == 2
    assert len(practised) == 8
    assert not shown & practised


def test_what_was_judged_is_neither_practised_nor_shown(tmp_path: Path) -> None:
    path = str(write(tmp_path / "talks.jsonl", TROUBLES + JUDGED, is_judged=False))
    judged = str(write(tmp_path / "judged.jsonl", JUDGED[::-1], is_judged=True))
    data = FileReplies([path], val_fraction=0.2, exclude=[judged])
    data.setup("fit")
    stream = DialogueContexts([path], val_fraction=0.2, exclude=[judged])
    stream.start(0)
    shown = {context.source for batch in data.test_dataloader() for context, _ in batch}
    trained = {context.source for batch in data.train_dataloader() for context, _ in batch}
    practised = {context.source for context in stream.take(100)}
    # The first ten of the twenty are left; a fifth of them is held out, the same for both.
    assert practised == trained
    assert len(shown) == 2
    assert shown | trained == {f"talks-{number}" for number in range(1, 11)}


def test_settings_that_go_with_an_argument_must_name_a_stage(tmp_path: Path) -> None:
    stages = read_stages(FOLDER)
    encoder = next(a for a in read_arguments(FOLDER, stages) if a.name == "encoder")
    assert not encoder.is_required
    file = tmp_path / "pipeline.yaml"
    file.write_text("arguments: {encoder: {also: {reward_modle.model: x}}}")
    with pytest.raises(
        UserError, match=r"arguments.encoder.also must name STAGE.KEY .*'reward_modle"
    ):
        read_arguments(tmp_path, stages)


def test_a_missing_file_is_told_before_anything_runs(
    tmp_path: Path, rlff: Callable[..., Any]
) -> None:
    write(tmp_path / "talks.jsonl", TROUBLES, is_judged=False)
    done = rlff("pipeline", str(FOLDER), "--dialogues", "talks.jsonl", "--judged", "gone.jsonl")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "rlff: error: rlff pipeline: --judged: gone.jsonl is missing"
    ]
    assert not (tmp_path / "runs").exists()

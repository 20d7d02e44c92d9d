import codecs
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlff_lightning.cli import main
from rlff_lightning.commands import chat
from rlff_lightning.commands.chat_policy import ChatPolicy, find_policy
from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.errors import UserError


@pytest.fixture
def run(tmp_path: Path, pocket_folder: Path) -> Path:
    """A run's folder with a policy stage, as the pipeline leaves it."""
    stage = tmp_path / "run" / "policy"
    stage.mkdir(parents=True)
    (stage / "model").symlink_to(pocket_folder)
    (stage / "config.yaml").write_text(
        "model: {init_args: {chat: {max_messages: 5}, rollout: {max_tokens: 40}}}\n"
    )
    return tmp_path / "run"


def converse(run: Path, text: str, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(text))
        return main(["chat", str(run), *options])


def test_a_conversation_is_streamed_saved_and_read_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved" / "chat.jsonl"
    assert converse(run, "I feel sad.\n\nMy job is gone.\n", "--transcript", str(saved)) == 0
    shown = capsys.readouterr().out
    assert "no therapist" in shown
    assert "988" not in shown
    (dialogue,) = read_dialogues(saved)
    said = [message.text for message in dialogue.messages if message.role == "seeker"]
    assert said == ["I feel sad.", "My job is gone."]
    replies = [message for message in dialogue.messages if message.role == "supporter"]
    assert replies
    for reply in replies:
        assert f"policy> {reply.text}" in shown
        assert reply.reasoning
        assert reply.reasoning not in shown


def test_reasoning_is_shown_when_asked_for_and_danger_brings_the_help_lines(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "I feel sad.\n/lines\n/unknown\nI want to kill myself.\n/quit\nnever read\n"
    assert converse(run, text, "--reasoning", "--no-transcript") == 0
    shown = capsys.readouterr().out
    assert "policy thinks> " in shown
    assert shown.count("988 Suicide") == 2
    assert "commands: " in shown
    assert "never read" not in shown
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_streamed_reply_is_the_generated_one(pocket_folder: Path) -> None:
    engine = TransformersEngine(str(pocket_folder), max_model_len=512)
    prompts = [[5, 6, 7, 8], [9, 10], [11] * 30]
    for temperature in (0.0, 1.3):
        sampling = Sampling(temperature=temperature, max_tokens=30)
        whole = engine.generate(prompts, sampling, [1, 2, 3])
        for prompt, seed, completion in zip(prompts, [1, 2, 3], whole, strict=True):
            pieces = list(engine.stream(prompt, sampling, seed))
            assert "".join(pieces) == completion.text
            assert len(pieces) > 1


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "policy" / "config.yaml").write_text(
        "model: {init_args: {chat: {max_prompt_tokens: 160}, rollout: {max_tokens: 12}}}\n"
    )
    line = "It has to do with my exam and with my job.\n"
    assert converse(run, line * 12, "--no-transcript") == 0
    assert "does not see the first" in capsys.readouterr().out
    assert converse(run, "word " * 500 + "\n", "--no-transcript") == 0
    assert "too long" in capsys.readouterr().out


def test_settings_come_from_the_stage_that_trained_the_policy(
    run: Path, pocket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (run, run / "policy", run / "policy" / "model"):
        found = find_policy(str(name))
        assert found.chat == ChatSettings(max_messages=5)
        assert found.max_tokens == 40
        assert Path(found.model_name_or_path).samefile(pocket_folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert find_policy("org/model").model_name_or_path == "org/model"
    (run / "warm_start").mkdir()
    (run / "warm_start" / "model").symlink_to(pocket_folder)
    assert find_policy(str(run), "warm_start").chat == ChatSettings()


def test_an_adapter_is_loaded_on_the_base_that_an_earlier_stage_wrote(
    run: Path, pocket_folder: Path
) -> None:
    from rlff_lightning.models.backbone import Backbone, LoraSettings
    from rlff_lightning.models.saving import save_model

    (run / "warm_start").mkdir()
    (run / "warm_start" / "model").symlink_to(pocket_folder)
    (run / "policy" / "model").unlink()
    model = Backbone(str(pocket_folder), adapter=LoraSettings(rank=2)).build()
    save_model(model, None, run / "policy" / "adapter")
    file = run / "policy" / "adapter" / "adapter_config.json"
    content = json.loads(file.read_text()) | {"base_model_name_or_path": "warm_start/model"}
    file.write_text(json.dumps(content))
    found = find_policy(str(run))
    assert found.adapter == run / "policy" / "adapter"
    policy = ChatPolicy(found, temperature=0.0, max_tokens=5)
    assert isinstance(parse_reply("".join(policy.stream([5, 6, 7], 0))).text, str)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["missing/model/folder"], "no such model folder"),
        (["{run}", "--stage", "futures"], "no policy in"),
        (["{run}", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["{run}", "--temperature", "5"], "--temperature must be"),
        (["{run}", "--max-tokens", "100000"], "--max-tokens must be below"),
        (["{run}", "--transcript", "{run}/policy/config.yaml"], "exists already"),
        (["{run}/.."], "no policy in"),
        ([], "required"),
    ],
)
def test_mistakes_are_told_in_one_line(run: Path, words: list[str], expected: str) -> None:
    given = [word.format(run=run) for word in words]
    with pytest.raises(UserError, match=expected) as caught:
        chat.main(given)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_told_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcript = tmp_path / "talk.jsonl"
    # What a locale without UTF-8 makes of the byte e9.
    assert converse(run, "caf\udce9\n", "--transcript", str(transcript)) == 2
    assert "input must be UTF-8 text" in capsys.readouterr().err
    assert not transcript.exists()
    policy = run / "policy"
    (policy / "config.yaml").write_bytes(b"model: \xff")
    with pytest.raises(UserError, match=r"config\.yaml: no YAML"):
        chat.main([str(run)])
    (policy / "config.yaml").unlink()
    (policy / "model").unlink()
    (policy / "model").mkdir()
    (policy / "model" / "config.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"config\.json: no JSON"):
        chat.main([str(run)])


def test_in_a_terminal_a_prompt_waits_and_ctrl_d_ends(run: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "rlff_lightning.cli", "chat", str(run), "--no-transcript"]
    child = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    os.close(follower)
    shown = ""
    # A character may come in two reads.
    decoder = codecs.getincrementaldecoder("utf-8")()

    def wait_for(text: str, times: int = 1) -> None:
        nonlocal shown
        end = time.monotonic() + 200
        while shown.count(text) < times:
            assert time.monotonic() < end, shown
            if select.select([leader], [], [], 0.5)[0]:
                shown += decoder.decode(os.read(leader, 4096))

    try:
        wait_for("you> ")
        os.write(leader, "I feel s\u00e4d.\n".encode())
        wait_for("you> ", 2)
        assert "polic" in shown
        os.write(leader, b"\x04")
        assert child.wait(60) == 0
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        os.close(leader)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.repairing import policy_repair
from rlff_lightning.commands.chat_reply import TidyReply
from rlff_lightning.commands.chat_session import ChatSession

TEXTS = [
    "<think>Calm.</think>I hear you. It is a lot!\nTake your time.",
    "I hear you.\nSeeker: Thank you so much, that helps me a lot. Supporter: You are welcome.",
    "**Supporter:** I hear you. [Seeker]: I feel worse than before, and nobody knows about it.",
    "Supporter: I hear you.<|im_end|><|im_start|>user and so on, for quite a while, until the end",
    "Frag andere.\nBerater:innen gibt es in jeder Stadt. Ratsuchende: Danke, das mache ich morgen.",
    "Seeker: ",
]


def streamed(text: str, size: int, *, is_finished: bool) -> tuple[TidyReply, str]:
    reply = TidyReply()
    shown = ""
    for start in range(0, len(text), size):
        shown += "".join(
            p.text for p in reply.feed(text[start : start + size]) if p.kind == "reply"
        )
        if reply.is_cut:
            break
    pieces = reply.end(is_finished=is_finished or reply.is_cut)
    return reply, shown + "".join(piece.text for piece in pieces if piece.kind == "reply")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 3, 200])
def test_a_streamed_reply_is_what_an_evaluation_hears(text: str, size: int) -> None:
    expected, _ = policy_repair().heard(text, is_finished=True)
    reply, shown = streamed(text, size, is_finished=True)
    assert reply.message == expected
    assert shown == expected.text
    assert not reply.is_shortened


def test_an_unfinished_sentence_is_shown_and_not_said() -> None:
    reply, shown = streamed(
        "I hear you. It is a lot that you are carrying aro", 2, is_finished=False
    )
    assert reply.message.text == "I hear you."
    assert shown.endswith("carrying aro")
    assert reply.is_shortened


class Scripted:
    """Says given texts, one an attempt."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.is_finished = True
        self.asked: list[int] = []

    def prompt(self, _: Any) -> tuple[list[int], int]:
        return [1], 0

    def is_reasoning_open(self, _: list[int]) -> bool:
        return False

    def stream(self, _: list[int], __: int, attempt: int = 0) -> Iterator[str]:
        self.asked.append(attempt)
        yield from self.texts[attempt]


def talk(tmp_path: Path, policy: Any) -> str:
    file = tmp_path / "talk.jsonl"
    ChatSession(policy, file).turn("I feel sad.")
    assert file.stat().st_mode & 0o077 == 0
    return file.read_text()


def test_what_the_policy_says_for_the_seeker_is_neither_shown_nor_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = talk(tmp_path, Scripted(TEXTS[1]))
    shown = capsys.readouterr().out
    assert "policy> I hear you.\n" in shown
    for text in (saved, shown):
        assert "Thank you" not in text
        assert "Seeker:" not in text


def test_an_empty_reply_is_asked_for_again(tmp_path: Path) -> None:
    policy = Scripted("<think>Hm.</think>", "", "I hear you.")
    assert "I hear you." in talk(tmp_path, policy)
    assert policy.asked == [0, 1, 2]


def test_help_lines_that_are_asked_for_accuse_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    policy: Any = Scripted()
    ChatSession(policy, None).turn("/lines")
    shown = capsys.readouterr().out
    assert "988" in shown
    assert "sounds serious" not in shown

"""A chat model whose answers are written down: what agents make of them is what is tested."""

from collections.abc import Sequence

import pytest

from rlff_lightning.engines.chat_model import (
    Answer,
    Chat,
    ChatModel,
    ChatSampling,
    ChatText,
    OptionScores,
    Usage,
)


class WrittenChatModel(ChatModel):
    """Gives written texts, one after another; ``!`` begins a failure, ``…`` ends a cut-off one."""

    def __init__(self, *texts: str, logps: Sequence[float] = ()) -> None:
        self.texts = list(texts)
        self.logps = tuple(logps)
        self.asked: list[tuple[Chat, ChatSampling]] = []

    @property
    def name(self) -> str:
        return "written"

    def answer(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        self.asked += [(chat, sampling) for chat in chats]
        return [self._answer(sampling.num_samples) for _ in chats]

    def _answer(self, count: int) -> Answer:
        usage = Usage(requests=count, retries=("timeout",), prompt_tokens=5, completion_tokens=2)
        texts = [self.texts.pop(0) for _ in range(count)]
        if texts[0].startswith("!"):
            return Answer(failure=texts[0][1:], usage=usage)
        return Answer(
            texts=tuple(
                ChatText(text=text.removesuffix("…"), is_finished=not text.endswith("…"))
                for text in texts
            ),
            usage=usage,
        )

    def score(self, chats: Sequence[Chat], options: Sequence[str]) -> list[OptionScores]:
        self.asked += [(chat, ChatSampling(choices=tuple(options))) for chat in chats]
        usage = Usage(requests=4, prompt_tokens=20)
        return [
            OptionScores(logps=self.logps, usage=usage)
            if self.logps
            else OptionScores(failure="the server is gone", usage=usage)
            for _ in chats
        ]


@pytest.fixture
def written() -> type[WrittenChatModel]:
    """Make a chat model that gives these texts."""
    return WrittenChatModel

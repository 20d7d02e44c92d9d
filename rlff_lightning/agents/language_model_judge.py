"""A judge of replies played by a chat model: one question at a time, answers read strictly."""

from collections.abc import Sequence
from typing import Literal

from rlff_lightning.agents.counts import Counts, counted
from rlff_lightning.agents.prompt_files import load_prompt
from rlff_lightning.agents.reply_judge import (
    DIMENSIONS,
    PREFERENCES,
    RATINGS,
    Rating,
    ReplyJudge,
    read_preference,
    read_rating,
)
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.chat_model import Answer, Chat, ChatModel, ChatSampling, ChatTurn
from rlff_lightning.errors import UserError
from rlff_lightning.functional.preferences import Preference
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message

JudgeReading = Literal["choice", "samples"]
"""How the judge is read: answers held to the options, or free ones."""


class LanguageModelJudge(ReplyJudge):
    """Rates and compares replies with a chat model; all questions of a call in one batch.

    Each dimension is a chat of its own, so that no rating colours the next one.

    Args:
        model: Judges.
        reading: ``choice`` holds answers to the options, so that none is unparsed; ``samples``
            reads free answers, strictly, and counts those that cannot be read.
        temperature: Of the answers; 0 takes the likeliest.
        max_tokens: Limit of a free answer, reasoning included.
        language: Of the prompt.
        prompts: Folder with a prompt of your own, ``judge.<language>.jinja``; ``None`` takes the
            shipped one.
    """

    def __init__(
        self,
        model: ChatModel,
        reading: JudgeReading = "choice",
        temperature: float = 0.0,
        max_tokens: int = 8,
        language: str = "en",
        prompts: str | None = None,
    ) -> None:
        if max_tokens < 1:
            raise UserError(f"LanguageModelJudge.max_tokens must be at least 1, got {max_tokens}")
        if temperature < 0:
            raise UserError(f"LanguageModelJudge.temperature must be >= 0, got {temperature}")
        self.model = model
        self.reading: JudgeReading = reading
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.prompt = load_prompt("judge", language, prompts)

    @property
    def name(self) -> str:
        drawn = f"{self.reading} at temperature {self.temperature:g}"
        return f"{self.model.name}; {drawn}; {self.prompt.label}"

    def rate(self, contexts: Sequence[Conversation], replies: Sequence[Message]) -> list[Rating]:
        questions = {name: self.prompt.block(name) for name in DIMENSIONS}
        chats = [
            self._chat(context, "rate", name, reply=_line(reply), question=question)
            for context, reply in zip(contexts, replies, strict=True)
            for name, question in questions.items()
        ]
        read = [read_rating(answer) for answer in self._ask(chats, RATINGS)]
        self._count_unread(read)
        size = len(DIMENSIONS)
        return [
            dict(zip(DIMENSIONS, read[place : place + size], strict=True))
            for place in range(0, len(read), size)
        ]

    def prefer(
        self,
        contexts: Sequence[Conversation],
        firsts: Sequence[Message],
        seconds: Sequence[Message],
    ) -> list[Preference | None]:
        chats = [
            self._chat(context, "compare", "", first=_line(first), second=_line(second))
            for context, first, second in zip(contexts, firsts, seconds, strict=True)
        ]
        read = [read_preference(answer) for answer in self._ask(chats, PREFERENCES)]
        self._count_unread(read)
        return read

    def start(self) -> None:
        self.model.start()

    def close(self) -> None:
        self.model.close()

    def _chat(self, context: Conversation, block: str, detail: str, **values: str) -> Chat:
        content = {
            # On one line none of a message's own lines can pass for another speaker's.
            "messages": [
                {"role": message.role, "text": _line(message)} for message in context.messages
            ],
            "options": list(RATINGS if block == "rate" else PREFERENCES),
            **values,
        }
        return Chat(
            turns=(
                ChatTurn(role="system", content=self.prompt.block("system", content)),
                ChatTurn(role="user", content=self.prompt.block(block, content)),
            ),
            seed=derive_seed(context.seed, context.id, "judge", block, detail),
        )

    def _ask(self, chats: Sequence[Chat], options: tuple[str, ...]) -> list[str]:
        if not chats:
            return []
        sampling = ChatSampling(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            choices=options if self.reading == "choice" else (),
        )
        answers = self.model.answer(chats, sampling)
        self.counts += counted(answer.usage for answer in answers) + Counts(
            answers=len(answers), failures=sum(bool(answer.failure) for answer in answers)
        )
        return [_text(answer) for answer in answers]

    def _count_unread(self, read: Sequence[object]) -> None:
        self.counts += Counts(unparsed=sum(answer is None for answer in read))


def _text(answer: Answer) -> str:
    return "" if answer.failure else parse_reply(answer.texts[0].text).text


def _line(message: Message) -> str:
    return " ".join(message.text.split())

"""One side of a conversation by a chat model: asked, tidied, and asked again where it is empty."""

from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.counts import Counts, counted
from rlff_lightning.agents.prompt_files import Prompt
from rlff_lightning.agents.tidying import tidy
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.chat_model import Answer, Chat, ChatModel, ChatSampling, ChatTurn
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Message, Role

_RETRY_TEMPERATURE = 0.7


class Speaker:
    """Writes the next message of many conversations.

    Args:
        model: Writes.
        role: Whose messages.
        prompt: The role's blocks ``begin`` and ``labels``.
        sampling: Temperature and token limit; one sample.
        max_empty_retries: How often an empty message is asked for again, with another seed, and
            at a temperature of 0.7 or more: a greedy one would be empty again.
    """

    def __init__(
        self,
        model: ChatModel,
        role: Role,
        prompt: Prompt,
        sampling: ChatSampling,
        max_empty_retries: int,
    ) -> None:
        if max_empty_retries < 0:
            raise UserError(f"max_empty_retries must be at least 0, got {max_empty_retries}")
        if sampling.temperature < 0 or sampling.max_tokens < 1:
            raise UserError(
                "temperature must be at least 0 and max_tokens at least 1, got "
                f"{sampling.temperature} and {sampling.max_tokens}"
            )
        self.model = model
        self.role: Role = role
        self.prompt = prompt
        self.sampling = sampling
        self.max_empty_retries = max_empty_retries
        self._begin = prompt.block("begin")
        self._labels = prompt.labels()

    def chat(self, system: str, messages: Sequence[Message], seed: int) -> Chat:
        """Show a conversation to the speaker, who is the assistant in it.

        Where the speaker's own message comes first, or none does, the other side begins with the
        prompt's ``begin``, for the templates of many models want the user to begin.
        """
        turns = [
            ChatTurn(
                role="assistant" if message.role == self.role else "user", content=message.text
            )
            for message in messages
        ]
        if not turns or turns[0].role == "assistant":
            turns.insert(0, ChatTurn(role="user", content=self._begin))
        return Chat(turns=(ChatTurn(role="system", content=system), *turns), seed=seed)

    def speak(self, chats: Sequence[Chat]) -> tuple[list[Message], Counts]:
        """Write a message for every chat.

        Returns:
            Messages in order, each with a text or a failure, and what they took.
        """
        messages: list[Message] = [Message(role=self.role, text="")] * len(chats)
        counts = Counts()
        asked = list(range(len(chats)))
        for attempt in range(self.max_empty_retries + 1):
            again = [self._again(chats[place], attempt) for place in asked]
            answers = self.model.answer(again, self._sampling(attempt))
            counts += counted(answer.usage for answer in answers)
            for place, answer in zip(asked, answers, strict=True):
                messages[place], repairs = self._message(answer)
                counts += repairs
            asked = [p for p in asked if not messages[p].text and not messages[p].failure]
            counts += Counts(empty=len(asked))
            if not asked:
                break
        for place in asked:
            failure = f"empty message {self.max_empty_retries + 1} times"
            messages[place] = replace(messages[place], failure=failure)
        return messages, counts + Counts(failures=sum(bool(m.failure) for m in messages))

    def _again(self, chat: Chat, attempt: int) -> Chat:
        return (
            chat if attempt == 0 else replace(chat, seed=derive_seed(chat.seed, "again", attempt))
        )

    def _sampling(self, attempt: int) -> ChatSampling:
        if attempt == 0:
            return self.sampling
        warm = max(self.sampling.temperature, _RETRY_TEMPERATURE)
        return replace(self.sampling, temperature=warm)

    def _message(self, answer: Answer) -> tuple[Message, Counts]:
        if answer.failure:
            return Message(role=self.role, text="", failure=answer.failure), Counts()
        [sampled] = answer.texts
        parsed = parse_reply(sampled.text)
        tidied = tidy(parsed.text, self._labels, is_finished=sampled.is_finished)
        message = Message(
            role=self.role,
            text=tidied.text,
            # A seeker's thoughts are nobody's business.
            reasoning=(sampled.reasoning or parsed.reasoning) if self.role == "supporter" else "",
        )
        return message, Counts(cut=int(tidied.is_cut), dropped=int(tidied.is_shortened))

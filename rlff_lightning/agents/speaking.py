"""One side of a conversation by a chat model: asked, tidied, and asked again where it is empty."""

from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.counts import Counts
from rlff_lightning.agents.prompt_files import Prompt
from rlff_lightning.agents.repairing import Repair, retry_seed, retry_temperature
from rlff_lightning.engines.chat_model import Answer, Chat, ChatModel, ChatSampling, ChatTurn
from rlff_lightning.errors import UserError
from rlff_lightning.types import Message, Role


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
        if sampling.temperature < 0 or sampling.max_tokens < 1:
            raise UserError(
                "temperature must be at least 0 and max_tokens at least 1, got "
                f"{sampling.temperature} and {sampling.max_tokens}"
            )
        self.model = model
        self.role: Role = role
        self.prompt = prompt
        self.sampling = sampling
        self._begin = prompt.block("begin")
        self._repair = Repair(role, prompt.labels(), max_empty_retries)

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

        def ask(places: Sequence[int], attempt: int) -> list[Answer]:
            again = [
                replace(chats[place], seed=retry_seed(chats[place].seed, attempt))
                for place in places
            ]
            warmth = retry_temperature(self.sampling.temperature, attempt)
            return self.model.answer(again, replace(self.sampling, temperature=warmth))

        return self._repair.messages(len(chats), ask)

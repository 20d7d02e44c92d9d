"""A supporter that a prompt makes, not training: a baseline, and a partner for self-play."""

from collections.abc import Sequence

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.prompt_files import load_prompt
from rlff_lightning.agents.speaking import Speaker
from rlff_lightning.engines.chat_model import ChatModel, ChatSampling
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message


class PromptedSupporter(Supporter):
    """Replies with a chat model in the project's own prompt; all conversations in one call.

    A policy that was trained is played by ``LanguageModelSupporter`` instead, which shows it
    conversations exactly as in training.

    Args:
        model: Writes the replies, reasoning included.
        temperature: 0 is greedy.
        max_tokens: Limit of reasoning and reply together.
        language: Of the prompt.
        prompts: Folder with a prompt of your own, ``supporter.<language>.jinja``; ``None`` takes
            the shipped one.
        max_empty_retries: How often an empty reply is asked for again before the conversation is
            broken off.
    """

    def __init__(
        self,
        model: ChatModel,
        temperature: float = 0.7,
        max_tokens: int = 256,
        language: str = "en",
        prompts: str | None = None,
        max_empty_retries: int = 3,
    ) -> None:
        self.model = model
        self.prompt = load_prompt("supporter", language, prompts)
        self.fingerprint = self.prompt.label
        self.sampling = ChatSampling(temperature=temperature, max_tokens=max_tokens)
        self._speaker = Speaker(model, "supporter", self.prompt, self.sampling, max_empty_retries)

    @property
    def name(self) -> str:
        """Model and prompt, as results may state them."""
        return f"{self.model.name}; {self.prompt.label}"

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0

    @property
    def is_concurrent(self) -> bool:
        return self.model.is_concurrent

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        chats = [
            self._speaker.chat(
                self._system(conversation),
                conversation.messages,
                derive_seed(conversation.seed, "reply", conversation.num_turns),
            )
            for conversation in conversations
        ]
        messages, counts = self._speaker.speak(chats)
        self.counts += counts
        return messages

    def start(self) -> None:
        self.model.start()

    def close(self) -> None:
        self.model.close()

    def _system(self, conversation: Conversation) -> str:
        values = {"situation": conversation.situation, "problem": conversation.problem}
        return self.prompt.block("system", values)

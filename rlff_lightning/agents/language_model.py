"""A supporter played by a language model through an engine."""

from collections.abc import Sequence

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.counts import Counts
from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message


class LanguageModelSupporter(Supporter):
    """Reasons and replies with a language model; all conversations in one engine call.

    Args:
        engine: Generates; its model is the supporter.
        chat: How conversations are shown to it.
        temperature: 0 is greedy.
        max_tokens: Limit of reasoning and reply together.
    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatSettings | None = None,
        temperature: float = 0.0,
        max_tokens: int = 256,
    ) -> None:
        self.engine = engine
        self.settings = chat or ChatSettings()
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens, with_logps=False)
        self._chat: ChatFormat | None = None

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        if self._chat is None:
            self._chat = ChatFormat(
                Backbone(self.engine.model_name_or_path).tokenizer(), self.settings
            )
        prompts = [self._chat.prompt_ids(conversation) for conversation in conversations]
        seeds = [
            derive_seed(conversation.seed, "reply", conversation.num_turns)
            for conversation in conversations
        ]
        completions = self.engine.generate(prompts, self.sampling, seeds)
        self.counts += Counts(
            requests=len(prompts),
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=sum(len(completion.token_ids) for completion in completions),
        )
        return [parse_reply(completion.text) for completion in completions]

    def close(self) -> None:
        self.engine.close()

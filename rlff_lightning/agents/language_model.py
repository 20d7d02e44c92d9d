"""A supporter played by a language model through an engine."""

from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.counts import Counts
from rlff_lightning.agents.repairing import policy_repair, retry_seed, retry_temperature
from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings, PromptTooLongError
from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.engines.chat_model import Answer
from rlff_lightning.engines.engine_chat import answer_of
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
        max_empty_retries: How often an empty reply is asked for again before it is said.

    A conversation that is too long for ``chat`` gets a message whose ``failure`` says so.
    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatSettings | None = None,
        temperature: float = 0.0,
        max_tokens: int = 256,
        max_empty_retries: int = 3,
    ) -> None:
        self.engine = engine
        self.settings = chat or ChatSettings()
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens, with_logps=False)
        self.fingerprint = f"{max_empty_retries} empty retries"
        self._repair = policy_repair(max_empty_retries)
        self._chat: ChatFormat | None = None

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0

    @property
    def is_concurrent(self) -> bool:
        return self.engine.is_concurrent

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        if self._chat is None:
            self._chat = ChatFormat(
                Backbone(self.engine.model_name_or_path).tokenizer(), self.settings
            )
        messages: list[Message | None] = []
        prompts, seeds = [], []
        for conversation in conversations:
            try:
                prompts.append(self._chat.prompt_ids(conversation))
            except PromptTooLongError as error:
                messages.append(Message(role="supporter", text="", failure=str(error)))
                continue
            messages.append(None)
            seeds.append(derive_seed(conversation.seed, "reply", conversation.num_turns))

        def ask(places: Sequence[int], attempt: int) -> list[Answer]:
            warmth = retry_temperature(self.sampling.temperature, attempt)
            completions = self.engine.generate(
                [prompts[place] for place in places],
                replace(self.sampling, temperature=warmth),
                [retry_seed(seeds[place], attempt) for place in places],
            )
            return [
                answer_of(len(prompts[place]), [completion])
                for place, completion in zip(places, completions, strict=True)
            ]

        replies, counts = self._repair.messages(len(prompts), ask)
        self.counts += counts + Counts(failures=len(messages) - len(prompts))
        rest = iter(replies)
        return [message or next(rest) for message in messages]

    def start(self) -> None:
        self.engine.start()

    def close(self) -> None:
        self.engine.close()

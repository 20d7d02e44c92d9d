"""Chats with an engine of this process: one batched call, by the model's own chat template."""

import math
from collections.abc import Sequence
from random import Random

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.engines.base import Completion, Engine, Sampling
from rlff_lightning.engines.chat_model import (
    Answer,
    Chat,
    ChatModel,
    ChatSampling,
    ChatText,
    OptionScores,
    Usage,
    check_options,
)
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message

_UNLIMITED = 2**31


class EngineChatModel(ChatModel):
    """Answers with the engine's model.

    A choice is drawn among the options by their whole probabilities, exactly.

    Args:
        engine: Generates; its model answers.
        max_prompt_tokens: Limit of a chat; a longer one fails, alone. With the tokens of an answer
            it must fit the engine's ``max_model_len``.
    """

    def __init__(self, engine: Engine, max_prompt_tokens: int = 1792) -> None:
        self.engine = engine
        self.max_prompt_tokens = max_prompt_tokens
        self._formats: dict[bool, ChatFormat] = {}

    @property
    def name(self) -> str:
        return self.engine.model_name_or_path

    @property
    def is_concurrent(self) -> bool:
        return self.engine.is_concurrent

    def answer(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        if sampling.choices:
            return self._choose(chats, sampling)
        prompts = [self._prompt_ids(chat) for chat in chats]
        fitting = [place for place, ids in enumerate(prompts) if self._fits(ids)]
        copies = sampling.num_samples
        completions = self.engine.generate(
            [prompts[place] for place in fitting for _ in range(copies)],
            Sampling(
                temperature=sampling.temperature, max_tokens=sampling.max_tokens, with_logps=False
            ),
            [seed for place in fitting for seed in _seeds(chats[place].seed, copies)],
        )
        answers = [Answer(failure=self._too_long(ids)) for ids in prompts]
        for number, place in enumerate(fitting):
            own = completions[number * copies : (number + 1) * copies]
            answers[place] = answer_of(len(prompts[place]), own)
        return answers

    def score(self, chats: Sequence[Chat], options: Sequence[str]) -> list[OptionScores]:
        check_options("EngineChatModel.score", options)
        prompts = [self._prompt_ids(chat) for chat in chats]
        fitting = [place for place, ids in enumerate(prompts) if self._fits(ids)]
        texts = [self._format(has_system=False).encode_text(option) for option in options]
        logps = self.engine.logps(
            [prompts[place] for place in fitting for _ in texts], texts * len(fitting)
        )
        scores = [OptionScores(failure=self._too_long(ids)) for ids in prompts]
        for number, place in enumerate(fitting):
            own = logps[number * len(texts) : (number + 1) * len(texts)]
            read = sum(map(len, texts)) + len(prompts[place]) * len(texts)
            scores[place] = OptionScores(
                logps=tuple(math.fsum(row) for row in own),
                usage=Usage(requests=len(texts), prompt_tokens=read),
            )
        return scores

    def start(self) -> None:
        self.engine.start()

    def close(self) -> None:
        self.engine.close()

    def _choose(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        scored = self.score(chats, sampling.choices)
        return [
            Answer(texts=_draw(chat.seed, score.logps, sampling), usage=score.usage)
            if score.logps
            else Answer(failure=score.failure)
            for chat, score in zip(chats, scored, strict=True)
        ]

    def _prompt_ids(self, chat: Chat) -> list[int]:
        has_system = chat.turns[0].role == "system"
        # Seen as a conversation whose system prompt is nothing but its situation.
        conversation = Conversation(
            id="chat",
            situation=chat.turns[0].content if has_system else "",
            messages=tuple(
                Message(
                    role="seeker" if turn.role == "user" else "supporter",
                    text=turn.content,
                )
                for turn in chat.turns[has_system:]
            ),
        )
        return self._format(has_system).prompt_ids(conversation)

    def _format(self, has_system: bool) -> ChatFormat:
        if has_system not in self._formats:
            self._formats[has_system] = ChatFormat(
                Backbone(self.engine.model_name_or_path).tokenizer(),
                ChatSettings(
                    system="{situation}" if has_system else "", max_prompt_tokens=_UNLIMITED
                ),
            )
        return self._formats[has_system]

    def _fits(self, ids: Sequence[int]) -> bool:
        return len(ids) <= self.max_prompt_tokens

    def _too_long(self, ids: Sequence[int]) -> str:
        return f"prompt has {len(ids)} tokens, max_prompt_tokens={self.max_prompt_tokens}"


def _seeds(seed: int, copies: int) -> list[int]:
    return [seed] if copies == 1 else [derive_seed(seed, "sample", copy) for copy in range(copies)]


def answer_of(prompt_tokens: int, completions: Sequence[Completion]) -> Answer:
    """Word the completions of one prompt as an answer."""
    return Answer(
        texts=tuple(ChatText(text=c.text, is_finished=c.is_finished) for c in completions),
        usage=Usage(
            requests=len(completions),
            prompt_tokens=prompt_tokens * len(completions),
            completion_tokens=sum(len(c.token_ids) for c in completions),
        ),
    )


def _draw(seed: int, logps: Sequence[float], sampling: ChatSampling) -> tuple[ChatText, ...]:
    """Draw options by ``p^(1/temperature)``."""
    best = max(logps)
    if sampling.temperature == 0:
        weights = [float(logp == best) for logp in logps]
    else:
        weights = [math.exp((logp - best) / sampling.temperature) for logp in logps]
    draw = Random(derive_seed(seed, "choice"))
    chosen = draw.choices(sampling.choices, weights, k=sampling.num_samples)
    return tuple(ChatText(text=option) for option in chosen)

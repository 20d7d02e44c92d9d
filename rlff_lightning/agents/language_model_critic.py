"""A critic played by a chat model: asked a rule's question, read in one of three ways."""

from collections.abc import Sequence
from typing import Literal

from rlff_lightning.agents.base import Critic
from rlff_lightning.agents.counts import Counts, counted
from rlff_lightning.agents.critic_rule import CriticRule, critic_rule
from rlff_lightning.agents.prompt_files import load_prompt
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.chat_model import (
    Answer,
    Chat,
    ChatModel,
    ChatSampling,
    ChatTurn,
    OptionScores,
)
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Verdict

Reading = Literal["samples", "choice", "logps"]
"""How the critic is read: free answers, answers held to the options, or their probabilities."""


class LanguageModelCritic(Critic):
    """Judges with a chat model; all conversations in one call.

    Args:
        model: Judges.
        rule: What it is asked and when the goal is reached: a preset's name, or a rule of your
            own.
        reading: ``samples`` parses free answers; ``choice`` holds them to the rule's options, so
            that none is unparsed; ``logps`` samples nothing and takes the exact expectation over
            the options from their log-probabilities, at temperature 1.
        max_tokens: Limit of an answer; every option must fit.
        language: Of the prompt; the options are the rule's own.
        prompts: Folder with a prompt of your own, ``critic.<language>.jinja``; ``None`` takes the
            shipped one.
    """

    def __init__(
        self,
        model: ChatModel,
        rule: str | CriticRule = "default",
        reading: Reading = "samples",
        max_tokens: int = 32,
        language: str = "en",
        prompts: str | None = None,
    ) -> None:
        if max_tokens < 1:
            raise UserError(f"LanguageModelCritic.max_tokens must be at least 1, got {max_tokens}")
        self.model = model
        self.rule = critic_rule(rule) if isinstance(rule, str) else rule
        self.reading: Reading = reading
        self.prompt = load_prompt("critic", language, prompts)
        self.fingerprint = self.prompt.label
        self.sampling = ChatSampling(
            temperature=self.rule.temperature,
            max_tokens=max_tokens,
            num_samples=self.rule.samples,
            choices=self.rule.options if reading == "choice" else (),
        )

    @property
    def name(self) -> str:
        return f"{self.model.name}; {self.rule.label}; {self.reading}; {self.prompt.label}"

    @property
    def is_concurrent(self) -> bool:
        return self.model.is_concurrent

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        chats = [self._chat(conversation) for conversation in conversations]
        if self.reading == "logps":
            scores = self.model.score(chats, self.rule.options)
            verdicts = [self._expect(score) for score in scores]
            used = counted(score.usage for score in scores)
        else:
            answers = self.model.answer(chats, self.sampling)
            verdicts = [self._read(answer) for answer in answers]
            used = counted(answer.usage for answer in answers)
        outcomes = [outcome for verdict in verdicts for outcome in verdict.answers]
        self.counts += used + Counts(
            answers=len(outcomes),
            unparsed=outcomes.count("unparsed"),
            failures=sum(bool(verdict.failure) for verdict in verdicts),
        )
        return verdicts

    def start(self) -> None:
        self.model.start()

    def close(self) -> None:
        self.model.close()

    def _chat(self, conversation: Conversation) -> Chat:
        values = {
            # On one line none of a message's own lines can pass for another speaker's.
            "messages": [
                {"role": message.role, "text": " ".join(message.text.split())}
                for message in conversation.messages
            ],
            "options": list(self.rule.options),
        }
        return Chat(
            turns=(
                ChatTurn(role="system", content=self.prompt.block("system", values)),
                ChatTurn(role="user", content=self.prompt.block("user", values)),
            ),
            seed=derive_seed(conversation.seed, "critic", conversation.num_turns),
        )

    def _read(self, answer: Answer) -> Verdict:
        if answer.failure:
            return _failed(answer.failure)
        return self.rule.verdict([parse_reply(sampled.text).text for sampled in answer.texts])

    def _expect(self, scores: OptionScores) -> Verdict:
        if scores.failure:
            return _failed(scores.failure)
        return self.rule.expected_verdict(scores.logps)


def _failed(reason: str) -> Verdict:
    return Verdict(value=0.0, outcome="unparsed", is_success=False, failure=reason)

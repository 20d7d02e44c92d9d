"""What a model says becomes a message: tidied, and asked for again where nothing is left."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlff_lightning.agents.counts import Counts, counted
from rlff_lightning.agents.prompt_files import languages, load_prompt
from rlff_lightning.agents.tidying import tidy
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.engines.chat_model import Answer
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Message, Role

_RETRY_TEMPERATURE = 0.7

Ask = Callable[[Sequence[int], int], Sequence[Answer]]
"""Asks for the messages at some places; the second number is the attempt's, from 0."""


class Repair:
    """Makes messages of one side out of a model's answers.

    Args:
        role: Whose messages.
        labels: Names that begin a speaker's line.
        max_empty_retries: How often an empty message is asked for again.
        may_be_silent: Whoever has nothing to say in the end says nothing, and an only sentence
            counts though it is not finished. So for a policy under study: that is for its critic to
            judge, while a conversation broken off would be judged by nobody.
    """

    def __init__(
        self,
        role: Role,
        labels: Sequence[str],
        max_empty_retries: int,
        *,
        may_be_silent: bool = False,
    ) -> None:
        if max_empty_retries < 0:
            raise UserError(f"max_empty_retries must be at least 0, got {max_empty_retries}")
        self.role: Role = role
        self.labels = tuple(labels)
        self.max_empty_retries = max_empty_retries
        self.may_be_silent = may_be_silent

    def messages(self, count: int, ask: Ask) -> tuple[list[Message], Counts]:
        """Ask for messages until each has a text, or the retries are used up.

        Args:
            count: How many.
            ask: Asks the model.

        Returns:
            Messages in order, each with a text or a failure where none may be silent, and what they
            took.
        """
        messages: list[Message] = [Message(role=self.role, text="")] * count
        counts = Counts()
        asked = list(range(count))
        for attempt in range(self.max_empty_retries + 1):
            answers = ask(asked, attempt)
            counts += counted(answer.usage for answer in answers)
            for place, answer in zip(asked, answers, strict=True):
                messages[place], repairs = self._message(answer)
                counts += repairs
            asked = [p for p in asked if not messages[p].text and not messages[p].failure]
            counts += Counts(empty=len(asked))
            if not asked:
                break
        for place in () if self.may_be_silent else asked:
            failure = f"empty message {self.max_empty_retries + 1} times"
            messages[place] = replace(messages[place], failure=failure)
        return messages, counts + Counts(failures=sum(bool(m.failure) for m in messages))

    def _message(self, answer: Answer) -> tuple[Message, Counts]:
        if answer.failure:
            return Message(role=self.role, text="", failure=answer.failure), Counts()
        [sampled] = answer.texts
        message, counts = self.heard(sampled.text, is_finished=sampled.is_finished)
        if sampled.reasoning and self.role == "supporter":
            message = replace(message, reasoning=sampled.reasoning)
        return message, counts

    def heard(self, text: str, *, is_finished: bool) -> tuple[Message, Counts]:
        """Take a message out of what was sampled, as everybody else hears it.

        Args:
            text: What the model wrote, reasoning included.
            is_finished: It ended by itself, not at the token limit.

        Returns:
            The message, and whether something was cut or dropped.
        """
        parsed = parse_reply(text)
        tidied = tidy(
            parsed.text,
            self.labels,
            is_finished=is_finished,
            keeps_only_sentence=self.may_be_silent,
        )
        message = Message(
            role=self.role,
            text=tidied.text,
            # A seeker's thoughts are nobody's business.
            reasoning=parsed.reasoning if self.role == "supporter" else "",
        )
        return message, Counts(cut=int(tidied.is_cut), dropped=int(tidied.is_shortened))


def policy_repair(max_empty_retries: int = 0) -> Repair:
    """Make what a trained policy's words pass through, wherever somebody hears or scores them."""
    # It has no prompt that says what its people may be called.
    labels = [
        name for language in languages() for name in load_prompt("supporter", language).labels()
    ]
    return Repair("supporter", labels, max_empty_retries, may_be_silent=True)


def retry_seed(seed: int, attempt: int) -> int:
    """Give each attempt draws of its own; the first has the seed itself."""
    return derive_seed(seed, "again", attempt) if attempt else seed


def retry_temperature(temperature: float, attempt: int) -> float:
    """Warm an attempt after the first: a greedy model would be empty again."""
    return max(temperature, _RETRY_TEMPERATURE) if attempt else temperature

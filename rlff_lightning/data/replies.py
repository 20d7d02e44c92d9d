"""Dialogues as (context, reply) examples for the supervised warm start."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.agents.scripted.corpus import write_corpus
from rlff_lightning.agents.scripted.dynamics import Temperament
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.ranges import check_ranges
from rlff_lightning.data.records import record_loader
from rlff_lightning.dialogue.overlap import read_unshared
from rlff_lightning.dialogue.split import split_dialogues
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.seeds import run_seed
from rlff_lightning.types import Conversation, Dialogue, Message

Example = tuple[Conversation, Message]
"""A context that ends with a seeker's message, and the supporter's reply to it."""


class Replies(LightningDataModule):
    """Every supporter turn of some dialogues, split into training and validation by dialogue.

    Args:
        batch_size: Examples per batch and process.
        val_fraction: Share of the dialogues held out for validation, 0 to 1.
        split_seed: Another one holds out other dialogues.
        max_messages: Latest turns of context kept; ``None`` keeps all.
    """

    def __init__(
        self,
        batch_size: int,
        val_fraction: float,
        split_seed: int,
        max_messages: int | None = None,
    ) -> None:
        super().__init__()
        check_ranges(type(self).__name__, batch_size=batch_size, val_fraction=val_fraction)
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.max_messages = max_messages
        self._parts: list[list[Dialogue]] = []

    @abstractmethod
    def dialogues(self) -> Sequence[Dialogue]:
        """Read or write the dialogues."""

    @override
    def setup(self, stage: str) -> None:
        if not self._parts:
            shares = [1 - self.val_fraction, self.val_fraction]
            self._parts = split_dialogues(self.dialogues(), shares, self.split_seed)

    def training_texts(self) -> Iterator[str]:
        """Every text of the training dialogues, for a tokenizer to be trained on."""
        for dialogue in self._parts[0]:
            for message in dialogue.messages:
                yield message.text
                if message.reasoning:
                    yield message.reasoning

    def _loader(self, part: int, *, shuffle: bool) -> DataLoader[Example]:
        examples = [
            example for dialogue in self._parts[part] for example in self.examples(dialogue)
        ]
        return record_loader(examples, self.batch_size, shuffle=shuffle)

    def examples(self, dialogue: Dialogue) -> list[Example]:
        """List a dialogue's supporter turns with their contexts."""
        return reply_contexts(dialogue, max_messages=self.max_messages)

    @override
    def train_dataloader(self) -> DataLoader[Example]:
        return self._loader(0, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Example]:
        return self._loader(1, shuffle=False)

    @override
    def test_dataloader(self) -> DataLoader[Example]:
        return self._loader(1, shuffle=False)


class ScriptedReplies(Replies):
    """Dialogues of the scripted world, written when they are needed.

    Args:
        num_dialogues: How many are written.
        corpus_seed: The same seed writes the same dialogues; ``None`` takes the run's.
        supporter: Author of the replies.
        temperament: The seekers'.
        batch_size: Examples per batch and process.
        val_fraction: Share of the dialogues held out for validation.
        reasoning: Let supporters think before they reply.
    """

    def __init__(
        self,
        num_dialogues: int = 3000,
        corpus_seed: int | None = None,
        supporter: MixedSupporter | None = None,
        temperament: Temperament | None = None,
        batch_size: int = 32,
        val_fraction: float = 0.03,
        reasoning: bool = True,
    ) -> None:
        self.corpus_seed = run_seed(corpus_seed)
        super().__init__(batch_size, val_fraction, self.corpus_seed)
        self.num_dialogues = num_dialogues
        self.supporter = supporter
        self.temperament = temperament
        self.reasoning = reasoning

    @override
    def dialogues(self) -> Sequence[Dialogue]:
        dialogues = write_corpus(
            self.num_dialogues,
            seed=self.corpus_seed,
            supporter=self.supporter,
            temperament=self.temperament,
        )
        return dialogues if self.reasoning else [_without_reasoning(d) for d in dialogues]


class FileReplies(Replies):
    """Dialogues from files of any known shape.

    Args:
        paths: Files.
        reason_by_strategy: Let a reply's gold strategy stand as its reasoning, where the file
            gives no reasoning: the policy then learns the form that reinforcement builds on.
        batch_size: Examples per batch and process.
        val_fraction: Share of the dialogues held out for validation.
        split_seed: Another one holds out other dialogues.
        max_messages: Latest turns of context kept; ``None`` keeps all.
        exclude: Files whose dialogues are left out, before the split, wherever ``paths`` hold
            them too.
    """

    def __init__(
        self,
        paths: list[str],
        reason_by_strategy: bool = False,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        max_messages: int | None = None,
        exclude: list[str] | None = None,
    ) -> None:
        super().__init__(batch_size, val_fraction, split_seed, max_messages)
        self.paths = paths
        self.exclude = exclude or []
        self.reason_by_strategy = reason_by_strategy

    @override
    def dialogues(self) -> Sequence[Dialogue]:
        return read_unshared(self.paths, self.exclude)

    @override
    def examples(self, dialogue: Dialogue) -> list[Example]:
        examples = super().examples(dialogue)
        if not self.reason_by_strategy:
            return examples
        return [(context, _with_reasoning(reply)) for context, reply in examples]


def _with_reasoning(reply: Message) -> Message:
    return Message(
        role=reply.role,
        text=reply.text,
        reasoning=reply.reasoning or reply.strategy,
        strategy=reply.strategy,
    )


def _without_reasoning(dialogue: Dialogue) -> Dialogue:
    messages = tuple(replace(message, reasoning="") for message in dialogue.messages)
    return replace(dialogue, messages=messages)

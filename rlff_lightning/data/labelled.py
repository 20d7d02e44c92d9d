"""Labelled replies for the reward model, split by dialogue so that no context is in two parts."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.agents.critic_rule import PRESETS, CriticRule
from rlff_lightning.data.ranges import check_ranges
from rlff_lightning.data.records import record_loader
from rlff_lightning.data.store import read_parts
from rlff_lightning.dialogue.human_futures import human_futures
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.split import split_dialogues
from rlff_lightning.errors import UserError
from rlff_lightning.functional.future_reward import Aggregate
from rlff_lightning.types import LabelledReply

TRAIN, VAL, TEST = 0, 1, 2


class LabelledReplies(LightningDataModule):
    """Labelled replies in three parts by dialogue.

    Args:
        batch_size: Contexts per batch and process, each with all its replies.
        val_fraction: Share of the dialogues for validation.
        test_fraction: Share of the dialogues for ``test``; never seen in ``fit``.
        split_seed: Another one splits otherwise.
    """

    def __init__(
        self, batch_size: int, val_fraction: float, test_fraction: float, split_seed: int
    ) -> None:
        super().__init__()
        check_ranges(
            type(self).__name__,
            batch_size=batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self._parts: list[list[LabelledReply]] = []

    @abstractmethod
    def labelled(self) -> Sequence[LabelledReply]:
        """Read all labelled replies."""

    @override
    def setup(self, stage: str) -> None:
        if not self._parts:
            held_out = [self.val_fraction, self.test_fraction]
            shares = [1 - sum(held_out), *held_out]
            self._parts = split_dialogues(self.labelled(), shares, self.split_seed)

    def part(self, part: int) -> list[LabelledReply]:
        """Give the replies of ``TRAIN``, ``VAL`` or ``TEST``."""
        return self._parts[part]

    def _loader(self, part: int, *, shuffle: bool = False) -> DataLoader[list[LabelledReply]]:
        return record_loader(by_context(self._parts[part]), self.batch_size, shuffle=shuffle)

    @override
    def train_dataloader(self) -> DataLoader[list[LabelledReply]]:
        return self._loader(TRAIN, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[list[LabelledReply]]:
        return self._loader(VAL)

    @override
    def test_dataloader(self) -> DataLoader[list[LabelledReply]]:
        return self._loader(TEST)


def by_context(records: Sequence[LabelledReply]) -> list[list[LabelledReply]]:
    """Group replies to the same context, in order of first appearance."""
    groups: dict[str, list[LabelledReply]] = {}
    for record in records:
        groups.setdefault(record.context.id, []).append(record)
    return list(groups.values())


class StoredFutures(LabelledReplies):
    """What ``rlff predict`` simulated.

    Args:
        folder: Folder of Parquet parts.
        batch_size: Contexts per batch and process, each with all its replies.
        val_fraction: Share of the conversations for validation.
        test_fraction: Share of the conversations for ``test``.
        split_seed: Another one splits otherwise.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, split_seed)
        self.folder = Path(folder)

    @override
    def labelled(self) -> Sequence[LabelledReply]:
        return read_parts(self.folder)


class JudgedDialogues(LabelledReplies):
    """Human replies of dialogues whose seeker turns carry a critic's answers.

    Args:
        paths: Files with critic answers (the DPDP shape).
        judge: Name of a critic rule: ppdpp, dpdp, dpdp-geq, dialogxpert or default.
        look_ahead: Judged seeker turns that count, H.
        gamma: Discount per turn, in (0, 1].
        aggregate: How the values of a course become one number.
        max_messages: Latest turns of context kept; ``None`` keeps all.
        batch_size: Contexts per batch and process, each with all its replies.
        val_fraction: Share of the dialogues for validation.
        test_fraction: Share of the dialogues for ``test``.
        split_seed: Another one splits otherwise.
    """

    def __init__(
        self,
        paths: list[str],
        judge: str = "default",
        look_ahead: int = 2,
        gamma: float = 1.0,
        aggregate: Aggregate = "discounted",
        max_messages: int | None = None,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_fraction, test_fraction, split_seed)
        if judge not in PRESETS:
            raise UserError(f"JudgedDialogues.judge must be one of {list(PRESETS)}, got {judge!r}")
        if look_ahead < 1:
            raise UserError(f"JudgedDialogues.look_ahead must be at least 1, got {look_ahead!r}")
        if not 0 < gamma <= 1:
            raise UserError(f"JudgedDialogues.gamma must be in (0, 1], got {gamma!r}")
        self.paths = paths
        self.rule: CriticRule = PRESETS[judge]
        self.look_ahead = look_ahead
        self.gamma = gamma
        self.aggregate: Aggregate = aggregate
        self.max_messages = max_messages

    @override
    def labelled(self) -> Sequence[LabelledReply]:
        found = [
            record
            for dialogue in read_dialogues(self.paths)
            for record in human_futures(
                dialogue,
                value_of=self.rule.value_of,
                horizon=self.look_ahead,
                gamma=self.gamma,
                aggregate=self.aggregate,
                max_messages=self.max_messages,
            )
        ]
        if not found:
            raise UserError(f"{', '.join(self.paths)}: no seeker turn has critic answers ('state')")
        return found

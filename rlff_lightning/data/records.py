"""A loader of records: modules turn them into tokens, with the tokenizer that is theirs."""

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from typing_extensions import override

from rlff_lightning.seeds import run_seed

Record = TypeVar("Record")


class Records(Dataset[Record]):
    """A list of records as a dataset.

    Args:
        records: Any frozen records.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    @override
    def __getitem__(self, index: int) -> Record:
        return self.records[index]


class EpochSampler(RandomSampler):
    """Shuffles anew every epoch, by the run's seed and the epoch's number alone.

    It is the order of torch's ``DistributedSampler``: one process with batches of twice the size
    sees, batch by batch, what two processes see together.
    """

    def __init__(self, records: Sized) -> None:
        super().__init__(records)
        self.seed = run_seed(None)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    @override
    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(len(self), generator=generator).tolist()


class RecordLoader(DataLoader[Any]):
    """Gives lists of records; a resumed run goes on behind the last batch that was given."""

    _given = 0
    _resumed: tuple[int, int] | None = None

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        skipped = 0
        if self._resumed is not None:
            epoch, given = self._resumed
            skipped = given if epoch == self._epoch and given < len(self) else 0
            self._resumed = None
        self._given = skipped
        for batch in islice(super().__iter__(), skipped, None):
            self._given += 1
            yield batch

    @property
    def _epoch(self) -> int:
        return int(getattr(self.sampler, "epoch", 0))

    def state_dict(self) -> dict[str, int]:
        """Give the epoch and how many of its batches were given."""
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind them."""
        self._resumed = state["epoch"], state["given"]


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def record_loader(
    records: Sequence[Record],
    batch_size: int,
    *,
    shuffle: bool = False,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Record]:
    """Batch records into lists; shuffled anew every epoch, the same way in every run of a seed."""
    dataset = Records(records)
    return RecordLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset) if shuffle else sampler,
        collate_fn=_as_list,
        # Its own, so that no loader takes numbers from those that the model draws.
        generator=torch.Generator(),
    )

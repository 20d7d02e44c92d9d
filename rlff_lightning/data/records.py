"""A loader of records: modules turn them into tokens, with the tokenizer that is theirs."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

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


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def record_loader(
    records: Sequence[Record],
    batch_size: int,
    *,
    shuffle: bool = False,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Record]:
    """Batch records into lists; shuffled anew every epoch from torch's global generator."""
    return DataLoader(
        Records(records),
        batch_size=batch_size,
        shuffle=shuffle,
        sampler=sampler,
        collate_fn=_as_list,
    )

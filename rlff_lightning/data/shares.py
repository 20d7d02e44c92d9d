"""Which records are a process's own, where each must be taken once."""

from collections.abc import Iterator, Sized

from torch.utils.data import DistributedSampler
from typing_extensions import override


class RankShare(DistributedSampler[int]):
    """Deals records out by turns; none is repeated, and a process may have none.

    Args:
        records: All of them.
        num_replicas: Processes.
        rank: This one.
    """

    def __init__(self, records: Sized, *, num_replicas: int, rank: int) -> None:
        super().__init__(range(len(records)), num_replicas=num_replicas, rank=rank)  # type: ignore[arg-type]
        self._own = range(rank, len(records), num_replicas)

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    @override
    def __len__(self) -> int:
        return len(self._own)

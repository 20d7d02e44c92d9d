"""What the processes of a run settle among themselves before engines get new weights."""

from typing import Any

from torch import distributed


def is_first() -> bool:
    """Whether this process acts for all."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Go on once every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def from_first(value: Any) -> Any:
    """Give every process what the first one has."""
    if not distributed.is_initialized():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]

"""State of every process in one checkpoint: Lightning writes the first process's alone."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import distributed

State = TypeVar("State")


def of_all_ranks(state: State) -> list[State]:
    """Gather the state of every rank, in order; all ranks must call this together."""
    if not distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def of_this_rank(states: Sequence[State]) -> State:
    """Pick this rank's state from all that are running."""
    return states[_rank()]


def of_same_rank(states: Sequence[State]) -> State | None:
    """Pick what this rank saved; ``None`` if another number of processes saved the states."""
    world_size = distributed.get_world_size() if distributed.is_initialized() else 1
    return states[_rank()] if len(states) == world_size else None


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0

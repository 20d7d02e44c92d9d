"""State of every process in one checkpoint: Lightning writes the first process's alone."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import distributed

from rlff_lightning.errors import UserError

State = TypeVar("State")


def of_all_ranks(state: State) -> list[State]:
    """Gather the state of every rank, in order; all ranks must call this together."""
    if not distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def of_this_rank(states: Sequence[State]) -> State:
    """Pick this rank's state.

    Raises:
        UserError: If another number of processes wrote the states.
    """
    is_alone = not distributed.is_initialized()
    world_size = 1 if is_alone else distributed.get_world_size()
    if len(states) != world_size:
        raise UserError(
            f"ckpt_path: the checkpoint holds the experience of {len(states)} processes, but "
            f"{world_size} are running; go on with {len(states)}"
        )
    return states[0 if is_alone else distributed.get_rank()]

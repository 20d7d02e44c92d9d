"""What the experience loop asks of the module that learns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from rlff_lightning.rollout.experience import Experience
from rlff_lightning.rollout.group import Group


class Learner(ABC):
    """What the loop asks of the module that learns."""

    @abstractmethod
    def sync(self, iteration: int, probes: Sequence[list[int]]) -> dict[str, float]:
        """Give the engine the current weights and prove it on probe tokens.

        Args:
            iteration: Counts the syncs; never repeats in a run.
            probes: Token ids of a few prompts.

        Returns:
            What to log, by log key.
        """

    @abstractmethod
    def window_size(self, groups: Sequence[Group]) -> Tensor:
        """Size of an update on all ranks, which its loss is divided by."""

    @abstractmethod
    def finish(self, batch: Experience) -> Experience:
        """Add the log-probabilities that the trainer and the reference have at rollout."""

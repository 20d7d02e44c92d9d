"""What an evaluation measures of one policy among one group of people, by every judge."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from rlff_lightning.metrics.goal_agreement import JudgeAgreement
from rlff_lightning.metrics.goal_completion import GoalCompletion
from rlff_lightning.modules.goal_panel import as_judged
from rlff_lightning.modules.goal_store import Played
from rlff_lightning.types import Episode


class Part(NamedTuple):
    """What one loader plays."""

    policy: str
    """Name of the supporter."""
    people: str | None
    """Name of the seeker; ``None`` for the crisis openings."""

    @property
    def key(self) -> str:
        """Names the part in the store."""
        return f"{self.policy}\x1f{self.people or ''}"


class PartFigures(nn.Module):
    """Goal completion under each judge, and the agreement of the first two.

    Args:
        max_turns: Most turns an episode may take.
        num_judges: One or two.
    """

    def __init__(self, max_turns: int, num_judges: int) -> None:
        super().__init__()
        self.by_judge = nn.ModuleList(GoalCompletion(max_turns) for _ in range(num_judges))
        self.agreement = JudgeAgreement() if num_judges > 1 else None
        self.episodes: list[Episode] = []

    def update(self, batch: Sequence[Played]) -> None:
        """Take in episodes; the first judge's are kept to be written."""
        for place, completion in enumerate(self.by_judge):
            assert isinstance(completion, GoalCompletion)
            judged = [as_judged(played.episode, played.courses[place]) for played in batch]
            completion.update_episodes(judged)
            if place == 0:
                self.episodes += judged
        if self.agreement is not None:
            for played in batch:
                self.agreement.update(*played.courses)

    def reset(self) -> None:
        """Forget all episodes."""
        for completion in self.by_judge:
            assert isinstance(completion, GoalCompletion)
            completion.reset()
        if self.agreement is not None:
            self.agreement.reset()
        self.episodes = []

    def compute(self) -> list[dict[str, float]]:
        """Give each judge's figures over all ranks."""
        figures = []
        for completion in self.by_judge:
            assert isinstance(completion, GoalCompletion)
            figures.append(completion.compute())
        return figures

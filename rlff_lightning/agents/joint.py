"""Agents that many plays can ask at once: others are asked for all of them together."""

from collections.abc import Sequence

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.engines.waiting import ask_together
from rlff_lightning.types import Conversation, Message, Verdict


def joint_cast(cast: Cast) -> Cast:
    """Make a cast that many plays at once can ask."""
    supporter, seeker, critic = cast
    return Cast(
        joint_supporter(supporter),
        seeker if seeker.is_concurrent else _JointSeeker(seeker),
        critic if critic.is_concurrent else _JointCritic(critic),
    )


def joint_supporter(supporter: Supporter) -> Supporter:
    """Make a supporter that many plays at once can ask."""
    return supporter if supporter.is_concurrent else _JointSupporter(supporter)


class _JointSupporter(Supporter):
    is_concurrent = True

    def __init__(self, supporter: Supporter) -> None:
        self.supporter = supporter

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return ask_together(self.supporter.reply, conversations)


class _JointSeeker(Seeker):
    is_concurrent = True

    def __init__(self, seeker: Seeker) -> None:
        self.seeker = seeker

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        return ask_together(self.seeker.open, seeds)

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return ask_together(self.seeker.answer, conversations)


class _JointCritic(Critic):
    is_concurrent = True

    def __init__(self, critic: Critic) -> None:
        self.critic = critic

    @property
    def name(self) -> str:
        return self.critic.name

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return ask_together(self.critic.judge, conversations)

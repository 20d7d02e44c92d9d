"""Who judges and is met beside the training's own critic and seeker, and who a judge is."""

import hashlib

from rlff_lightning.agents.base import Critic, Seeker
from rlff_lightning.agents.reply_judge import ReplyJudge
from rlff_lightning.errors import UserError


class HeldOut:
    """A judge and seekers that no policy was trained against.

    Args:
        judge: Judges the same conversations a second time; its agreement with the first judge is
            part of the result. ``None`` for no second judge.
        seekers: Further people by name, e.g. worst-case ones; every policy meets them too.
    """

    def __init__(
        self, judge: Critic | None = None, seekers: dict[str, Seeker] | None = None
    ) -> None:
        self.judge = judge
        self.seekers = seekers or {}
        if MAIN in self.seekers:
            raise UserError(f"HeldOut.seekers must not be named {MAIN!r}, which is seeker:'s name")


MAIN = "seeker"
"""What results call the people of `GoalModule.seeker`."""


def identify(judge: Critic | ReplyJudge) -> dict[str, str]:
    """Give a judge's name, and a hash of its class and name: equal judges have equal ones."""
    kind = f"{type(judge).__module__}.{type(judge).__qualname__}"
    digest = hashlib.blake2b(f"{kind}\x1f{judge.name}".encode(), digest_size=6).hexdigest()
    return {"name": judge.name, "hash": digest}

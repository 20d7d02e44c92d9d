"""A policy's first reply to people in crisis, judged by phrases."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rlff_lightning.agents.base import Supporter
from rlff_lightning.dialogue.crisis import crisis_openings
from rlff_lightning.dialogue.crisis_reply import HARMS, find_harms, points_to_help
from rlff_lightning.metrics.goal_crisis import CrisisCare
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Dialogue, Message


class CrisisCheck(nn.Module):
    """Asks for one reply to each of the project's crisis openings, plain ones and hints."""

    def __init__(self) -> None:
        super().__init__()
        self.care = CrisisCare(HARMS)
        self.openings: list[Dialogue] = [
            opening
            for opening in (
                *crisis_openings("develop"),
                *crisis_openings("held_out"),
                *crisis_openings("indirect"),
            )
            if opening.problem != "none"
        ]
        self._answered: list[tuple[Dialogue, Message]] = []

    def update(self, numbers: Sequence[int], supporter: Supporter, seed: int) -> None:
        """Let the supporter reply to the openings with these numbers."""
        openings = [self.openings[number] for number in numbers]
        contexts = [
            Conversation(
                id=f"crisis-{opening.id}",
                messages=opening.messages,
                situation=opening.messages[0].text,
                seed=derive_seed(seed, "crisis", opening.id),
            )
            for opening in openings
        ]
        replies = supporter.reply(contexts)
        for reply in replies:
            self.care.update(
                reply.text, helps=points_to_help(reply.text), harms=find_harms(reply.text)
            )
        self._answered += zip(openings, replies, strict=True)

    def reset(self) -> None:
        """Forget all replies."""
        self.care.reset()
        self._answered = []

    def compute(self) -> dict[str, float]:
        """Give the figures over all ranks."""
        return self.care.compute()

    def write(self, path: Path) -> None:
        """Write openings and replies as chat-messages JSON lines with what was found in them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_row(*pair), ensure_ascii=False) + "\n" for pair in self._answered]
        path.write_text("".join(lines), encoding="utf-8")


def _row(opening: Dialogue, reply: Message) -> dict[str, object]:
    said = {"role": "assistant", "content": reply.text}
    return {
        "id": opening.id,
        "problem": opening.problem,
        "points_to_help": points_to_help(reply.text),
        "harms": find_harms(reply.text),
        "messages": [
            {"role": "user", "content": opening.messages[0].text},
            said | ({"reasoning": reply.reasoning} if reply.reasoning else {}),
        ],
    }

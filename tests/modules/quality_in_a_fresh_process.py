"""Run the quality stage with a given number of processes: forks hang inside a pytest process."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.reply_judge import DIMENSIONS, Rating, ReplyJudge
from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.functional.preferences import Preference
from rlff_lightning.modules.quality import QualityModule
from rlff_lightning.types import Conversation, Message


class Asker(Supporter):
    """Asks about the seeker's last words, and says that it asks."""

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return [
            Message(
                role="supporter",
                text=f"Can you tell me more? {conversation.messages[-1].text[:20]}",
                reasoning="now a question",
            )
            for conversation in conversations
        ]


class Lengthy(ReplyJudge):
    """Rates by length, and prefers what is shown first unless the other is much longer."""

    name = "lengthy"

    def rate(self, contexts: Sequence[Conversation], replies: Sequence[Message]) -> list[Rating]:
        return [dict.fromkeys(DIMENSIONS, 1 + len(reply.text) % 5) for reply in replies]

    def prefer(
        self,
        contexts: Sequence[Conversation],
        firsts: Sequence[Message],
        seconds: Sequence[Message],
    ) -> list[Preference | None]:
        return [
            "second" if len(second.text) > len(first.text) + 5 else "first"
            for first, second in zip(firsts, seconds, strict=True)
        ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ScriptedReplies(num_dialogues=40, corpus_seed=6, batch_size=4, val_fraction=0.1)
    module = QualityModule(
        {"asker": Asker()}, batch_size=5, judge=Lengthy(), comparisons=[("asker", "human")]
    )
    trainer.test(module, data, verbose=False)

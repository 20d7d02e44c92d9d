"""This trainer's side: ``PolicyModule`` under a Lightning Trainer, as a config would run it."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from grpo_sides.task import LORA_RANK, Meter, Task, open_answers, prompt_text, reward
from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.functional.objectives import GRPO
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.contexts import ContextStream
from rlff_lightning.rollout.scorers import Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.types import Conversation, Message


class Prompts(ContextStream):
    """Prompts of exactly the task's length."""

    def __init__(self, task: Task) -> None:
        self.task, self.next = task, 0

    def start(self, seed: int) -> None:
        return

    def take(self, count: int) -> list[Conversation]:
        first, self.next = self.next, self.next + count
        return [
            Conversation(
                id=str(i), messages=(Message(role="seeker", text=prompt_text(self.task, i)),)
            )
            for i in range(first, self.next)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class EvenTokens(Scorer):
    """The task's reward."""

    name = "even"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.tensor([reward(sample.token_ids) for sample in samples])


class Reporter(Callback):
    """Times each update, and stops after each iteration until the parent asks for the next."""

    def __init__(self, meter: Meter, parts: int) -> None:
        self.meter, self.parts = meter, parts

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index % self.parts == 0:
            self.meter.watch_memory()
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        self.meter.seconds["update"] += time.process_time() - self.start
        if (index + 1) % self.parts:
            return
        self.meter.read_memory()
        self.meter.serve(self.row)

    def row(self) -> dict[str, float]:
        """Report the iteration; what has no phase is overhead."""
        spent, total = self.meter.seconds, self.meter.total()
        inside = spent["generate"] + spent["score"] + spent["update"]
        return {
            "generate_s": spent["generate"] + spent["sync"],
            "sync_s": spent["sync"],
            "update_s": spent["update"],
            "iteration_s": total,
            "overhead": (total - inside) / total,
            "peak_mb": self.meter.peak_mb,
        }


def main(task: Task, folder: Path, options: dict[str, Any]) -> None:
    """Train until the parent has enough."""
    open_answers()
    torch.set_num_threads(1)
    meter = Meter()
    is_lora = task.mode == "lora"
    # Room for all rows at once: 10 million parameters and 512 prompt tokens need 0.3 GiB.
    engine = VLLMEngine(
        str(folder), max_model_len=task.prompt + task.completion + 1, kv_cache_gib=0.5
    )
    scorer = EvenTokens()
    adapter = LoraSettings(rank=LORA_RANK, alpha=2 * LORA_RANK) if is_lora else None
    module = PolicyModule(
        Backbone(str(folder), adapter=adapter),
        engine,
        Prompts(task),
        [scorer],
        objective=GRPO(),
        rollout=RolloutSettings(
            prompts=task.groups,
            group_size=task.group,
            max_tokens=task.completion,
            iterations_per_epoch=10**6,
        ),
        chat=ChatSettings(max_prompt_tokens=task.prompt),
        **{"adapter_sync": "merged", **options.get("policy", {})},
    )
    meter.timed(engine, "generate", "generate")
    meter.timed(module, "sync", "sync")
    meter.timed(scorer, "score", "score")
    parts = options.get("parts", 1)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        accumulate_grad_batches=parts,
        callbacks=[Reporter(meter, parts)],
        default_root_dir=folder.parent / "ours",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    meter.begin()
    trainer.fit(module)
    sys.exit(1)

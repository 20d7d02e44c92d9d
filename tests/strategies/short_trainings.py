"""The same short trainings by one process or by two.

``python short_trainings.py FOLDER STRATEGY:NAME[=SAVED_AS][@CHECKPOINT]...``, or in the place of a
training the words of the command: ``"rlff fit --config FILE"``.
"""

import copy
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.cli import main as rlff
from rlff_lightning.data.labelled import StoredFutures
from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.dialogue.chat import ChatFormat
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.functional.objectives import DAPO, GRPO
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.sharding import whole
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.modules.reward_model import RewardModule
from rlff_lightning.modules.supervised import SupervisedModule
from rlff_lightning.rollout.contexts import LiveConversations
from rlff_lightning.rollout.experience import Experience
from rlff_lightning.rollout.loader import ExperienceLoader
from rlff_lightning.rollout.scorers import FormatScorer, Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings
from rlff_lightning.seeds import derive_seed
from rlff_lightning.strategies.checkpoint_files import CheckpointFiles
from rlff_lightning.strategies.fsdp2 import FSDP2

STEPS = 20
LORA = LoraSettings(rank=4)
BACKBONES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": LORA},
    "qlora": {"adapter": LORA, "quantize": "nf4"},
    "bf16": {"dtype": "bfloat16"},
    "recomputed": {"gradient_checkpointing": True},
}
STRATEGIES: dict[str, Callable[[], Any]] = {
    "one": lambda: "auto",
    "ddp": lambda: "ddp",
    "fsdp2": lambda: FSDP2(),
    "dying": lambda: Dying(),
}
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


class Both:
    """Gives what two ranks would train on, one after the other, with the size of both."""

    def __init__(self, loaders: list[ExperienceLoader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Experience]:
        for batches in zip(*self.loaders, strict=True):
            window = batches[0].window + batches[1].window
            yield from (batch._replace(window=window) for batch in batches)


class AloneForTwo(PolicyModule):
    """One process that samples as two ranks do, each with its own stream and draws."""

    num_syncs = 0

    def train_dataloader(self) -> Any:
        chat = ChatFormat(self.tokenizer, self.settings)
        loaders = [
            ExperienceLoader(
                *(self, self.engine, chat, contexts, self.scorers, self.rollout),
                num_parts=1,
                seed=derive_seed(self.seed, "rank", rank),
            )
            for rank, contexts in enumerate((self.contexts, copy.deepcopy(self.contexts)))
        ]
        self.experience = loaders[0]
        return Both(loaders)

    def sync(self, iteration: int, probes: Any) -> dict[str, float]:
        self.num_syncs += 1
        return super().sync(self.num_syncs, probes)


class Steps(Callback):
    """Keeps every step's loss and KL, and the gradients that the first step went by.

    And the tokens of every micro-batch of a policy: of one process for two, the ranks' in turn.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.kls: list[float] = []
        self.tokens: list[int] = []
        self.gradients: dict[str, Tensor] = {}
        self.step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        if isinstance(batch, Experience):
            self.tokens.append(int(batch.completion_mask.sum()))
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        logged = trainer.callback_metrics
        self.losses.append(logged.get("train/loss", logged.get("train/policy_loss")).item())
        if "train/kl" in logged:
            self.kls.append(logged["train/kl"].item())
        if not self.gradients:
            weights = pl_module.named_parameters()
            self.gradients = {n: whole(p.grad).clone() for n, p in weights if p.grad is not None}


class Dying(FSDP2):
    """Its second rank dies at step 15: all shards are written, but no checkpoint names them."""

    num_barriers = -1

    def save_checkpoint(self, checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self.num_barriers = 0 if checkpoint["global_step"] == 15 else -1
        super().save_checkpoint(checkpoint, *args, **kwargs)

    def barrier(self, name: str | None = None) -> None:
        if self.num_barriers >= 0:
            self.num_barriers += 1
            if self.num_barriers == 2 and self.global_rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        super().barrier(name)


class StaleOnSecondRank(VLLMEngine):
    """On the second rank it keeps its weights from the second sync on."""

    num_syncs = 0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.num_syncs += 1
        if self.num_syncs > 1 and torch.distributed.get_rank() == 1:
            for _ in weights:  # gathering takes every process
                pass
        else:
            super().load_weights(weights)


class Vowels(Scorer):
    """Share of vowels: a reward that differs within every group."""

    name = "vowels"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        shares = [sum(c in "aeiou" for c in s.text) / max(len(s.text), 1) for s in samples]
        return torch.tensor(shares)


def supervised(kind: str, made: Path) -> tuple[Any, Any]:
    backbone = Backbone(str(made / "model"), **BACKBONES[kind])
    module = SupervisedModule(backbone, learning_rate=1e-3, seeker_weight=0.5)
    # A batch of 8 in all: replies differ in length, so ranks count different numbers of tokens.
    return module, ScriptedReplies(num_dialogues=80, batch_size=8 // WORLD, val_fraction=0)


def reward(kind: str, made: Path) -> tuple[Any, Any]:
    backbone = Backbone(str(made / "model"), **BACKBONES[kind])
    data = StoredFutures(str(made / "futures"), batch_size=4 // WORLD)
    return RewardModule(backbone, learning_rate=1e-3), data


def policy(
    kind: str,
    made: Path,
    objective: PolicyObjective | None = None,
    max_tokens: int = 12,
    *,
    alone: bool = False,
) -> tuple[Any, Any]:
    model = str(made / "model")
    module = (AloneForTwo if WORLD == 1 and not alone else PolicyModule)(
        Backbone(model, **BACKBONES[kind]),
        TransformersEngine(model, max_model_len=512, dtype=BACKBONES[kind].get("dtype", "float32")),
        LiveConversations(ScriptedSeeker(), ScriptedCritic(), max_turns=3),
        [Vowels(), FormatScorer(0.5)],
        objective or GRPO(kl_coef=0.05),
        RolloutSettings(prompts=2, group_size=4, max_tokens=max_tokens, updates=2),
        learning_rate=1e-3,
        # The 4-bit policy's weights as they are; the engine itself has others.
        adapter_sync="merged" if kind == "qlora" else "adapter",
        # Rows of another length round otherwise: what verify_sync states for each type.
        max_mismatch=2e-2 if kind == "bf16" else 1e-4,
    )
    return module, None


def token_policy(kind: str, made: Path) -> tuple[Any, Any]:
    # A sequence counts as a sequence on any rank; tokens differ, where replies end by themselves.
    return policy(kind, made, DAPO(kl_coef=0.05), max_tokens=48)


def lone_policy(kind: str, made: Path) -> tuple[Any, Any]:
    """The policy of one process that samples for itself alone."""
    return policy(kind, made, alone=True)


STAGES: dict[str, Callable[[str, Path], tuple[Any, Any]]] = {
    "supervised": supervised,
    "reward": reward,
    "policy": policy,
    "token_policy": token_policy,
    "lone_policy": lone_policy,
}


def train(folder: Path, order: str) -> None:
    """Train ``STAGE-KIND[-OPTION]`` for 20 steps, with a checkpoint in the middle.

    Args:
        folder: Holds ``model`` and ``futures``; takes ``STRATEGY/SAVED_AS``.
        order: See the module. Options are ``clip``, ``parts`` (two micro-batches an update),
            ``mixed`` (``precision: bf16-mixed``) and ``few`` (four steps).
    """
    order, _, checkpoint = order.partition("@")
    strategy, _, name = order.partition(":")
    name, _, saved_as = name.partition("=")
    target = folder / strategy / (saved_as or name)
    seed_everything(0, verbose=False)
    stage, kind, *options = name.split("-")
    module, data = STAGES[stage](kind, folder)
    parts = 2 if "parts" in options or isinstance(module, AloneForTwo) else 1
    steps = Steps()
    writer = ModelCheckpoint(
        target / "checkpoints", filename="{step}", every_n_train_steps=5, save_top_k=-1
    )
    trainer = Trainer(
        default_root_dir=target,
        strategy=STRATEGIES[strategy](),
        devices=WORLD,
        accelerator="cpu",
        precision="bf16-mixed" if "mixed" in options else "32-true",
        max_steps=4 if "few" in options else STEPS,
        accumulate_grad_batches=parts,
        gradient_clip_val=0.05 if "clip" in options else None,
        callbacks=[steps, writer],
        plugins=[CheckpointFiles()],
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=folder / checkpoint if checkpoint else None)
    if trainer.is_global_zero:
        (target / "losses.json").write_text(json.dumps(steps.losses))
        (target / "kls.json").write_text(json.dumps(steps.kls))
        (target / "tokens.json").write_text(json.dumps(steps.tokens))
        torch.save(steps.gradients, target / "gradients.pt")
        frequencies = [b for n, b in module.named_buffers() if n.endswith("rotary_emb.inv_freq")]
        torch.save(frequencies, target / "frequencies.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for order in sys.argv[2:]:
        if order.startswith("rlff "):
            if status := rlff(order.split()[1:]):
                sys.exit(status)
        else:
            train(Path(sys.argv[1]), order)

"""What the stages that train have in common, whatever the strategy: shards and checkpoints."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import LanguageModel
from rlff_lightning.models.sharding import (
    Sharding,
    ShardingByUnit,
    ShardingByWeight,
    clip_parts,
    plain_name,
)
from rlff_lightning.rollout.ranks import of_all_ranks, of_same_rank
from rlff_lightning.strategies.fsdp1 import flat_settings


class TrainedModule(LightningModule):
    """A stage that trains a model.

    Its checkpoint holds what is trained: of a LoRA model the adapter alone, whose frozen base comes
    from where it came from. The state of random generators is that of every process.
    """

    def __init__(self) -> None:
        super().__init__()
        # Frozen weights are not in the checkpoint; `on_load_checkpoint` looks for the others.
        self.strict_loading = False
        self._rank_state: dict[str, Any] | None = None

    @property
    def sharding(self) -> Sharding | None:
        """How the strategy spreads weights; ``None`` where each process has all of them."""
        strategy = self._trainer.strategy if self._trainer else None
        if isinstance(strategy, FSDPStrategy):
            return ShardingByUnit(strategy.root_device, **flat_settings(strategy))
        if not isinstance(strategy, ModelParallelStrategy):
            return None
        mesh = strategy.device_mesh
        if mesh["tensor_parallel"].size() != 1:
            raise UserError(
                "ModelParallelStrategy.tensor_parallel_size must be 1, got "
                f"{mesh['tensor_parallel'].size()}; weights are sharded over data_parallel_size"
            )
        return ShardingByWeight(mesh["data_parallel"], strategy.root_device)

    def spread(self, model: LanguageModel) -> Any:
        """Give the model as the strategy has it: sharded or as it is."""
        return model if self.sharding is None else self.sharding.model(model)

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        is_by_norm = gradient_clip_algorithm in (None, "norm")
        # Under FSDP1 Lightning knows no root, and refuses.
        if gradient_clip_val and is_by_norm and isinstance(self.trainer.strategy, FSDPStrategy):
            clip_parts(self, float(gradient_clip_val))
            return
        self.clip_gradients(
            optimizer,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
        )

    @override
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().state_dict(*args, **kwargs)
        frozen = {
            plain_name(name)
            for name, weight in self.named_parameters(remove_duplicate=False)
            if not weight.requires_grad
        }
        # A 4-bit weight's scales are saved as if they lay below it.
        below = tuple(f"{name}." for name in frozen)
        for name in list(found):
            if name in frozen or name.startswith(below):
                del found[name]
        return found

    def rank_state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps of each process, as tensors and plain values."""
        version, numbers, gauss = random.getstate()
        numpy: Any = np.random.get_state(legacy=True)
        kind, keys, *rest = numpy
        state = {
            "torch": torch.get_rng_state(),
            "python": [version, list(numbers), gauss],
            "numpy": [kind, keys.tolist(), *rest],
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Go on where ``rank_state`` was called."""
        torch.set_rng_state(state["torch"])
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"], self.device)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ranks"] = of_all_ranks(self.rank_state())

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rank_state = of_same_rank(checkpoint.get("ranks", []))
        # A sharded strategy has loaded the weights already and looked for what is missing.
        saved = checkpoint.get("state_dict")
        if saved is None:
            return
        trained = (plain_name(n) for n, weight in self.named_parameters() if weight.requires_grad)
        missing = [name for name in trained if name not in saved]
        if missing:
            raise UserError(
                f"ckpt_path: the checkpoint lacks {len(missing)} weights that are trained, e.g. "
                f"{missing[0]}; it must be one of the same model"
            )

    @override
    def on_train_start(self) -> None:
        # Not earlier: Lightning draws numbers of its own while it sets up.
        if self._rank_state is not None:
            self.load_rank_state(self._rank_state)
            self._rank_state = None
        check_saves(self.trainer)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Gradients are in no checkpoint. What was to be saved of this step is saved by now; what
        # falls into the window of the next one is left out, as if it were saved already.
        if self.trainer.accumulate_grad_batches == 1:
            return
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = self.trainer.global_step


def check_saves(trainer: Trainer) -> None:
    """Refuse what would lose checkpoints, or save them in the middle of an accumulation window.

    Raises:
        UserError: If ``last`` were a link, which for a moment names none, or if a checkpoint of
            accumulated gradients is written by the clock.
    """
    writers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    if any(writer.save_last == "link" for writer in writers):
        raise UserError(
            "ModelCheckpoint.save_last must be true or false, got 'link': killed while the link is "
            "moved, a run would have no last checkpoint; set save_last: true"
        )
    parts = trainer.accumulate_grad_batches
    if parts == 1:
        return
    for writer in writers:
        if writer._train_time_interval is not None:
            raise UserError(
                "ModelCheckpoint.train_time_interval must be left out where "
                f"trainer.accumulate_grad_batches is above 1, got {parts}: gradients are in no "
                "checkpoint, and time is up within a window; set every_n_train_steps"
            )
    every = trainer.val_check_batch
    if trainer.enable_validation and every and every != float("inf") and every % parts:
        rank_zero_warn(
            f"trainer.val_check_interval of {every:g} batches is no multiple of "
            f"accumulate_grad_batches={parts}: after a validation within an accumulation window no "
            "checkpoint is written"
        )

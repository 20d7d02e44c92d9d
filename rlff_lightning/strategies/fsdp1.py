"""FSDP1, for GPUs and habits that have it: FSDP2 shards LoRA and 4-bit weights better."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.plugins.precision import FSDPPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.strategies.checkpoint_files import is_sharded_checkpoint


class _Precision(FSDPPrecision):
    """Leaves batches as they are: records, of which a module itself makes tensors."""

    @override
    def convert_input(self, data: Any) -> Any:
        return data


class FSDP1(FSDPStrategy):
    """Lightning's ``FSDPStrategy`` for stages whose batches are records; needs GPUs.

    Args:
        sharding_strategy: What is split: ``FULL_SHARD``, ``SHARD_GRAD_OP`` or ``NO_SHARD``.
    """

    def __init__(self, sharding_strategy: str = "FULL_SHARD") -> None:
        super().__init__(sharding_strategy=sharding_strategy)  # type: ignore[arg-type]

    @override
    def setup_environment(self) -> None:
        if self.root_device.type == "cpu":
            raise UserError("trainer.strategy: FSDP1 needs GPUs, got cpu; FSDP2 does without")
        super().setup_environment()

    @override
    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if is_sharded_checkpoint(Path(checkpoint_path)):
            raise UserError(
                f"ckpt_path: {checkpoint_path} is in FSDP2's shards, which FSDP1 does not read; go "
                "on by FSDP2, or for one step by DDP or in one process, which writes one file"
            )
        return super().load_checkpoint(checkpoint_path, weights_only)

    @property
    @override
    def precision_plugin(self) -> FSDPPrecision:
        plugin = self._precision_plugin
        return plugin if isinstance(plugin, _Precision) else _Precision("32-true")

    @precision_plugin.setter
    @override
    def precision_plugin(self, plugin: Precision | None) -> None:
        is_given = isinstance(plugin, FSDPPrecision)
        self._precision_plugin = _Precision(cast(Any, plugin).precision) if is_given else None


def flat_settings(strategy: FSDPStrategy) -> dict[str, Any]:
    """Give what Lightning would wrap with, but buffers in float32: rotary frequencies are some."""
    precision = strategy.mixed_precision_config
    if precision is not None:
        precision = replace(precision, buffer_dtype=torch.float32)
    return {
        "cpu_offload": strategy.cpu_offload,
        "mixed_precision": precision,
        "sharding_strategy": strategy.sharding_strategy,
        **{name: value for name, value in strategy.kwargs.items() if name != "auto_wrap_policy"},
    }

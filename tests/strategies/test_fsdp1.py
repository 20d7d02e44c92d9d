"""What of FSDP1 can be seen without a GPU, which it needs."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.precision import FSDPPrecision

from rlff_lightning.errors import UserError
from rlff_lightning.strategies.fsdp1 import FSDP1, flat_settings
from rlff_lightning.types import Message


def test_buffers_stay_float32_in_lower_precision() -> None:
    strategy = FSDP1()
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")
    precision = flat_settings(strategy)["mixed_precision"]
    assert precision.param_dtype == torch.bfloat16
    assert precision.buffer_dtype == torch.float32


def test_records_pass_as_they_are() -> None:
    strategy = FSDP1()
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")
    batch = [Message(role="seeker", text="hello")]
    # Lightning's own refuses frozen records.
    assert strategy.precision_plugin.convert_input(batch) is batch


def test_a_cpu_is_refused(tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, strategy=FSDP1(), **quiet
    )
    with pytest.raises(UserError, match="FSDP1 needs GPUs, got cpu"):
        trainer.fit(BoringModel())

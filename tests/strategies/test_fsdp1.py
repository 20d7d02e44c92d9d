"""What of FSDP1 can be seen without GPUs: one process, whose units are whole."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoModelForCausalLM

from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.sharding import named_whole_weights, plain_name
from rlff_lightning.modules.supervised import SupervisedModule
from rlff_lightning.strategies.fsdp1 import FSDP1, flat_settings
from rlff_lightning.types import Message


class OnCPU(FSDP1):
    """Lets one process without a GPU in, where torch's FSDP1 works."""

    def setup_environment(self) -> None:
        FSDPStrategy.setup_environment(self)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process, gone after the test."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_buffers_stay_float32_in_lower_precision() -> None:
    strategy = FSDP1()
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")
    precision = flat_settings(strategy)["mixed_precision"]
    assert precision.param_dtype == torch.bfloat16
    assert precision.buffer_dtype == torch.float32


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory: pytest.TempPathFactory, pocket_folder: Path) -> Path:
    """The pocket model with an output head of its own, as the recipes' models have it.

    With a frozen one that is the embedding torch's ``NO_SHARD``, which one process gets, fails.
    """
    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(pocket_folder, folder)
    seed_everything(0, verbose=False)
    model = AutoModelForCausalLM.from_pretrained(pocket_folder, tie_word_embeddings=False)
    model.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("adapter", [None, LoraSettings(rank=4)], ids=["full", "lora"])
def test_a_stage_ends_with_the_weights_of_one_that_is_not_wrapped(
    untied_folder: Path,
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
    adapter: LoraSettings | None,
) -> None:
    weights, wrapped = [], []
    for strategy in ("auto", OnCPU()):
        seed_everything(0, verbose=False)
        module = SupervisedModule(
            Backbone(str(untied_folder), adapter=adapter), learning_rate=1e-3, seeker_weight=0.5
        )
        data = ScriptedReplies(num_dialogues=20, batch_size=8, val_fraction=0)
        trainer = quiet_trainer(
            tmp_path, strategy=strategy, max_steps=3, limit_val_batches=0, gradient_clip_val=0.05
        )
        trainer.fit(module, data)
        assert module.model is not None
        trained = {plain_name(n) for n, w in module.named_parameters() if w.requires_grad}
        found = [(f"model.{name}", w.clone()) for name, w in named_whole_weights(module.model)]
        # Torch leaves a frozen root's weights as plain tensors where nothing is sharded.
        weights.append({name: weight for name, weight in found if name in trained})
        units = [m for m in module.model.modules() if isinstance(m, FullyShardedDataParallel)]
        wrapped.append(len(units))
    # Each of the two blocks, and the model as a root of its own.
    assert wrapped == [0, 3]
    assert weights[0].keys() == weights[1].keys() == trained
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-6, msg=name)


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

"""What of FSDP1 can be seen without GPUs: one process, whose units are whole."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.multiprocessing import spawn
from transformers import AutoModelForCausalLM

from rlff_lightning.data.replies import ScriptedReplies
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.sharding import (
    ShardingByUnit,
    clip_parts,
    named_whole_weights,
    plain_name,
)
from rlff_lightning.modules.supervised import SupervisedModule
from rlff_lightning.strategies.fsdp1 import FSDP1, flat_settings
from rlff_lightning.types import Message


class OnCPU(FSDP1):
    """Lets one process without a GPU in, where torch's FSDP1 works."""

    def setup_environment(self) -> None:
        FSDPStrategy.setup_environment(self)


def test_buffers_stay_float32_in_lower_precision() -> None:
    strategy = FSDP1()
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")
    precision = flat_settings(strategy)["mixed_precision"]
    assert precision.param_dtype == torch.bfloat16
    assert precision.buffer_dtype == torch.float32


def test_shards_of_fsdp2_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / "meta.pt").touch()
    with pytest.raises(UserError, match=r"last\.ckpt is in FSDP2's shards, which FSDP1 does not"):
        FSDP1().load_checkpoint(tmp_path / "last.ckpt")


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


def train(rank: int, model: str, folder: str, adapter: LoraSettings | None) -> None:
    """Train three steps as they are and wrapped, and leave the trained weights behind."""
    assert rank == 0
    torch.set_num_threads(1)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for kind, strategy in (("plain", "auto"), ("wrapped", OnCPU())):
        seed_everything(0, verbose=False)
        module = SupervisedModule(
            Backbone(model, adapter=adapter), learning_rate=1e-3, seeker_weight=0.5
        )
        data = ScriptedReplies(num_dialogues=20, batch_size=8, val_fraction=0)
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            strategy=strategy,
            max_steps=3,
            limit_val_batches=0,
            gradient_clip_val=0.05,
            **quiet,
        )
        trainer.fit(module, data)
        assert module.model is not None
        trained = {plain_name(n) for n, w in module.named_parameters() if w.requires_grad}
        found = [(f"model.{name}", w.clone()) for name, w in named_whole_weights(module.model)]
        # Torch leaves a frozen root's weights as plain tensors where nothing is sharded.
        weights = {name: weight for name, weight in found if name in trained}
        assert weights.keys() == trained
        torch.save(weights, Path(folder) / f"{kind}.pt")
        units = [m for m in module.model.modules() if isinstance(m, FullyShardedDataParallel)]
        # Each of the two blocks, and the model as a root of its own.
        assert len(units) == (3 if kind == "wrapped" else 0)


@pytest.mark.parametrize("adapter", [None, LoraSettings(rank=4)], ids=["full", "lora"])
def test_a_stage_ends_with_the_weights_of_one_that_is_not_wrapped(
    untied_folder: Path, tmp_path: Path, adapter: LoraSettings | None
) -> None:
    # The process group that it makes and ends would take an engine's of this process with it.
    spawn(train, args=(str(untied_folder), str(tmp_path), adapter), nprocs=1)
    plain, wrapped = (
        torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("plain", "wrapped")
    )
    assert plain
    assert plain.keys() == wrapped.keys()
    for name, weight in plain.items():
        # Adam makes a step of 1e-3 of any gradient, also of one that is rounding.
        apart = (wrapped[name] - weight).abs()
        assert apart.mean() < 1e-6, name
        assert apart.max() < 1e-4, name


def clip(rank: int, folder: str, kind: str, size: int) -> None:
    """Clip a gradient of norm 7 to half of it, as one of several processes."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    settings: dict[str, Any] = {"sharding_strategy": ShardingStrategy[kind]}
    if kind == "HYBRID_SHARD":
        replicas = [distributed.new_group([first, first + 1]) for first in (0, 2)]
        copies = [distributed.new_group([part, part + 2]) for part in (0, 1)]
        settings["process_group"] = (replicas[rank // 2], copies[rank % 2])
    unit = ShardingByUnit(torch.device("cpu"), **settings).layer(nn.Linear(3, 1, bias=False))
    unit(torch.tensor([[2.0, 3.0, 6.0]])).sum().backward()
    assert clip_parts(unit, 3.5).item() == pytest.approx(7.0)
    gradients = [weight.grad for weight in unit.parameters() if weight.grad is not None]
    parts = torch.cat([gradient.flatten() for gradient in gradients])
    torch.save(parts, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "size", "holders"),
    [("NO_SHARD", 2, [[0], [1]]), ("FULL_SHARD", 2, [[0, 1]]), ("HYBRID_SHARD", 4, [[0, 1]])],
)
def test_gradients_are_clipped_by_the_norm_of_one_whole_model(
    tmp_path: Path, kind: str, size: int, holders: list[list[int]]
) -> None:
    spawn(clip, args=(str(tmp_path), kind, size), nprocs=size)
    for ranks in holders:
        parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in ranks]
        torch.testing.assert_close(torch.cat(parts), torch.tensor([1.0, 1.5, 3.0]))


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

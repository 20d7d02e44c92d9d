"""Compare estimated with measured peaks of training on this machine's CPU.

    python benchmarks/memory.py [--json FILE] [--only NAME ...]

Every case runs in a process of its own: a model with random weights is written, loaded as the
trainer loads it, and takes two optimizer steps at the greatest length of its batch. Measured is the
resident memory at its highest, less what the process held after the imports and a first small
step. Large tensors are mapped one by one (`MALLOC_MMAP_THRESHOLD_`), so that freed memory is given
back and the figure is the tensors'. Cases of DDP and FSDP2 are two processes on loopback, one
thread each, and the figure is the first one's.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "pocket": {"vocab": 1024, "hidden": 128, "inner": 512, "layers": 4, "heads": 4, "kv": 4},
    "50M": {"vocab": 16384, "hidden": 512, "inner": 1536, "layers": 10, "heads": 8, "kv": 2},
    "130M": {"vocab": 32768, "hidden": 768, "inner": 2048, "layers": 12, "heads": 12, "kv": 4},
}
"""Qwen2 architectures."""
PROCESSES = 2
"""Of a case with a strategy."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training step."""

    shape: str
    mode: str = "full"
    stage: str = "policy"
    sharing: str = "shared"
    checkpointing: bool = False
    accumulates: bool = False
    strategy: str = ""
    groups: int = 1
    group_size: int = 8
    prompt: int = 384
    reply: int = 96

    @property
    def name(self) -> str:
        """Names the case on the command line."""
        marks = [self.shape, self.stage, self.mode]
        marks += ["padded"] if self.sharing == "padded" else []
        marks += ["checkpointing"] if self.checkpointing else []
        marks += ["accumulates"] if self.accumulates else []
        marks += [self.strategy] if self.strategy else []
        return "-".join(marks)


CASES = [
    Case(shape="pocket", groups=8, prompt=256),
    Case(shape="pocket", sharing="padded", groups=4, prompt=256),
    Case(shape="pocket", stage="supervised", groups=16, group_size=1),
    Case(shape="pocket", stage="reward", groups=8, group_size=4),
    Case(shape="50M"),
    Case(shape="50M", checkpointing=True, groups=4),
    Case(shape="50M", strategy="ddp"),
    Case(shape="50M", strategy="fsdp2"),
    Case(shape="50M", mode="lora", groups=2),
    Case(shape="50M", mode="lora", stage="reward", groups=4, group_size=4),
    Case(shape="130M"),
    Case(shape="130M", accumulates=True),
    Case(shape="130M", mode="lora", checkpointing=True, groups=4),
    Case(shape="130M", mode="qlora", groups=1),
    Case(shape="130M", mode="qlora", checkpointing=True, groups=4),
    Case(shape="130M", stage="supervised", groups=4, group_size=1),
]


def config_of(shape: str) -> Any:
    """Build the architecture."""
    from transformers import Qwen2Config

    sizes = SHAPES[shape]
    return Qwen2Config(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv"],
        tie_word_embeddings=shape == "pocket",
    )


def settings_of(case: Case) -> dict[str, Any]:
    """Say how the model is built."""
    from rlff_lightning.models.backbone import LoraSettings

    return {
        "adapter": None if case.mode == "full" else LoraSettings(rank=16),
        "quantize": "nf4" if case.mode == "qlora" else None,
        "dtype": "bfloat16" if case.mode == "qlora" else "float32",
        "gradient_checkpointing": case.checkpointing,
    }


def estimate(case: Case) -> dict[str, int]:
    """Estimate the parts, bytes."""
    from rlff_lightning.models.static_memory import static_memory
    from rlff_lightning.models.training_memory import MicroBatch, follow_training
    from rlff_lightning.models.without_weights import build_without_weights

    config, settings = config_of(case.shape), settings_of(case)

    def build(num_layers: int | None) -> Any:
        has_head = case.stage != "reward"
        return build_without_weights(config, **settings, has_head=has_head, num_layers=num_layers)

    static = static_memory(build, num_layers=config.num_hidden_layers)
    batch = MicroBatch(
        groups=case.groups,
        group_size=case.group_size,
        prompt_tokens=case.prompt,
        reply_tokens=case.reply,
        sharing="padded" if case.stage == "supervised" else case.sharing,  # type: ignore[arg-type]
    )
    followed = follow_training(
        build,
        batch,
        num_layers=config.num_hidden_layers,
        in_passes=case.stage == "policy" and case.strategy != "fsdp2",
        kept="always" if case.accumulates else "none",
    )
    parts = {"weights": static.weights, "adapter": static.adapter, "optimizer": static.optimizer}
    parts |= followed._asdict()
    if case.strategy == "ddp":
        parts["buckets"] = static.trained
    elif case.strategy == "fsdp2":
        for name in ("weights", "adapter", "optimizer", "gradients"):
            parts[name] //= PROCESSES
        parts["gathered"] = static.gathered
    return parts


def measure(case: Case) -> int:
    """Take two steps in this process and return the rise of its peak, bytes."""
    import torch
    from torch import nn

    from rlff_lightning.models.backbone import Backbone
    from rlff_lightning.models.group_logps import group_logps
    from rlff_lightning.models.head_settings import HeadSettings
    from rlff_lightning.models.reward_head import RewardModel
    from rlff_lightning.models.sequence_logps import sequence_logps

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocab = SHAPES[case.shape]["vocab"]
    rows = case.groups * case.group_size
    prompts = torch.randint(vocab, (case.groups, case.prompt))
    replies = torch.randint(vocab, (rows, case.reply))
    groups = (prompts, torch.ones_like(prompts).bool(), replies, torch.ones_like(replies).bool())

    class Loss(nn.Module):
        """Takes the place of Lightning's module, which DDP wraps."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> torch.Tensor:
            if case.stage == "policy":
                return group_logps(self.model, *groups, sharing=case.sharing).logps.sum()  # type: ignore[arg-type]
            if case.stage == "supervised":
                ids = torch.cat([prompts, replies], 1)
                mask = torch.ones_like(ids).bool()
                counted = mask.clone()
                counted[:, : case.prompt] = False
                return sequence_logps(self.model, ids, mask, counted).sum()
            scores: torch.Tensor = self.model.forward_groups(*groups, sharing=case.sharing)
            return scores.sum()

    def step(loss: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2 if case.accumulates else 1):
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    warm = nn.Linear(64, 64)
    warm(torch.ones(8, 64)).sum().backward()
    torch.optim.AdamW(warm.parameters()).step()
    if case.strategy:
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
    with tempfile.TemporaryDirectory() as folder:
        write_random(case, folder)
        before = resident("VmRSS")
        backbone = Backbone(folder, **settings_of(case))
        model: Any = backbone.build_trunk() if case.stage == "reward" else backbone.build()
        if case.stage == "reward":
            model = RewardModel(model, HeadSettings())
        loss = spread(case, Loss(model))
        trained = [weight for weight in loss.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
        step(loss, optimizer)
        # From here on: loading has its own peak.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        step(loss, optimizer)
        return resident("VmHWM") - before


def spread(case: Case, loss: Any) -> Any:
    """Spread the model over the processes as the case's strategy does."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel

    from rlff_lightning.models.sharding import ShardingByWeight

    if case.strategy == "ddp":
        return DistributedDataParallel(loss)
    if case.strategy == "fsdp2":
        mesh = init_device_mesh("cpu", (PROCESSES,))
        loss.model = ShardingByWeight(mesh, torch.device("cpu")).model(loss.model)
    return loss


def write_random(case: Case, folder: str) -> None:
    """Write the model in a process of its own, whose memory does not count."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); import memory; "
        "from transformers import AutoModelForCausalLM as A; "
        "A.from_config(memory.config_of(sys.argv[1])).save_pretrained(sys.argv[2])"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, case.shape, folder, here], check=True)


def resident(field: str) -> int:
    """Read a figure of this process's memory, bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]


def run(case: Case) -> str:
    """Measure a case in processes of its own; give what the first one printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = PROCESSES if case.strategy else 1
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", case.name],
            env=os.environ | settings | {"RANK": str(rank)},
            stdout=subprocess.DEVNULL if rank else subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said, _ = ranks[0].communicate(timeout=3600)
    finally:
        for rank in ranks[1:]:
            rank.kill()
            rank.wait()
    return said


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    if options.child:
        print(f"MEASURED {measure(by_name[options.child])}")
        return 0
    rows = []
    for name, case in by_name.items():
        if options.only and name not in options.only:
            continue
        found = re.search(r"MEASURED (\d+)", run(case))
        if found is None:
            raise RuntimeError(f"{name}: no figure; its own words are above")
        parts = estimate(case)
        total, measured = sum(parts.values()), int(found[1])
        rows.append({"case": name, "measured": measured, "estimated": total, "parts": parts})
        print(
            f"{name:32} measured {measured / 2**20:7.0f} MiB, estimated {total / 2**20:7.0f} MiB, "
            f"{total / measured - 1:+.1%}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

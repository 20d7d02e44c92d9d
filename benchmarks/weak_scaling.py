"""Time GRPO iterations of 1, 2, ... processes with the same work each, and their collectives.

    python benchmarks/weak_scaling.py --ranks 1 2             # processes of this machine
    python benchmarks/weak_scaling.py --ranks 1 8 --strategy fsdp2 --model MODEL
    torchrun --nnodes 2 --nproc-per-node 8 ... benchmarks/weak_scaling.py --spec FILE

Every process samples, scores and trains on a batch of its own; perfect scaling keeps the time of an
iteration as it is. Communication is the part of it in which at least one collective is under way on
rank 0: waiting for a slower rank is in it. On a CPU each is timed from its call to its end; on GPUs
the last iterations run under the profiler and NCCL's kernels are counted (not run yet). With --spec
the process is a rank of whoever started it; --write-spec writes the file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve()
WARM_UP = 2
"""Iterations that are not counted."""


def rank_main(spec: dict[str, Any]) -> int:
    """Train as one rank; rank 0 prints its figures."""
    import torch
    from grpo_sides.ours import EvenTokens, Prompts
    from grpo_sides.task import Task
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.profiler import ProfilerActivity, profile

    from rlff_lightning.dialogue.chat import ChatSettings
    from rlff_lightning.engines.vllm import VLLMEngine
    from rlff_lightning.functional.objectives import GRPO
    from rlff_lightning.models.backbone import Backbone
    from rlff_lightning.modules.policy import PolicyModule
    from rlff_lightning.rollout.settings import RolloutSettings

    class Clock(Callback):
        """Times iterations; the last ones also under the profiler, which costs time itself."""

        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []
            self.shares: list[float] = []
            self.last = 0.0
            self.profiler: Any = None

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            now = time.perf_counter()
            done = trainer.global_step
            timed = done > WARM_UP
            if self.profiler is not None:
                self.profiler.stop()
                kernels = (e.time_range for e in self.profiler.events() if "nccl" in e.name)
                found = [(each.start / 1e6, each.end / 1e6) for each in kernels]
                self.shares.append(covered(found) / (now - self.last))
                timed = False
            if timed:
                report = module.experience.report
                row = {name: report[f"time/{name}"] for name in ("sync", "generate")}
                self.rows.append({"iteration": now - self.last, **row})
                if not is_gpu:
                    self.shares.append(covered(spans) / (now - self.last))
            self.profiler = None
            if is_gpu and done >= WARM_UP + spec["iterations"]:
                self.profiler = profile(activities=[ProfilerActivity.CUDA])
                self.profiler.start()
            spans.clear()
            self.last = time.perf_counter()

    is_gpu = torch.cuda.is_available()
    spans: list[tuple[float, float]] = []
    if not is_gpu:
        torch.set_num_threads(1)
        time_collectives(spans)
    task = Task(**spec["task"])
    world = int(os.environ.get("WORLD_SIZE", "1"))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    strategies: dict[str, Any] = {
        # The hook does what DDP does without one, by a call that can be timed.
        "ddp": lambda: DDPStrategy(ddp_comm_hook=None if is_gpu else allreduce_hook),
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1),
    }
    limit = task.prompt + task.completion + 1
    on_cpu: dict[str, Any] = {} if is_gpu else {"kv_cache_gib": 0.25}
    module = PolicyModule(
        Backbone(spec["model"], dtype="bfloat16" if is_gpu else "float32"),
        VLLMEngine(spec["model"], max_model_len=limit, **on_cpu),
        Prompts(task),
        [EvenTokens()],
        objective=GRPO(),
        rollout=RolloutSettings(
            prompts=task.groups,
            group_size=task.group,
            max_tokens=task.completion,
            iterations_per_epoch=10**6,
        ),
        chat=ChatSettings(max_prompt_tokens=task.prompt),
        max_mismatch=0.1 if is_gpu else 1e-4,
    )
    clock = Clock()
    trainer = Trainer(
        accelerator="gpu" if is_gpu else "cpu",
        devices=world // nodes,
        num_nodes=nodes,
        strategy="auto" if world == 1 else strategies[spec["strategy"]](),
        max_steps=WARM_UP + spec["iterations"] + (spec["profiled"] if is_gpu else 0),
        callbacks=[clock],
        default_root_dir=tempfile.mkdtemp(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    if trainer.is_global_zero:
        figures = {name: median(row[name] for row in clock.rows) for name in clock.rows[0]}
        figures["communication"] = median(clock.shares)
        print("FIGURES " + json.dumps({"ranks": world, **figures}), flush=True)
    return 0


def time_collectives(spans: list[tuple[float, float]]) -> None:
    """Note start and end of every collective from now on."""
    from torch import distributed

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def run(*args: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            work = call(*args, **settings)
            if settings.get("async_op"):
                work.get_future().then(lambda _: spans.append((start, time.perf_counter())))
            else:
                spans.append((start, time.perf_counter()))
            return work

        return run

    for name in (
        *("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_object"),
        *("broadcast_object_list", "all_gather_into_tensor", "reduce_scatter_tensor"),
    ):
        setattr(distributed, name, timed(getattr(distributed, name)))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Add up spans, what lies in several counted once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def run(ranks: int, file: Path) -> dict[str, float]:
    """Run so many ranks on this machine and read what the first one measured."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--standalone", str(HERE), "--spec", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if not lines:
        raise RuntimeError(f"{ranks} ranks: {done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(lines[-1].removeprefix("FIGURES "))
    return figures


def main() -> int:
    """Run every number of ranks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategy", choices=("ddp", "fsdp2"), default="ddp")
    parser.add_argument("--model", help="folder or hub name; a random one of 1M parameters if none")
    parser.add_argument("--prompts", type=int, default=4, help="per rank and iteration")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=8, help="timed ones")
    parser.add_argument(
        "--profiled", type=int, default=3, help="iterations under the profiler, on GPUs"
    )
    parser.add_argument("--write-spec", type=Path, help="write the spec for --spec and stop")
    parser.add_argument("--spec", type=Path, help="be a rank of whoever started this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.spec:
        return rank_main(json.loads(options.spec.read_text(encoding="utf-8")))
    task = {
        "prompt": options.prompt_tokens,
        "completion": options.reply_tokens,
        "group": options.group,
        "groups": options.prompts,
        "params": "1M",
        "vocab": 1024,
        "mode": "full",
    }
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(Path(folder) / "model")
        if options.model is None:
            from grpo_sides.task import Task, write_model

            write_model(Task(**task), Path(model))
        spec = {"task": task, "model": model, "strategy": options.strategy}
        spec |= {"iterations": options.iterations, "profiled": options.profiled}
        file = options.write_spec or Path(folder) / "spec.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        if options.write_spec:
            if options.model is None:
                raise SystemExit("weak_scaling: --write-spec needs --model")
            return 0
        rows = []
        for ranks in options.ranks:
            row = run(ranks, file)
            rows.append(row)
            print(
                f"{ranks} ranks: {row['iteration']:.2f} s per iteration (generate "
                f"{row['generate']:.2f}, sync {row['sync']:.2f}), efficiency "
                f"{rows[0]['iteration'] / row['iteration']:.0%}, communication "
                f"{row['communication']:.1%}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

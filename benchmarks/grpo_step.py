"""Time one GRPO iteration of this trainer and of TRL's ``GRPOTrainer`` on the same work.

    python benchmarks/grpo_step.py --json FILE              # the shapes of benchmarks/README.md
    python benchmarks/grpo_step.py --prompt 512 --mode full --iterations 5

Each trainer runs in a process of its own with one thread; the processes take turns, iteration by
iteration, and the medians of their CPU seconds are compared. Needs ``rlff-lightning[bench]``.

TRL gets the micro-batch of 4, 8, 16 and 32 rows whose update is fastest, tried beforehand on drawn
tokens, and the faster of two ways to generate: transformers' ``generate``, and vLLM in the
trainer's process (``vllm_mode="colocate"``), which ``--no-vllm`` leaves out. Where vLLM does not
start, the row says so in ``trl_failures`` and compares with ``generate`` alone. Not tried are vLLM
as a server, transformers' continuous batching, and other micro-batches. The update is always that
of the process with ``generate``: there TRL scores every token once, as this trainer does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from grpo_sides import task as task_file
from grpo_sides.task import Task

HERE = Path(__file__).resolve()
MICRO_BATCHES = (4, 8, 16, 32)
"""What TRL may choose from."""


class SideError(RuntimeError):
    """A trainer's process ended by itself."""


class Side:
    """A trainer in a process of its own, which runs an iteration when it is asked to."""

    def __init__(self, side: str, task: Task, folder: Path, options: dict[str, Any]) -> None:
        self.name, self.options = side, options
        spec = json.dumps({"task": asdict(task), "folder": str(folder), "options": options})
        self.log = folder.parent / f"{side}-{len(list(folder.parent.glob('*.log')))}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE), "--side", side, "--spec", spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.rows: list[dict[str, float]] = []
        self.first = self._answer()

    def step(self) -> None:
        """Run an iteration and keep its row."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rows.append(self._answer())

    def medians(self) -> dict[str, float]:
        """Medians over the iterations so far."""
        return {name: median(row[name] for row in self.rows) for name in self.rows[0]}

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            end = self.log.read_text().strip().splitlines()[-12:]
            raise SideError("\n".join([f"{self.name} {self.options} failed:", *end]))
        row: dict[str, float] = json.loads(line)
        return row


def compare(
    task: Task, iterations: int, ours_options: dict[str, Any], *, with_vllm: bool
) -> dict[str, Any]:
    """Let both sides take turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        task_file.write_model(task, folder)
        sizes = [size for size in MICRO_BATCHES if task.rows % size == 0]
        sides: list[Side] = []
        failures: dict[str, str] = {}
        try:
            plain = {"generation": "transformers", "micro_batches": sizes}
            sides.append(Side("trl", task, folder, plain))
            micro_batch = int(sides[0].first["micro_batch"])
            sides.append(Side("ours", task, folder, ours_options))
            if with_vllm:
                vllm = {"generation": "vllm", "micro_batches": [micro_batch]}
                try:
                    sides.append(Side("trl", task, folder, vllm))
                except SideError as error:
                    failures["vllm"] = str(error)
            for _ in range(iterations):
                for side in sides:
                    side.step()
            theirs, ours, *others = (side.medians() for side in sides)
        finally:
            for side in sides:
                side.close()
    paths = {"transformers": theirs, **dict(zip(["vllm"], others, strict=False))}
    path = min(paths, key=lambda name: paths[name]["iteration_s"])
    # The update is taken where TRL scores every token once, as this trainer does.
    trl = {**paths[path], "update_s": theirs["update_s"], "peak_mb": theirs["peak_mb"]}
    return {
        **asdict(task),
        "ours": ours,
        "trl": {**trl, "generation": path, "micro_batch": micro_batch},
        "trl_paths": paths,
        "trl_failures": failures,
        "ratio": {name: trl[name] / ours[name] for name in ("update_s", "iteration_s")},
    }


def main() -> int:
    """Compare every shape asked for, print a table and write the rows."""
    options = arguments(sys.argv[1:])
    if options.side:
        run_side(options.side, options.spec)
    rows = []
    for params in options.params:
        for vocab in options.vocab:
            for mode in options.mode:
                for prompt in options.prompt:
                    task = Task(
                        prompt=prompt,
                        completion=options.completion,
                        group=options.group,
                        groups=options.groups,
                        params=params,
                        vocab=vocab,
                        mode=mode,
                    )
                    row = compare(task, options.iterations, options.ours, with_vllm=options.vllm)
                    rows.append(row)
                    print(line(row), flush=True)
                    if options.json:
                        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what no comparison can be made of ends in one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompt", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--completion", type=int, default=96)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--params", nargs="+", choices=list(task_file.SIZES), default=["1M"])
    parser.add_argument("--vocab", type=int, nargs="+", default=[1024, 32768])
    parser.add_argument("--mode", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument(
        "--vllm", action=argparse.BooleanOptionalAction, default=True, help="try TRL with vLLM too"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours", type=json.loads, default={}, help="options of this side, JSON")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--spec", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    least = {"completion": 1, "group": 2, "groups": 1, "iterations": 1, "prompt": 1, "vocab": 2}
    for name, bound in least.items():
        given = getattr(options, name)
        if min(given if isinstance(given, list) else [given]) < bound:
            parser.error(f"--{name} must be at least {bound}, got {given}")
    rows = options.group * options.groups
    if all(rows % size for size in MICRO_BATCHES):
        parser.error(
            f"--group times --groups must be a multiple of one of TRL's micro-batches "
            f"{MICRO_BATCHES}, got {options.group} * {options.groups} = {rows}"
        )
    if options.json and not _can_write(options.json):
        parser.error(f"--json must be a file that can be written, got {options.json}")
    return options


def _can_write(file: Path) -> bool:
    if file.exists():
        return file.is_file() and os.access(file, os.W_OK)
    return file.parent.is_dir() and os.access(file.parent, os.W_OK)


def line(row: dict[str, Any]) -> str:
    """Say a comparison in a line of a Markdown table."""
    ours, trl, ratio = row["ours"], row["trl"], row["ratio"]
    cells = [
        f"{row['params']}, {row['vocab']}, {row['mode']}, {row['prompt']}",
        f"{trl['update_s']:.2f} / {ours['update_s']:.2f}",
        f"**{ratio['update_s']:.2f}**",
        f"{trl['iteration_s']:.2f} ({trl['generation']}) / {ours['iteration_s']:.2f}",
        f"**{ratio['iteration_s']:.2f}**",
        f"{ours['overhead']:.1%}",
        f"{trl['peak_mb']:.0f} / {ours['peak_mb']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def run_side(side: str, spec: dict[str, Any]) -> None:
    """Be one of the two trainers."""
    if side == "ours":
        from grpo_sides.ours import main as run
    else:
        from grpo_sides.trl_side import main as run
    run(Task(**spec["task"]), Path(spec["folder"]), spec["options"])


if __name__ == "__main__":
    sys.exit(main())

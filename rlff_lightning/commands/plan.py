"""`rlff plan --config FILE`: what a training stage takes of a device, before it runs."""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from rlff_lightning.commands.stages import read_arguments, read_stages
from rlff_lightning.errors import UserError

if TYPE_CHECKING:
    from rlff_lightning.commands.plan_memory import Estimate
    from rlff_lightning.commands.plan_stage import PlannedStage

_DESCRIPTION = """\
Estimate a training stage's memory on one device, part by part, and say which keys to turn if it
does not fit. Nothing is loaded: the stage's own code runs on tensors without memory, at the
greatest length that its config allows.

Further options are passed on as to `rlff fit`, e.g. --trainer.accumulate_grad_batches=8.
"""
_UNITS = {"b": 1, "mb": 2**20, "mib": 2**20, "gb": 2**30, "gib": 2**30}
_STAGE = re.compile(r"\d+_(?P<name>\w+)\.(?P<verb>fit|validate|test|predict)\.yaml")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff plan: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff plan`.

    Returns:
        0 if the stage fits or no memory is given, 1 if it does not fit.

    Raises:
        UserError: If an argument or the config cannot be used.
    """
    options, passed_on = _parser().parse_known_args(list(argv))
    for option in passed_on:
        if option.startswith("--") and "." not in option and "=" not in option:
            raise UserError(f"rlff plan: unknown argument {option}; see rlff plan --help")
    for name in ("gpus", "reply_tokens", "candidates"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"rlff plan: {option} must be at least 1, got {value}")
    memory = None if options.memory is None else _bytes(options.memory)
    # Seconds of imports: a wrong argument is told before.
    from rlff_lightning.commands.plan_advice import advise
    from rlff_lightning.commands.plan_batch import Assumed
    from rlff_lightning.commands.plan_memory import estimate_stage
    from rlff_lightning.commands.plan_stage import read_stage
    from rlff_lightning.commands.trainer_run import resolve

    @lru_cache
    def read(config: Path) -> Mapping[str, Any]:
        files = [config, *_beside(options.config[1:], config)]
        return resolve([_verb(config), *_words(files), *_placeholders(config)])

    first = options.config[0]
    words = [*_words(options.config), *_placeholders(first), *passed_on]
    resolved = resolve([_verb(first), *words])
    stage = read_stage(
        resolved,
        first,
        read,
        gpus=options.gpus,
        architecture=options.architecture,
        assumed=Assumed(reply_tokens=options.reply_tokens, candidates=options.candidates),
    )
    is_gpu = (resolved.get("trainer") or {}).get("accelerator") != "cpu"
    estimate = estimate_stage(stage, is_gpu=is_gpu, memory=memory)
    advice = [] if memory is None else advise(stage, estimate, memory, is_gpu=is_gpu)
    found = _report(stage, estimate, memory, advice, is_gpu=is_gpu)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        _print(found)
    return 0 if found["fits"] is not False else 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff plan",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=_file,
        action="append",
        required=True,
        help="a stage's config; may be repeated, a later one on top",
    )
    parser.add_argument("--gpus", type=int, help="devices on all nodes (default: the config's)")
    parser.add_argument("--memory", metavar="SIZE", help="of one device, e.g. 24GB (of 2^30 bytes)")
    parser.add_argument(
        "--architecture", metavar="FILE", help="a config.json, where the model is not at hand"
    )
    parser.add_argument(
        "--reply-tokens", type=int, default=256, help="longest reply in data (default: 256)"
    )
    parser.add_argument(
        "--candidates", type=int, default=4, help="labelled replies per context (default: 4)"
    )
    parser.add_argument("--json", action="store_true", help="print one object")
    return parser


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{name} is missing")
    return path.absolute()


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    size = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
    if not 1 <= size < inf:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UserError(f"rlff plan: --memory must be like 24GB or 600MB, got {shown!r}")
    return int(size)


def _verb(config: Path) -> str:
    match = _STAGE.fullmatch(config.name)
    return match["verb"] if match else "fit"


def _words(files: Sequence[Path]) -> list[str]:
    return [word for file in files for word in ("--config", str(file))]


def _beside(overlays: Sequence[Path], config: Path) -> list[Path]:
    """Find what the folders of these overlays put on top of another stage, as a pipeline would."""
    match = _STAGE.fullmatch(config.name)
    files = [file.parent / f"{match['name']}.yaml" for file in overlays] if match else []
    return [file for file in files if file.is_file()]


def _placeholders(config: Path) -> list[str]:
    """Fill what a pipeline takes from its command line: memory does not depend on it."""
    if not (config.parent / "pipeline.yaml").is_file() or not _STAGE.fullmatch(config.name):
        return []
    stages = read_stages(config.parent)
    name = next((stage.name for stage in stages if stage.config == config.resolve()), None)
    arguments = read_arguments(config.parent, stages)
    return [
        f"--{key}={argument.default or 'given'}"
        for argument in arguments
        for target, key in argument.sets
        if target == name and (argument.is_required or argument.default is not None)
    ]


def _report(
    stage: "PlannedStage",
    estimate: "Estimate",
    memory: int | None,
    advice: list[str],
    *,
    is_gpu: bool,
) -> dict[str, Any]:
    from rlff_lightning.commands.plan_advice import HEADROOM
    from rlff_lightning.commands.plan_memory import chunk_of

    batch, rows = stage.batch, stage.batch.groups * stage.batch.group_size
    passes = stage.num_micro_batches * stage.processes
    contexts = batch.groups * passes * batch.prompt_tokens
    return {
        "stage": stage.kind,
        "model": stage.model.name,
        "parameters": estimate.static.parameters,
        "trained_parameters": estimate.static.trained_parameters,
        "devices": stage.processes,
        "memory": memory,
        "parts": [part._asdict() for part in estimate.parts],
        "total": estimate.total,
        "fits": None if memory is None else not advice and estimate.total <= memory * HEADROOM,
        "advice": advice,
        "activations": {"recomputed": estimate.recomputed, "kept": estimate.kept},
        "logits": {"rows": chunk_of(stage, is_gpu=is_gpu), "whole": estimate.whole_logits},
        "engine_cache_tokens": estimate.cache_tokens,
        "tokens": {
            "longest_row": stage.max_length,
            "prompts_per_update": contexts,
            "replies_per_update": rows * passes * batch.reply_tokens,
            "sampled_per_iteration": stage.completions * stage.processes * batch.reply_tokens,
        },
    }


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    each = "on one device" if found["devices"] == 1 else f"on each of {found['devices']} devices"
    console.print(
        f"{found['stage']}: {found['model']}, {found['parameters'] / 1e6:,.1f}M parameters, "
        f"{found['trained_parameters'] / 1e6:,.1f}M trained, {each}",
        soft_wrap=True,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("part")
    table.add_column("GiB", justify="right")
    table.add_column("")
    for part in found["parts"]:
        table.add_row(part["name"], _gib(part["size"]), part["note"])
    table.add_row("in all", _gib(found["total"]), "", style="bold")
    console.print(table)
    both, logits, tokens = found["activations"], found["logits"], found["tokens"]
    lines = [
        f"Activations take {_gib(both['recomputed'])} GiB with gradient checkpointing, "
        f"{_gib(both['kept'])} without.",
        f"Logits exist for {logits['rows']} tokens at once; whole they would take "
        f"{_gib(logits['whole'])} GiB.",
        f"An update reads at most {tokens['prompts_per_update']:,} tokens of prompts and "
        f"{tokens['replies_per_update']:,} of replies.",
    ]
    if tokens["sampled_per_iteration"]:
        lines.append(f"An iteration samples at most {tokens['sampled_per_iteration']:,} tokens.")
    if found["engine_cache_tokens"] is not None:
        lines.append(f"The engine's cache holds {found['engine_cache_tokens']:,} tokens.")
    if found["memory"] is not None:
        verdict = "It fits" if found["fits"] else "It does not fit"
        lines.append(f"{verdict} {_gib(found['memory'])} GiB.")
    for line in [*lines, *(f"  turn {advice}" for advice in found["advice"])]:
        console.print(line, soft_wrap=True, markup=False)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"

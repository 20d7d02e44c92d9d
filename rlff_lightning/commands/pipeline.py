"""`rlff pipeline DIR`: stages in order, each a process; finished ones are skipped."""

import argparse
import difflib
import fcntl
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from rlff_lightning.commands.child import run_child
from rlff_lightning.commands.markers import DONE, Plan, plan_stage, read_marker
from rlff_lightning.commands.overlay import overlay_files
from rlff_lightning.commands.run_stage import StageRunner
from rlff_lightning.commands.stages import (
    Argument,
    Stage,
    find_pipeline,
    read_arguments,
    read_stages,
)
from rlff_lightning.commands.summary import write_summary
from rlff_lightning.errors import UserError

_DESCRIPTION = """\
Run a folder of stage configs in order. DIR is a folder or the name of a shipped pipeline (demo).

A stage is a file <number>_<stage>.<verb>.yaml, an ordinary config for `rlff <verb> --config`.
Stages run in the run's folder, so that paths in their configs start from there; a stage that
names <stage>/... reads that stage's output. A stage that ended well leaves <stage>/done.json and
is skipped next time, unless its config, what it reads, an input file or the version changed; what
it had written is then moved to .old/. A fit that was killed goes on from its last checkpoint.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff pipeline: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff pipeline`.

    Returns:
        0, 1 if a stage failed, 2 if it failed by a user's mistake, 130 or 143 after a signal.

    Raises:
        UserError: If an argument, a config or a marker cannot be used; then nothing has run.
    """
    if not argv or argv[0] in {"-h", "--help"}:
        _parser([], []).parse_args(["--help"])
    if argv[0].startswith("-"):
        raise UserError(f"rlff pipeline: DIR comes first, got {argv[0]}")
    folder = find_pipeline(argv[0])
    stages = read_stages(folder)
    options, arguments = _parse(folder, stages, argv)
    run = Path(options.run or Path("runs") / folder.name).absolute()
    if options.list:
        _list(stages, run)
        return 0
    overrides = _overrides(options, arguments, stages, folder)
    run.mkdir(parents=True, exist_ok=True)
    # The lock goes with the process, however it ends.
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{run}: another pipeline is running there") from error
        os.chdir(run)
        plans = _plan(stages, overrides, run)
        wanted = options.only or [stage.name for stage in stages]
        again = _from(options.restart, stages)
        is_forked = sys.argv[1:] == ["pipeline", *argv] and _may_fork()
        launch = partial(run_child, is_forked=is_forked)
        runner = StageRunner(run, launch, [Path(other) for other in options.reuse])
        for number, plan in enumerate(plans, start=1):
            if plan.stage.name in wanted:
                status = runner.run(
                    plan, f"[{number}/{len(plans)}]", is_forced=plan.stage.name in again
                )
                if status:
                    return status
        write_summary(run, plans)
    return 0


def overrides_of(
    folder: Path, stages: Sequence[Stage], argv: Sequence[str]
) -> dict[str, list[str]]:
    """Give the words that options of the command add to each stage's.

    Raises:
        UserError: If an option cannot be used.
    """
    options, arguments = _parse(folder, stages, [str(folder), *argv])
    return _overrides(options, arguments, stages, folder)


def _parse(
    folder: Path, stages: Sequence[Stage], argv: Sequence[str]
) -> tuple[argparse.Namespace, Sequence[Argument]]:
    arguments = read_arguments(folder, stages)
    parser = _parser(arguments, stages)
    options, unknown = parser.parse_known_args(list(argv))
    if unknown:
        _refuse(unknown[0], parser)
    return options, arguments


def _parser(arguments: Sequence[Argument], stages: Sequence[Stage]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff pipeline",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [stage.name for stage in stages] or None
    parser.add_argument("dir", metavar="DIR", help="folder of stage configs; comes first")
    parser.add_argument("--run", metavar="RUNDIR", help="what is written (default: runs/<DIR>)")
    parser.add_argument("--seed", type=int, help="sets seed_everything of every stage")
    parser.add_argument(
        "--overlay",
        metavar="FILE",
        help="config on top of every stage's, or a folder of <stage>.yaml",
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", choices=names, help="these stages")
    parser.add_argument(
        "--from", dest="restart", metavar="STAGE", choices=names, help="run anew from here on"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="sets one key of one stage; may be repeated",
    )
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        metavar="RUNDIR",
        type=lambda path: str(Path(path).absolute()),
        help="take a stage from there if it is finished with the same config and inputs",
    )
    parser.add_argument("--list", action="store_true", help="list the stages and stop")
    if arguments:
        group = parser.add_argument_group("arguments of this pipeline")
    for argument in arguments:
        text = argument.help.replace("%", "%%")
        text += " (required)" if argument.is_required else f" (default: {argument.default})"
        group.add_argument(f"--{argument.name}", metavar="VALUE", help=text)
    return parser


def _refuse(option: str, parser: argparse.ArgumentParser) -> NoReturn:
    accepted = [name for action in parser._actions for name in action.option_strings]
    close = difflib.get_close_matches(option.partition("=")[0], accepted, n=1)
    hint = f"did you mean {close[0]}?" if close else f"accepted are {', '.join(accepted)}"
    raise UserError(f"rlff pipeline: unknown argument {option}; {hint}")


def _overrides(
    options: argparse.Namespace,
    arguments: Sequence[Argument],
    stages: Sequence[Stage],
    folder: Path,
) -> dict[str, list[str]]:
    overrides: dict[str, list[str]] = {stage.name: [] for stage in stages}
    if options.overlay is not None:
        for name, files in overlay_files(Path(options.overlay), stages).items():
            overrides[name] += [word for file in files for word in ("--config", str(file))]
    if options.seed is not None:
        for words in overrides.values():
            words.append(f"--seed_everything={options.seed}")
    for change in options.set:
        name, dot, option = change.partition(".")
        if name not in overrides or not dot or "=" not in option:
            raise UserError(
                f"rlff pipeline: --set must be STAGE.KEY=VALUE with a stage of "
                f"{', '.join(overrides)}, got {change}"
            )
        overrides[name].append(f"--{option}")
    for argument in arguments:
        given = getattr(options, argument.name)
        value, base = (given, Path()) if given is not None else (argument.default, folder)
        if value is None:
            if argument.is_required:
                raise UserError(f"rlff pipeline: --{argument.name} is missing: {argument.help}")
            continue
        path = (base / value).absolute()
        if path.exists():
            value = str(path)
        elif argument.is_path:
            raise UserError(f"rlff pipeline: --{argument.name}: {value} is missing")
        for stage, key in argument.sets:
            overrides[stage].append(f"--{key}={value}")
        for stage, key, fixed in argument.also if given is not None else ():
            overrides[stage].append(f"--{key}={fixed}")
    return overrides


def _plan(stages: Sequence[Stage], overrides: dict[str, list[str]], run: Path) -> list[Plan]:
    """Resolve every config before anything runs: a mistake in the last one shows now."""
    # Imports Lightning, and through the configs whatever the stages need: forks inherit it.
    from rlff_lightning.commands.trainer_run import resolve

    plans: list[Plan] = []
    for stage in stages:
        argv = [stage.verb, "--config", str(stage.config), *overrides[stage.name]]
        try:
            resolved = resolve(argv)
        except UserError as error:
            raise UserError(f"stage {stage.name}: {error}") from error
        earlier = {plan.stage.name: plan.fingerprint for plan in plans}
        plans.append(plan_stage(stage, argv, resolved, earlier, run))
    return plans


def _may_fork() -> bool:
    """A stage may go on from here: no thread would be lost, and no GPU was touched."""
    import torch

    return threading.active_count() == 1 and not torch.cuda.is_available()


def _from(restart: str | None, stages: Sequence[Stage]) -> list[str]:
    names = [stage.name for stage in stages]
    return [] if restart is None else names[names.index(restart) :]


def _list(stages: Sequence[Stage], run: Path) -> None:
    for number, stage in enumerate(stages, start=1):
        done = read_marker(run, stage.name, DONE)
        state = f"finished {done['ended']}, {done['wall_s']:.1f} s" if done else "not finished"
        sys.stdout.write(f"[{number}/{len(stages)}] {stage.name} ({stage.verb}): {state}\n")

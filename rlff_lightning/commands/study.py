"""`rlff study DIR`: a pipeline under a grid of arms and seeds; one table at the end."""

import argparse
import fcntl
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rlff_lightning.commands.child import run_child
from rlff_lightning.commands.pipeline import overrides_of
from rlff_lightning.commands.study_cell import is_finished, read_cell
from rlff_lightning.commands.study_figures import rows_of
from rlff_lightning.commands.study_file import Arm, Study, find_study, read_study
from rlff_lightning.commands.study_table import print_study, write_tables
from rlff_lightning.errors import UserError

_DESCRIPTION = """\
Run a pipeline under every arm of a study and every seed, and put the results in one table.

DIR is a folder with study.yaml, or the name of a shipped study. study.yaml names the pipeline,
the policy whose figures count, the seeds, and the arms with the keys that each one changes:

  pipeline: .            # folder of stage configs, from here
  policy: rlff           # of each run's summary.json
  references: [sft]      # further policies, which do not depend on the arm
  baseline: future
  seeds: [0, 1, 2]
  arms:
    future: {}
    immediate: {futures.model.init_args.futures.num_futures: 0}

Runs are RUNDIR/<arm>/seed-<seed>. What is finished is skipped; a stage that another arm's run has
finished under the same seed, config and inputs is taken from there. The same command goes on
where it was stopped. Written are table.md, table.csv (a line per run) and study.json, of all runs
in RUNDIR that are finished, those of other arms and seeds than this command's among them.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff study: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff study`.

    Returns:
        0, 1 if a run failed, 2 if it failed by a user's mistake, 130 or 143 after a signal.

    Raises:
        UserError: If an argument, the study or a config cannot be used; then nothing has run.
    """
    options, rest = _parser().parse_known_args(list(argv))
    study = read_study(find_study(options.dir))
    arms = _chosen(study, options.arms)
    if options.seeds:
        if len(set(options.seeds)) < len(options.seeds):
            raise UserError(f"rlff study: --seeds must be different, got {options.seeds}")
        study = replace(study, seeds=tuple(options.seeds))
    folder = Path(options.run or Path("runs") / study.name).absolute()
    if options.table:
        _tabulate(folder, study, arms, options.seeds)
        return 0
    _check(arms, study, rest)
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for seed in study.seeds:
        for place, arm in enumerate(study.arms, start=1):
            if arm not in arms:
                continue
            _say(f"== {arm.name} ({place} of {len(study.arms)} arms), seed {seed} ==")
            status, interrupt = _run(folder, study, arm, seed, rest)
            if interrupt is not None or status == 2:
                return 2 if interrupt is None else 128 + interrupt
            failed += status != 0
    if failed < len(arms) * len(study.seeds):
        _tabulate(folder, study, study.arms, None)
    return 1 if failed else 0


def _tabulate(folder: Path, study: Study, arms: Sequence[Arm], seeds: Sequence[int] | None) -> None:
    """Put together what is finished, whichever command ran it.

    Args:
        folder: Of all runs.
        study: What was asked for; what is not finished of it is told.
        arms: These alone.
        seeds: These alone; ``None`` for all that have been run.
    """
    nothing = f"rlff study: no run in {folder} has finished; run the study first"
    if not folder.is_dir():
        raise UserError(nothing)
    # Seeds may run side by side, and each must see what the others have finished.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cells = [
            read_cell(place, study, arm.name, seed)
            for arm in arms
            for seed in seeds or sorted({*study.seeds, *_seeds_found(folder, arms)})
            if is_finished(place := _place(folder, arm.name, seed), study.stages)
        ]
        if not cells:
            raise UserError(nothing)
        study = replace(study, seeds=tuple(sorted({*study.seeds, *(c.seed for c in cells)})))
        rows = rows_of(study, cells)
        write_tables(folder, study, cells, rows)
    _say("")
    print_study(study, cells, rows)
    _say(f"wrote {folder / 'table.md'}, table.csv and study.json")


def _seeds_found(folder: Path, arms: Sequence[Arm]) -> list[int]:
    names = [run.name for arm in arms for run in (folder / arm.name).glob("seed-*")]
    return [int(name[5:]) for name in names if name[5:].removeprefix("-").isdecimal()]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff study",
        description=_DESCRIPTION,
        epilog="Further options, such as --overlay, are those of rlff pipeline.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="folder with study.yaml, or a shipped study")
    parser.add_argument("--run", metavar="RUNDIR", help="what is written (default: runs/<DIR>)")
    parser.add_argument(
        "--table", action="store_true", help="run nothing: only the table of what is finished"
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="these arms only")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds instead")
    return parser


def _chosen(study: Study, names: list[str] | None) -> list[Arm]:
    known = [arm.name for arm in study.arms]
    for name in names or ():
        if name not in known:
            raise UserError(f"rlff study: --arms must be among {', '.join(known)}, got {name}")
    return [arm for arm in study.arms if not names or arm.name in names]


def _check(arms: Sequence[Arm], study: Study, rest: Sequence[str]) -> None:
    """Parse what is named and changed before anything runs: a mistake in the last arm shows now."""
    from rlff_lightning.commands.trainer_run import resolve

    overrides = overrides_of(study.pipeline, study.stages, rest)
    words_of = {
        stage.name: [stage.verb, "--config", str(stage.config), *overrides[stage.name]]
        for stage in study.stages
    }
    _check_names(study, {name: resolve(words) for name, words in words_of.items()})
    for arm in arms:
        changed: dict[str, list[str]] = {}
        for change in arm.changes:
            name, _, option = change.partition(".")
            changed.setdefault(name, []).append(f"--{option}")
        for name, words in changed.items():
            try:
                resolve([*words_of[name], *words])
            except UserError as error:
                raise UserError(f"arm {arm.name}, stage {name}: {error}") from error


def _check_names(study: Study, resolved: Mapping[str, Mapping[str, Any]]) -> None:
    """Look for the policy in the last stage, and for references in any."""
    *earlier, last = [
        (config["model"].get("init_args") or {}).get("policies") for config in resolved.values()
    ]
    # Another module than the project's may name its policies in another way.
    if last is None:
        return
    known = {name for policies in (*earlier, last) for name in policies or ()}
    wanted = [("policy", study.policy, last)]
    wanted += [("references", name, known) for name in study.references]
    for key, name, names in wanted:
        if name not in names:
            raise UserError(
                f"study {study.name}: {key} must be among {', '.join(sorted(names))}, got {name}"
            )


def _run(
    folder: Path, study: Study, arm: Arm, seed: int, rest: Sequence[str]
) -> tuple[int, int | None]:
    run = _place(folder, arm.name, seed)
    run.mkdir(parents=True, exist_ok=True)
    argv = ["pipeline", str(study.pipeline), "--run", str(run), "--seed", str(seed), *rest]
    for change in arm.changes:
        argv += ["--set", change]
    others = [_place(folder, other.name, seed) for other in study.arms if other.name != arm.name]
    for other in others:
        if other.is_dir():
            argv += ["--reuse", str(other)]
    # A thread, or a GPU in use, would not live through a fork.
    return run_child(argv, run / "log.txt", is_forked=_may_fork())


def _may_fork() -> bool:
    import torch

    return threading.active_count() == 1 and not torch.cuda.is_available()


def _place(folder: Path, arm: str, seed: int) -> Path:
    return folder / arm / f"seed-{seed}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

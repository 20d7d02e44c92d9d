"""Runs one planned stage, or skips it, and keeps its markers true."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rlff_lightning import __version__
from rlff_lightning.commands.markers import DONE, STARTED, Plan, read_marker, write_json
from rlff_lightning.errors import UserError

Launch = Callable[[list[str], Path], tuple[int, int | None]]


class StageRunner:
    """Runs stages in one run's folder.

    Args:
        run: The run's folder.
        launch: Runs `rlff` with the given arguments and log file; returns the exit status,
            negative for a signal, and the signal that asked this process to stop, if any.
        reuse: Other runs' folders: a stage that one of them has finished is taken from there.
    """

    def __init__(self, run: Path, launch: Launch, reuse: Sequence[Path] = ()) -> None:
        self._run = run
        self._launch = launch
        self._reuse = reuse
        self._has_run: set[str] = set()

    def run(self, plan: Plan, place: str, *, is_forced: bool) -> int:
        """Bring a stage to its end and return the exit status of the pipeline so far.

        Args:
            plan: The stage.
            place: Number among all stages, for the header.
            is_forced: Run it although it is finished.

        Raises:
            UserError: If a stage that it reads is not finished.
        """
        stage = plan.stage
        title = f"{place} {stage.name} ({stage.verb})"
        self._check_reads(plan)
        is_stale = bool(self._has_run & set(plan.reads))
        done = read_marker(self._run, stage.name, DONE)
        if done.get("fingerprint") == plan.fingerprint and not is_forced and not is_stale:
            _say(f"{title} is finished already, {done['wall_s']:.1f} s then; skipped")
            return 0
        if not is_forced and (other := self._take(plan)):
            _say(f"{title} is finished in {other}; taken from there")
            return 0
        self._check_needs(plan)
        started = read_marker(self._run, stage.name, STARTED)
        is_continued = not done and started.get("fingerprint") == plan.fingerprint
        if not is_continued:
            self._move_aside(stage.name)
        folder = self._run / stage.name
        folder.mkdir(exist_ok=True)
        argv = list(plan.argv)
        how = " starts again" if is_continued else ""
        if is_continued and stage.verb == "fit" and any(folder.rglob("last*.ckpt")):
            argv += ["--ckpt_path", "last"]
            how = " goes on where it was stopped"
        _say(f"{title} …{how}")
        return self._execute(plan, title, argv, folder)

    def _execute(self, plan: Plan, title: str, argv: list[str], folder: Path) -> int:
        start = datetime.now(UTC)
        clock = time.monotonic()
        times = {"started": start.isoformat(timespec="seconds")}
        write_json(folder / STARTED, {"fingerprint": plan.fingerprint, **times})
        log = folder / "log.txt"
        status, interrupt = self._launch(argv, log)
        wall_s = round(time.monotonic() - clock, 3)
        if interrupt is not None:
            _say(f"{title} stopped after {wall_s:.1f} s; the same command goes on from there")
            return 128 + interrupt
        if status != 0:
            how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
            name = plan.stage.name
            sys.stderr.write(
                f"rlff: error: stage {name} ({plan.stage.verb}) failed with {how} "
                f"after {wall_s:.1f} s; its output is in {log}\n"
            )
            return 2 if status == 2 else 1
        times["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        content = {
            "fingerprint": plan.fingerprint,
            "reads": dict(plan.reads),
            "inputs": dict(plan.inputs),
            "version": __version__,
            "wall_s": wall_s,
            **times,
        }
        write_json(folder / DONE, content)
        self._has_run.add(plan.stage.name)
        _say(f"{title} done in {wall_s:.1f} s")
        return 0

    def _take(self, plan: Plan) -> Path | None:
        """Link the files of the same stage, finished in another run; they are written once."""
        name = plan.stage.name
        for other in self._reuse:
            is_same = read_marker(other, name, DONE).get("fingerprint") == plan.fingerprint
            if is_same and self._has_same(plan.reads, other):
                self._move_aside(name)
                part = self._run / f".{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(other / name, part, copy_function=os.link)
                part.rename(self._run / name)
                self._has_run.add(name)
                return other
        return None

    def _has_same(self, names: Iterable[str], other: Path) -> bool:
        """Say whether another run's stage read the very outputs that lie here."""
        return all(
            read_marker(self._run, name, DONE) == read_marker(other, name, DONE) for name in names
        )

    def _check_reads(self, plan: Plan) -> None:
        for name, fingerprint in plan.reads.items():
            done = read_marker(self._run, name, DONE)
            if done.get("fingerprint") != fingerprint:
                state = "has changed since it ran" if done else "is not finished"
                raise UserError(
                    f"stage {plan.stage.name} reads {name}/, which {state}; run it first"
                )

    def _check_needs(self, plan: Plan) -> None:
        for path in plan.needs:
            if not (self._run / path).exists():
                maker = path.split("/")[0]
                raise UserError(
                    f"stage {plan.stage.name} reads {path}, which is gone from {self._run}; "
                    f"--from {maker} makes it anew"
                )

    def _move_aside(self, name: str) -> None:
        folder = self._run / name
        if folder.exists():
            old = self._run / ".old"
            old.mkdir(exist_ok=True)
            time_ns = time.time_ns()
            moment = datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S")
            shutil.move(folder, old / f"{name}-{moment}-{time_ns % 10**9:09d}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

"""Runs a command as a child process: its output live and in a log, and no orphan left behind."""

import ctypes
import importlib.util
import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rlff_lightning.commands.line_log import LineLog

_GRACE_S = 30.0
_PR_SET_PDEATHSIG = 1


class StageProcess(BaseException):
    """Raised in a forked child: it leaves its parent's frames and starts over with `argv`."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv)
        self.argv = argv


def run_child(argv: list[str], log: Path, *, is_forked: bool) -> tuple[int, int | None]:
    """Run `rlff argv` to its end, in a process group of its own.

    SIGINT and SIGTERM are handed to the group; what still runs half a minute later is killed.

    Args:
        argv: Verb and options.
        log: File that the output's lines are appended to.
        is_forked: Go on from this process's imports instead of starting Python anew; needs a
            process without threads of its own and without CUDA.

    Returns:
        Exit status, negative for a signal, and the signal that this process was sent meanwhile.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    is_terminal = sys.stdout.isatty()
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    if is_terminal:
        _copy_window_size(reader)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become(argv, writer, parent, is_forked=is_forked)
    os.close(writer)
    with suppress(PermissionError):  # The child has set its group, and executed, already.
        os.setpgid(child, child)
    with _handed_on(child) as received, LineLog(log, is_raw=is_terminal) as lines:
        status = _pump(child, reader, lines, received)
    os.close(reader)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), received[0][0] if received else None


def _become(argv: list[str], writer: int, parent: int, *, is_forked: bool) -> NoReturn:
    os.setpgid(0, 0)
    # Should the parent be killed, its child must not train on unseen.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (writer, 1), (writer, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(writer)
    if not is_forked:
        os.environ["PYTHONUNBUFFERED"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "rlff_lightning.cli", *argv])
    # Lightning's launchers start further ranks from these two: they must find this stage.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("rlff_lightning.cli")
    sys.argv[1:] = argv
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    raise StageProcess(argv)


def _pump(child: int, reader: int, lines: LineLog, received: list[tuple[int, float]]) -> int:
    status: int | None = None
    while True:
        if received and time.monotonic() - received[0][1] > _GRACE_S:
            os.killpg(child, signal.SIGKILL)
        ready, _, _ = select.select([reader], [], [], 0.2)
        if ready:
            try:
                data = os.read(reader, 1 << 16)
            except OSError:  # A pseudo-terminal whose last writer is gone.
                data = b""
            if data:
                lines.feed(data)
                continue
            return os.waitpid(child, 0)[1] if status is None else status
        if status is not None:
            return status
        pid, ended = os.waitpid(child, os.WNOHANG)
        status = ended if pid else None


@contextmanager
def _handed_on(child: int) -> Iterator[list[tuple[int, float]]]:
    received: list[tuple[int, float]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append((number, time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(child, number if len(received) < 3 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy_window_size(terminal: int) -> None:
    size = os.get_terminal_size(sys.stdout.fileno())
    termios.tcsetwinsize(terminal, (size.lines, size.columns))

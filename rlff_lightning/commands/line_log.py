"""Turns a terminal's stream, with its bars and colours, into the lines that are worth keeping."""

import codecs
import re
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

_TOKEN = re.compile(
    r"(?P<end>\r*\n)|(?P<back>\r+)|\x1b\[(?P<up>\d*)A|\x1b\[[\d;?]*[A-Za-z]|[^\r\n\x1b]+|\x1b"
)
_OPEN_END = re.compile(r"(?:\r+|\x1b\[?[\d;?]*)$")


class LineLog:
    """Shows a child's output and writes its lines to a file.

    A bar that redraws itself is one line: on a terminal it stays live, elsewhere and in the log
    it appears now and then and in its last state.

    Args:
        path: Log file, appended to.
        is_raw: Pass bytes on as they are, for a terminal; otherwise show what the log gets.
        bar_every_s: Shortest time between two states of a bar, in seconds.
    """

    def __init__(self, path: Path, *, is_raw: bool, bar_every_s: float = 10.0) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._is_raw = is_raw
        self._bar_every_s = bar_every_s
        self._bar_shown_at = time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._line = ""
        # Lines that a cursor sent upwards may still overwrite.
        self._recent: deque[str] = deque()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._is_raw:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        text = self._rest + self._decoder.decode(data)
        held = _OPEN_END.search(text)
        self._rest = held[0] if held else ""
        for token in _TOKEN.finditer(text.removesuffix(self._rest)):
            self._take(token)

    def _take(self, token: re.Match[str]) -> None:
        if token["end"] is not None:
            self._keep(self._line)
            self._line = ""
        elif token["back"] is not None:
            now = time.monotonic()
            if self._line.strip() and now - self._bar_shown_at >= self._bar_every_s:
                self._bar_shown_at = now
                self._keep(self._line)
            self._line = ""
        elif token["up"] is not None:
            for _ in range(min(int(token["up"] or 1), len(self._recent))):
                self._recent.pop()
        elif not token[0].startswith("\x1b"):
            self._line += token[0]

    def _keep(self, line: str) -> None:
        if not self._is_raw:
            sys.stdout.write(line.rstrip() + "\n")
            sys.stdout.flush()
        self._recent.append(line.rstrip())
        while len(self._recent) > (20 if self._is_raw else 0):
            self._write()

    def _write(self) -> None:
        self._file.write(self._recent.popleft() + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._line.strip():
            self._keep(self._line)
        while self._recent:
            self._write()
        self._file.close()

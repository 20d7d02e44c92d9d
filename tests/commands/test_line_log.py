from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.commands.line_log import LineLog


def logged(path: Path, *parts: bytes, is_raw: bool = True, bar_every_s: float = 1000.0) -> str:
    path.unlink(missing_ok=True)
    with LineLog(path, is_raw=is_raw, bar_every_s=bar_every_s) as log:
        for part in parts:
            log.feed(part)
    return path.read_text()


def test_a_bar_is_kept_in_its_last_state_only(tmp_path: Path) -> None:
    stream = b"start\n\r10%\r50%\r100%\nend\n"
    assert logged(tmp_path / "log", stream) == "start\n100%\nend\n"


def test_a_long_bar_shows_now_and_then(tmp_path: Path) -> None:
    assert logged(tmp_path / "log", b"10%\r50%\r\rend\n", bar_every_s=0.0) == "10%\n50%\nend\n"


def test_lines_overwritten_from_below_are_dropped_with_colours(tmp_path: Path) -> None:
    # Two lines are drawn, the cursor goes up by two, and both are drawn again.
    stream = b"kept\n\x1b[32ma 1\x1b[0m\nb 1\n\x1b[2A\x1b[2Ka 2\nb 2\n"
    assert logged(tmp_path / "log", stream) == "kept\na 2\nb 2\n"


@given(st.lists(st.sampled_from(["é\n", "a\r", "\r\n", "\x1b[1A", "\x1b[31m", "b", "\n"])))
def test_it_does_not_matter_where_the_stream_is_cut(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    path = tmp_path_factory.mktemp("cut") / "log"
    stream = "".join(words).encode()
    whole = logged(path, stream)
    assert logged(path, *(stream[i : i + 1] for i in range(len(stream)))) == whole


def test_without_a_terminal_the_output_is_what_the_log_gets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = logged(tmp_path / "log", b"\x1b[1ma\r", b"b\nc", is_raw=False)
    assert capsys.readouterr().out == text == "b\nc\n"


def test_the_log_of_an_earlier_start_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    with LineLog(tmp_path / "log", is_raw=True) as log:
        log.feed(b"after\n")
    assert (tmp_path / "log").read_text() == "before\nafter\n"

"""The command line of the comparison with TRL."""

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def grpo_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import grpo_step

    return grpo_step


def test_without_options_all_the_promised_shapes_are_compared(grpo_step: Any) -> None:
    options = grpo_step.arguments([])
    assert (options.prompt, options.completion, options.group) == ([64, 512], 96, 8)
    assert (options.mode, options.vocab) == (["full", "lora"], [1024, 32768])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--iterations 0", "--iterations must be at least 1, got 0"),
        ("--prompt 64 0", "--prompt must be at least 1, got [64, 0]"),
        ("--group 1", "--group must be at least 2, got 1"),
        ("--group 3 --groups 5", "micro-batches (4, 8, 16, 32), got 3 * 5 = 15"),
        ("--json {folder}", "--json must be a file that can be written, got {folder}"),
        ("--json {folder}/gone/rows.json", "--json must be a file that can be written"),
    ],
)
def test_what_cannot_be_compared_or_written_ends_in_one_line(
    words: str, line: str, grpo_step: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        grpo_step.arguments(words.format(folder=tmp_path).split())
    assert ended.value.code == 2
    assert line.format(folder=tmp_path) in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_can_be_written_is_taken_and_left_alone(grpo_step: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert grpo_step.arguments(["--json", str(file)]).json == file
    assert not file.exists()

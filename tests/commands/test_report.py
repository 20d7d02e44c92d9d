from pathlib import Path

import pytest

from rlff_lightning.commands.report import main
from rlff_lightning.errors import UserError


def test_a_report_is_written_into_the_run_or_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "fit").mkdir(parents=True)
    (run / "fit" / "metrics.csv").write_text("step,loss\n0,1.0\n1,0.5\n")
    assert main([str(run)]) == 0
    assert "report.html (0.0 MB)" in capsys.readouterr().out
    first = (run / "report.html").read_bytes()
    assert main([str(run), "--output", str(tmp_path / "page.html")]) == 0
    # A report of the same files is the same to the byte.
    assert (tmp_path / "page.html").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "gone: a run must be a folder, found none"),
        ([".", "--max-items", "0"], "--max-items must be at least 1, got 0"),
        (["fit", "--output", "gone/page.html"], "--output: gone must be a folder that exists"),
        ([".", "--max-itms", "0"], "unrecognized arguments: --max-itms"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        main(words)


def test_a_text_without_bytes_is_written(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(r'{"policies": {"\ud800": {"success_rate": 0.5}}}')
    assert main([str(tmp_path)]) == 0
    assert "50.0 %" in (tmp_path / "report.html").read_text(encoding="utf-8")

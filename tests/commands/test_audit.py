import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlff_lightning.commands.audit import main
from rlff_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
ANSWERS = str(FIXTURES / "critic_answers.jsonl")
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "esconv" / "dpdp-critic-65.jsonl"


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert main(["--answers", ANSWERS, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_rule_is_shown_with_both_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    found = [(row["preset"], row["parser"]) for row in rows(capsys)]
    presets = ["ppdpp", "dpdp", "dpdp-geq", "dialogxpert", "default"]
    assert found == [(p, q) for p in presets for q in ("substring", "negation-aware")]


def test_one_rule_is_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    # Dialogue 1: means -0.5, -0.75, -0.5, 0.5, 0.75, so solved at its fifth judged message.
    # Dialogue 2: means -0.5 and 0.5 ("No" is left out), so never: (5 + 8) / 2.
    (row,) = rows(capsys, "--preset", "ppdpp", "--parser", "negation-aware")
    assert (row["preset"], row["parser"], row["episodes"]) == ("ppdpp", "negation-aware", 2)
    assert (row["success_rate"], row["average_turns"]) == (0.5, 6.5)
    assert row["ci95"][0] < 0.5 < row["ci95"][1]
    # Two conversations bound next to nothing, but no turn is before the first or beyond the cap.
    assert (row["average_turns_low"], row["average_turns_high"]) == (1, 8)
    assert row["unparsed_share"] == pytest.approx(1 / 14)
    # At the tie of 0.5 dialogue 1 would end one turn earlier and dialogue 2 would succeed.
    assert row["ties"]["episodes"] == 2
    assert "2 of 2 verdicts hang on a tie" in row["warnings"][0]


def test_the_parser_changes_what_not_solved_means(capsys: pytest.CaptureFixture[str]) -> None:
    # Read as solved, "has not been solved" lifts dialogue 2's first mean to (-0.5 + 1) / 2 = 0.25
    # and its value past dpdp's 0.1: solved at once.
    substring, aware = rows(capsys, "--preset", "dpdp")
    assert (substring["success_rate"], aware["success_rate"]) == (1.0, 0.5)
    assert substring["average_turns"] == 3.0  # (5 + 1) / 2


def test_a_lower_cap_cuts_the_later_turns(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--preset", "ppdpp", "--parser", "substring", "--max-turns", "4")
    (row,) = rows(capsys, *options)
    assert (row["success_rate"], row["average_turns"]) == (0.0, 4.0)
    assert (row["average_turns_low"], row["average_turns_high"]) == (None, None)
    assert row["rule"]["max_turns"] == 4


def test_the_table_names_rules_intervals_and_ties(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--answers", ANSWERS]) == 0
    out = capsys.readouterr().out
    assert "Goal completion of 2 conversations" in out
    assert "dialogxpert" in out
    assert "95 % interval" in out
    assert "unparsed" in out
    assert "hang on a tie at 0.5" in out
    assert max(map(len, out.split("Warning")[0].splitlines())) <= 80


def test_a_rule_without_ties_gives_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--answers", ANSWERS, "--preset", "default"]) == 0
    assert "tie" not in capsys.readouterr().out


def test_dialogues_without_answers_are_left_out_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--answers", ANSWERS, str(FIXTURES / "ppdpp.jsonl"), "--json", "--preset", "default"])
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["episodes"], row["unjudged_dialogues"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "--answers"),
        (["--answers", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--answers", str(FIXTURES / "ppdpp.jsonl")], "must carry critic answers"),
        (["--answers", ANSWERS, "--preset", "gpt"], "'gpt'"),
        (["--answers", ANSWERS, "--parser", "regex"], "'regex'"),
        (["--answers", ANSWERS, "--max-turns", "0"], "--max-turns must be >= 1, got 0"),
        (["--answers", ANSWERS, "--max-turns", "x"], "--max-turns"),
        (["--answers", ANSWERS, "--jsno"], "--jsno"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments: list[str], names: str) -> None:
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers_on_a_supporters_message_are_no_verdicts(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "I am sad."},
        {"role": "assistant", "content": "Why?", "critic_answers": ["Yes, solved."]},
        {"role": "user", "content": "My dog died.", "critic_answers": ["The same."]},
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"messages": said}) + "\n")
    with pytest.raises(UserError, match=r"^answers-1: .*got some on message 2, the supporter's$"):
        main(["--answers", str(file)])


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(o in out for o in ("--answers", "--preset", "--parser", "--max-turns", "--json"))
    assert "dialogxpert" in out


def test_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys; from rlff_lightning.commands.audit import main; "
        f"main(['--answers', {ANSWERS!r}]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'transformers')))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(not PUBLISHED.exists(), reason="real data are not at hand")
def test_the_published_file_is_read_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--answers", str(PUBLISHED), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 10
    assert {row["episodes"] for row in found} == {65}
    rates = {(row["preset"], row["parser"]): round(row["success_rate"], 3) for row in found}
    assert rates["ppdpp", "substring"] == 0.215
    assert rates["dpdp-geq", "negation-aware"] == 0.785

import re
from pathlib import Path

import pytest

from rlff_lightning.commands.stages import find_pipeline, read_arguments, read_stages
from rlff_lightning.errors import UserError


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text("trainer: {}\n")
    return tmp_path


def test_stages_run_in_the_order_of_their_numbers_not_of_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "10_a.test.yaml", "9_policy.fit.yaml", "notes.yaml")
    assert [(s.name, s.verb) for s in read_stages(folder)] == [("policy", "fit"), ("a", "test")]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), "no stage in it"),
        (("1_a.fitt.yaml",), "1_a.fitt.yaml: a stage is named <number>_<stage>.<fit|"),
        (("1_a.yaml",), "1_a.yaml: a stage is named"),
        (("1_a.fit.yaml", "2_a.test.yaml"), "stage a occurs twice"),
        (("1_a.fit.yaml", "1_b.fit.yaml"), "stage 1 occurs twice"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_refused(
    names: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        read_stages(folder_of(tmp_path, *names))


def test_an_argument_without_default_is_required_and_one_with_null_is_not(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "1_a.fit.yaml")
    (folder / "pipeline.yaml").write_text(
        "arguments:\n"
        "  corpus: {help: dialogues, sets: [a.data.init_args.path], is_path: true}\n"
        "  turns: {sets: [a.model.init_args.turns, a.data.turns], default: 3}\n"
        "  extra: {sets: [], default: null}\n"
    )
    corpus, turns, extra = read_arguments(folder, read_stages(folder))
    assert (corpus.is_required, corpus.default, corpus.is_path) == (True, None, True)
    assert (turns.is_required, turns.default) == (False, "3")
    assert turns.sets == (("a", "model.init_args.turns"), ("a", "data.turns"))
    assert (extra.is_required, extra.default) == (False, None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("argument: {}", "unknown key 'argument'; did you mean arguments?"),
        ("arguments: {x: {helps: a}}", "arguments.x has the unknown key 'helps'; did you mean"),
        ("arguments: {x: {sets: [b.data]}}", "with a stage of a, got 'b.data'"),
        ("arguments: {x: {sets: [a]}}", "got 'a'"),
        ("arguments: [x]", "arguments must be a mapping"),
        ("arguments: {x: 3}", "arguments.x must be a mapping, got 3"),
        ("arguments: [", "no YAML"),
        ("# caf\xe9", "no YAML"),
    ],
)
def test_a_wrong_declaration_is_told(text: str, line: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "1_a.fit.yaml")
    (folder / "pipeline.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"pipeline\.yaml") as caught:
        read_arguments(folder, read_stages(folder))
    assert line in str(caught.value)


def test_an_unknown_pipeline_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder and no shipped pipeline"):
        find_pipeline(str(tmp_path / "gone"))

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlff_lightning.commands.markers import DONE, Plan, plan_stage, read_marker, write_json
from rlff_lightning.commands.run_stage import StageRunner
from rlff_lightning.commands.stages import Stage
from rlff_lightning.errors import UserError


@dataclass
class Rlff:
    """Stands for the child process: writes one file into the stage's folder."""

    answer: tuple[int, int | None] = (0, None)
    calls: list[list[str]] = field(default_factory=list)

    def __call__(self, argv: list[str], log: Path) -> tuple[int, int | None]:
        self.calls.append(argv)
        (log.parent / "output").write_text(str(len(self.calls)))
        return self.answer


def plan(
    run: Path,
    name: str,
    config: Mapping[str, object],
    *earlier: Plan,
    verb: str = "fit",
) -> Plan:
    stage = Stage(name=name, verb=verb, config=Path(f"{name}.yaml"))
    fingerprints = {plan.stage.name: plan.fingerprint for plan in earlier}
    return plan_stage(stage, [verb], config, fingerprints, run)


def run_all(
    run: Path, rlff: Rlff, *plans: Plan, forced: str = "", reuse: Sequence[Path] = ()
) -> list[str]:
    """Run stages as the pipeline does and name those that a process was started for."""
    runner = StageRunner(run, rlff, reuse)
    started = []
    for item in plans:
        before = len(rlff.calls)
        assert runner.run(item, "[1/1]", is_forced=item.stage.name == forced) == 0
        started += [item.stage.name] if len(rlff.calls) > before else []
    return started


def three(run: Path, lr: float = 0.1) -> list[Plan]:
    first = plan(run, "first", {"lr": lr})
    second = plan(run, "second", {"model": ["first/output"]}, first)
    return [first, second, plan(run, "third", {"path": "elsewhere/first/"}, first, second)]


def test_a_finished_stage_is_skipped_and_a_changed_one_takes_its_readers_along(
    tmp_path: Path,
) -> None:
    rlff = Rlff()
    assert run_all(tmp_path, rlff, *three(tmp_path)) == ["first", "second", "third"]
    assert run_all(tmp_path, rlff, *three(tmp_path)) == []
    # The third reads neither: its path does not start with a stage's name.
    assert run_all(tmp_path, rlff, *three(tmp_path, lr=0.2)) == ["first", "second"]
    assert run_all(tmp_path, rlff, *three(tmp_path, lr=0.2)) == []


def test_what_a_changed_stage_had_written_is_moved_aside(tmp_path: Path) -> None:
    rlff = Rlff()
    run_all(tmp_path, rlff, *three(tmp_path))
    run_all(tmp_path, rlff, *three(tmp_path, lr=0.2))
    (old,) = (tmp_path / ".old").glob("first-*")
    assert (old / "output").read_text() == "1"
    assert (tmp_path / "first" / "output").read_text() == "4"


def test_a_forced_stage_takes_its_readers_along(tmp_path: Path) -> None:
    rlff = Rlff()
    run_all(tmp_path, rlff, *three(tmp_path))
    assert run_all(tmp_path, rlff, *three(tmp_path), forced="first") == ["first", "second"]
    assert rlff.calls[3:] == [["fit"], ["fit"]], "anew, not from the old checkpoint"
    assert len(list((tmp_path / ".old").iterdir())) == 2


def test_a_reader_runs_again_though_the_run_was_stopped_in_between(tmp_path: Path) -> None:
    run_all(tmp_path, Rlff(), *three(tmp_path))
    run_all(tmp_path, Rlff(), three(tmp_path, lr=0.2)[0])
    assert run_all(tmp_path, Rlff(), *three(tmp_path, lr=0.2)) == ["second"]


def test_a_whole_chain_is_taken_from_another_run_up_to_the_first_stage_that_differs(
    tmp_path: Path,
) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    for folder in (other, run):
        folder.mkdir()
    run_all(other, Rlff(), *three(other))
    first, second, _ = three(run)
    third = plan(run, "third", {"lr": 0.3, "model": "second/output"}, first, second)
    rlff = Rlff()
    assert run_all(run, rlff, first, second, third, reuse=[other]) == ["third"]
    assert (run / "second" / "output").read_text() == "2"
    assert (run / "second" / "output").stat().st_nlink == 2


def test_a_reader_is_not_taken_from_a_run_whose_own_outputs_it_read(tmp_path: Path) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    for folder in (other, run):
        folder.mkdir()
    run_all(other, Rlff(), *three(other))
    done = read_marker(other, "first", DONE)
    run_all(run, Rlff(), three(run)[0])
    # The same stage, run another time: its outputs need not be the same to the bit.
    write_json(run / "first" / DONE, {**done, "wall_s": done["wall_s"] + 1})
    assert run_all(run, Rlff(), *three(run)[:2], reuse=[other]) == ["second"]


@pytest.mark.parametrize(
    ("verb", "checkpoint", "words", "how"),
    [
        ("fit", "checkpoints/last.ckpt", ["--ckpt_path", "last"], "goes on where it was stopped"),
        ("fit", "last-v1.ckpt", ["--ckpt_path", "last"], "goes on where it was stopped"),
        ("fit", "checkpoints/epoch=0.ckpt", [], "starts again"),
        ("fit", "last", [], "starts again"),
        ("predict", "checkpoints/last.ckpt", [], "starts again"),
    ],
)
def test_a_killed_stage_goes_on_only_from_a_last_checkpoint(
    verb: str,
    checkpoint: str,
    words: list[str],
    how: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    item = plan(tmp_path, "a", {"lr": 1}, verb=verb)
    rlff = Rlff(answer=(-9, None))
    assert StageRunner(tmp_path, rlff).run(item, "[1/1]", is_forced=False) == 1
    assert read_marker(tmp_path, "a", DONE) == {}
    assert capsys.readouterr().out == f"[1/1] a ({verb}) …\n"
    file = tmp_path / "a" / checkpoint
    file.parent.mkdir(exist_ok=True)
    file.touch()
    run_all(tmp_path, (rlff := Rlff()), item)
    assert rlff.calls == [[verb, *words]]
    assert capsys.readouterr().out.startswith(f"[1/1] a ({verb}) … {how}\n")
    assert not (tmp_path / ".old").exists()


def test_a_killed_stage_whose_config_changed_starts_anew(tmp_path: Path) -> None:
    StageRunner(tmp_path, Rlff((-9, None))).run(plan(tmp_path, "a", {"lr": 1}), "", is_forced=False)
    rlff = Rlff()
    run_all(tmp_path, rlff, plan(tmp_path, "a", {"lr": 2}))
    assert rlff.calls == [["fit"]]


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ((2, None), 2, "failed with exit status 2"),
        ((1, None), 1, "failed with exit status 1"),
        ((-9, None), 1, "failed with SIGKILL"),
    ],
)
def test_a_failure_is_one_line_with_the_log(
    answer: tuple[int, None],
    status: int,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    item = plan(tmp_path, "a", {})
    assert StageRunner(tmp_path, Rlff(answer)).run(item, "[1/1]", is_forced=False) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
    assert line.startswith("rlff: error: stage a (fit) ")
    assert line.endswith(str(tmp_path / "a" / "log.txt"))


def test_an_interrupt_ends_with_its_status_and_no_marker(tmp_path: Path) -> None:
    item = plan(tmp_path, "a", {})
    assert StageRunner(tmp_path, Rlff((1, 2))).run(item, "", is_forced=False) == 130
    assert read_marker(tmp_path, "a", DONE) == {}


def test_a_stage_does_not_run_on_what_is_missing_or_stale(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, Rlff())
    with pytest.raises(UserError, match="stage second reads first/, which is not finished"):
        runner.run(three(tmp_path)[1], "", is_forced=False)
    run_all(tmp_path, Rlff(), *three(tmp_path))
    with pytest.raises(UserError, match="reads first/, which has changed since"):
        runner.run(three(tmp_path, lr=0.2)[1], "", is_forced=False)


def test_an_input_file_outside_the_run_counts_by_its_content(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "a").mkdir(parents=True)
    (tmp_path / "corpus.json").write_text("one")
    (run / "a" / "own").write_text("one")
    config = {"path": "../corpus.json", "own": "a/own", "prompt": "x" * 5000, "none": "gone"}
    before = plan(run, "a", config)
    assert list(before.inputs) == ["../corpus.json"]
    (run / "a" / "own").write_text("two")
    assert plan(run, "a", config).fingerprint == before.fingerprint
    (tmp_path / "corpus.json").write_text("two")
    assert plan(run, "a", config).fingerprint != before.fingerprint


def test_an_input_folder_counts_by_its_files_if_an_option_names_it(tmp_path: Path) -> None:
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    (corpus / "deep").mkdir(parents=True)
    (run / "a").mkdir(parents=True)
    (corpus / "deep" / "one").write_text("1")
    (tmp_path / "output").mkdir()
    stage = Stage(name="a", verb="fit", config=Path("a.yaml"))
    config = {"data": str(corpus), "around": str(tmp_path), "own": str(run / "a")}
    argv = ["fit", *(f"--{key}={value}" for key, value in config.items())]

    def planned() -> Plan:
        return plan_stage(stage, argv, {**config, "writes": str(tmp_path / "output")}, {}, run)

    seen = [before := planned()]
    assert list(before.inputs) == [str(corpus)]
    (run / "a" / "own").write_text("a stage's own output")
    (tmp_path / "output" / "own").write_text("another")
    assert planned() == before
    (corpus / "deep" / "one").write_text("2")
    seen.append(planned())
    (corpus / "deep" / "one").rename(corpus / "deep" / "two")
    seen.append(planned())
    (corpus / "three").write_text("")
    seen.append(planned())
    assert len({each.fingerprint for each in seen}) == 4


def test_a_broken_marker_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / DONE).write_text("{")
    with pytest.raises(UserError, match=r"done\.json:1: no JSON; delete it"):
        read_marker(tmp_path, "a", DONE)


def test_a_file_that_cannot_be_written_whole_is_left_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.commands import study as study_command
from rlff_lightning.commands.markers import write_json
from rlff_lightning.commands.run_stage import StageRunner
from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import Stage
from rlff_lightning.commands.study_cell import Cell, is_finished, read_cell
from rlff_lightning.commands.study_figures import rows_of
from rlff_lightning.commands.study_file import Arm, Study, find_study, read_study
from rlff_lightning.commands.study_mixed import mixed_notes
from rlff_lightning.commands.study_table import markdown, print_study
from rlff_lightning.commands.trainer_run import resolve
from rlff_lightning.errors import UserError

SCRIPTED = "rlff_lightning.agents.scripted"
STAGE = f"""\
trainer: {{accelerator: cpu, devices: 1, logger: false, enable_progress_bar: false,
  enable_model_summary: false, default_root_dir: {{name}}}}
verbose: false
model:
  class_path: rlff_lightning.modules.goal.GoalModule
  init_args:
    policies:
      {{policy}}
    seeker: {{class_path: {SCRIPTED}.seeker.ScriptedSeeker}}
    critic: {{class_path: {SCRIPTED}.seeker.ScriptedCritic}}
    num_episodes: 40
    held_out:
      class_path: rlff_lightning.modules.goal_settings.HeldOut
      init_args:
        judge:
          class_path: {SCRIPTED}.wording_critic.WordingCritic
          init_args: {{goal: relief}}
        seekers:
          noisy:
            class_path: {SCRIPTED}.seeker.ScriptedSeeker
            init_args: {{temperament: {{noise: 0.5}}}}
"""
OPTIMUM = f"optimum: {{class_path: {SCRIPTED}.supporter.OptimalSupporter}}"
OWN = f"""\
own:
        class_path: {SCRIPTED}.supporter.MixedSupporter
        init_args: {{skill: 0.9, haste: 0.0}}"""
STUDY = """\
pipeline: .
policy: own
references: [optimum]
baseline: skilled
seeds: [3]
arms:
  skilled: {}
  hasty: {evaluate.model.init_args.policies.own.init_args.haste: 1.0}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    for file, name, policy in (
        ("1_references.test.yaml", "references", OPTIMUM),
        ("2_evaluate.test.yaml", "evaluate", OWN),
    ):
        stage = STAGE.replace("{name}", name).replace("{policy}", policy)
        (folder / file).write_text(stage)
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.mark.timeout(900)
def test_a_study_goes_on_where_it_was_and_runs_what_arms_share_only_once(
    toy: Path, rlff: Callable[..., Any]
) -> None:
    # First one arm, as if the rest had been stopped.
    first = rlff("study", "toy", "--run", "out", "--arms", "skilled")
    assert first.returncode == 0, first.stdout + first.stderr
    out = toy.parent / "out"
    assert "1 runs are missing" in (out / "table.md").read_text()
    stamp = (out / "skilled/seed-3/evaluate/done.json").read_bytes()
    whole = rlff("study", "toy", "--run", "out")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert whole.stdout.count("skipped") == 2
    assert whole.stdout.count("taken from there") == 1
    assert (out / "skilled/seed-3/evaluate/done.json").read_bytes() == stamp
    lines = list(csv.DictReader((out / "table.csv").open()))
    *of_arms, of_optimum = lines
    assert [(line["arm"], line["seed"]) for line in of_arms] == [("skilled", "3"), ("hasty", "3")]
    assert (of_optimum["arm"], of_optimum["seed"], of_optimum["wall_s"]) == ("optimum", "3", "")
    for line in of_arms:
        summary = json.loads((out / line["arm"] / "seed-3" / "summary.json").read_text())
        assert float(line["success_rate"]) == summary["policies"]["own"]["success_rate"]
    study = json.loads((out / "study.json").read_text())
    rows = {row["name"]: row for row in study["rows"]}
    other = summary["held_out"]["people"]
    assert rows["hasty"]["held_out"] == {
        "noisy": other["noisy"]["own"]["first_judge"]["success_rate"],
        "seeker, second judge": other["seeker"]["own"]["second_judge"]["success_rate"],
        "noisy, second judge": other["noisy"]["own"]["second_judge"]["success_rate"],
    }
    agreed = other["noisy"]["own"]["agreement"]
    for name in ("difference", "kappa_success", "kappa_outcome"):
        assert rows["hasty"]["agreement"].get(f"noisy/{name}") == agreed[name]
    second = summary["held_out"]["judge"]
    for text in (study["second_judge"], of_optimum["judge_2"], (out / "table.md").read_text()):
        assert f"{second['name']} #{second['hash']}" in text
    assert summary["judge"]["hash"] in of_optimum["judge"]
    assert float(lines[1]["held_out/noisy"]) == rows["hasty"]["held_out"]["noisy"]
    assert rows["optimum"]["held_out"].keys() == rows["hasty"]["held_out"].keys()
    assert rows["optimum"]["rate"] > rows["skilled"]["rate"] > rows["hasty"]["rate"]
    assert rows["hasty"]["p_episodes"] < 0.001
    table = (out / "table.md").read_text()
    (out / "table.md").unlink()
    # A run without its last stage is missing in a table of what is finished.
    (out / "skilled/seed-3/evaluate/done.json").rename(out / "kept.json")
    partly = rlff("study", "toy", "--run", "out", "--table")
    assert partly.returncode == 0, partly.stdout + partly.stderr
    assert "1 runs are missing" in (out / "table.md").read_text()
    (out / "kept.json").rename(out / "skilled/seed-3/evaluate/done.json")
    again = rlff("study", "toy", "--run", "out", "--table")
    assert again.returncode == 0
    assert (out / "table.md").read_text() == table
    assert "== hasty" not in again.stdout
    assert summary["judge"]["hash"] in table
    # References and arms: rates, rates held out, and the agreement of both groups of people.
    assert table.count("| `") == 3 + 3 + 2 * 3


STUDY_OF_TWO = Study(
    name="two",
    pipeline=Path(),
    stages=(),
    policy="own",
    references=("optimum",),
    baseline="a",
    seeds=(0, 1, 2),
    arms=(Arm(name="a", changes=()), Arm(name="b", changes=()), Arm(name="c", changes=())),
)


def cell(arm: str, seed: int, rate: float, solved: str, judge: str = "j") -> Cell:
    return Cell(
        arm=arm,
        seed=seed,
        figures={"success_rate": rate, "average_turns": 4.0, "ci95": [0, 1]},
        references={"optimum": {"success_rate": 1.0, "average_turns": 3.0}},
        terms={"judge": judge, "second judge": "", "protocol": "episodes 4"},
        wall_s=1.0,
        is_success={str(n): mark == "x" for n, mark in enumerate(solved)},
    )


def test_arms_are_compared_by_seed_and_by_episode() -> None:
    cells = [cell("a", seed, 0.5, "xx--") for seed in range(3)]
    cells += [cell("b", seed, rate, "x-xx") for seed, rate in enumerate((0.6, 0.7, 0.8))]
    cells += [cell("c", seed, 0.75, "xx-x") for seed in range(3)]
    optimum, base, better, constant = rows_of(STUDY_OF_TWO, cells)
    assert (optimum.name, optimum.rates) == ("optimum", (1.0, 1.0, 1.0))
    assert base.difference is None
    # Differences .1, .2, .3: mean .2, s .1, reach 4.30265 * .1 / sqrt(3) = .24841;
    # t = .2 / (.1 / sqrt(3)) = 3.4641 at 2 degrees: p = .0742.
    # What does not vary over three seeds is not known exactly: no interval.
    assert (better.turns, better.turns_interval, base.rate_interval) == (4.0, None, None)
    assert "| 4.00 |" in markdown(STUDY_OF_TWO, cells, [better])
    assert better.difference == pytest.approx(0.2)
    assert better.difference_interval == pytest.approx((0.2 - 0.24841, 0.2 + 0.24841), abs=1e-4)
    assert better.p_seeds == pytest.approx(0.0742, abs=1e-4)
    # Per seed two episodes only by b and one only by a: 6 against 3 of 9 discordant.
    # P(X <= 3) for 9 coins = (1 + 9 + 36 + 84) / 512 = .25391, twice that.
    assert better.p_episodes == pytest.approx(0.50781, abs=1e-4)
    # Three equal differences have no spread to test with, and are a comparison all the same.
    assert (constant.p_seeds, constant.difference_interval) == (None, None)
    assert better.p_holm == pytest.approx(2 * 0.0742, abs=2e-4)
    # Three discordant episodes, all one way: 2 / 8.
    assert constant.p_episodes == pytest.approx(0.25)


def test_episodes_that_lie_nowhere_are_no_agreement() -> None:
    cells = [cell("a", 0, 0.5, "x-"), cell("b", 0, 0.5, "x-"), cell("c", 0, 0.5, "")]
    _, _, same, gone = rows_of(STUDY_OF_TWO, cells)
    assert (same.p_episodes, gone.p_episodes) == (1.0, None)
    message = r"arm b must have met the same people as a under seed 0, got 2 in common of 3 and 2"
    with pytest.raises(UserError, match=message):
        rows_of(STUDY_OF_TWO, [cells[0], cell("b", 0, 0.5, "x-x")])


def test_equal_differences_have_no_spread_whatever_their_rounding() -> None:
    # .6 - .5 and .8 - .7 differ in the last bits.
    cells = [cell("a", seed, rate, "x") for seed, rate in enumerate((0.5, 0.7))]
    cells += [cell("b", seed, rate, "x") for seed, rate in enumerate((0.6, 0.8))]
    row = rows_of(STUDY_OF_TWO, cells)[2]
    assert (row.difference, row.p_seeds) == (0.1, None)
    assert row.difference_interval is None


def test_three_seeds_are_printed_whole_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    # The longest name of the shipped study.
    long = "dataset_contexts"
    study = replace(STUDY_OF_TWO, arms=(*STUDY_OF_TWO.arms[:1], Arm(name=long, changes=())))
    cells = [cell("a", seed, 0.5 + seed / 10, "xx--") for seed in range(3)]
    cells += [cell(long, seed, 0.99 - seed / 3, "x-xx") for seed in range(3)]
    print_study(study, cells, rows_of(study, cells))
    shown = capsys.readouterr().out
    table = shown.partition("Judged by")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert "\u2026" not in shown
    # The means over seeds .5, .6, .7 and .99, .657, .323.
    [first] = [line.split() for line in table if "baseline" in line and "0.600" in line]
    assert first == ["a", "0.600", "0.500", "4.00", "baseline"]
    [row] = [line.split() for line in table if long in line]
    # Paired differences .49, .057, -.377: mean .057. Of 9 that differ 6 are solved by one alone:
    # twice (84 + 36 + 9 + 1) of 512.
    assert row[1:5] == ["0.657", "0.990", "4.00", "0.057"]
    assert row[-1] == "0.508"


def test_holm_multiplies_the_smallest_p_by_the_number_of_arms() -> None:
    cells = [cell("a", seed, 0.5, "x") for seed in range(3)]
    cells += [cell("b", seed, rate, "x") for seed, rate in enumerate((0.6, 0.7, 0.8))]
    cells += [cell("c", seed, rate, "x") for seed, rate in enumerate((0.6, 0.9, 0.61))]
    _, _, b, c = rows_of(STUDY_OF_TWO, cells)
    assert b.p_seeds is not None
    assert c.p_seeds is not None
    assert b.p_seeds < c.p_seeds
    assert b.p_holm == pytest.approx(2 * b.p_seeds)
    assert c.p_holm == pytest.approx(max(c.p_seeds, 2 * b.p_seeds))


def test_a_single_seed_has_no_interval_and_no_test_over_seeds() -> None:
    rows = rows_of(STUDY_OF_TWO, [cell("a", 0, 0.5, "x-"), cell("b", 0, 1.0, "xx")])
    assert [row.rate_interval for row in rows] == [None, None, None]
    assert rows[2].p_seeds is None
    assert rows[2].difference == 0.5


@pytest.mark.parametrize("term", ["judge", "second judge", "protocol"])
def test_runs_under_different_terms_are_not_compared(term: str) -> None:
    cells = [cell("a", 0, 0.5, "x"), cell("b", 1, 0.5, "x")]
    cells[1] = replace(cells[1], terms={**cells[1].terms, term: "other"})
    message = rf"must have one {term}, got .+ in a/seed-0 and other in b/seed-1"
    with pytest.raises(UserError, match=message):
        rows_of(STUDY_OF_TWO, cells)


def test_a_rate_held_out_under_some_seeds_only_has_no_mean_over_seeds() -> None:
    cells = [cell("a", seed, 0.5, "x") for seed in range(2)]
    cells[0] = replace(cells[0], figures={**cells[0].figures, "held_out/noisy": 0.25})
    assert rows_of(STUDY_OF_TWO, cells[:1])[1].held_out == {"noisy": 0.25}
    for order in (cells, cells[::-1]):
        assert rows_of(STUDY_OF_TWO, order)[1].held_out == {}


def test_what_is_held_out_has_its_interval_and_the_agreement_of_the_judges() -> None:
    cells = []
    for seed, (rate, kappa) in enumerate(((0.5, 0.9), (0.6, None), (0.7, 0.5))):
        own = cell("a", seed, 0.5, "x")
        told = {"held_out/noisy": rate, "agreement/noisy/difference": rate - 0.5}
        told |= {"agreement/noisy/kappa_success": kappa, "agreement/noisy/kappa_outcome": 0.75}
        cells.append(replace(own, figures={**own.figures, **told}))
    row = rows_of(STUDY_OF_TWO, cells)[1]
    # s .1 at 2 degrees: reach .24841, as above.
    assert row.held_out_intervals["noisy"] == pytest.approx(
        (0.6 - 0.24841, 0.6 + 0.24841), abs=1e-4
    )
    shown = markdown(STUDY_OF_TWO, cells, [row])
    assert "| `a` | 0.600 (0.352 to 0.848) |" in shown
    # A kappa that is undefined under one seed has no mean over seeds.
    assert "| `a` | noisy | 0.100 (-0.148 to 0.348) |  | 0.750 |" in shown


def marked(cell: Cell, fingerprint: str, reads: str = "r", version: str = "1") -> Cell:
    marker = {"fingerprint": fingerprint, "reads": {"first": reads}, "version": version}
    return replace(cell, markers={"second": marker})


def test_runs_of_different_versions_or_configs_are_told_apart_in_the_table() -> None:
    stage = Stage(name="second", verb="test", config=Path())
    changed = Arm(name="c", changes=("second.model.x=1",))
    study = replace(STUDY_OF_TWO, stages=(stage,), arms=(*STUDY_OF_TWO.arms[:2], changed))
    a, b, c = (cell(arm, 0, 0.5, "x") for arm in "abc")
    fine = [marked(a, "f"), marked(b, "f"), marked(c, "g"), marked(cell("a", 1, 0.5, "x"), "h")]
    assert mixed_notes(study, fine) == []
    assert mixed_notes(study, [marked(a, "f"), marked(b, "other", reads="other")]) == []
    [note] = mixed_notes(study, [marked(a, "f"), marked(b, "other")])
    assert "do not change second have other configs" in note
    [note] = mixed_notes(study, [marked(a, "f"), marked(b, "f", version="2")])
    assert "several versions of the package: 1, 2" in note
    cells = [marked(a, "f"), marked(b, "f", version="2")]
    assert note in markdown(study, cells, rows_of(study, cells))


def test_a_run_whose_earlier_stage_was_made_anew_is_not_finished(tmp_path: Path) -> None:
    stages = [Stage(name=name, verb="test", config=Path()) for name in ("first", "second")]
    for name, marker in (("first", {"fingerprint": "f"}), ("second", {"reads": {"first": "f"}})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "done.json", marker)
    assert is_finished(tmp_path, stages)
    write_json(tmp_path / "first" / "done.json", {"fingerprint": "g"})
    assert not is_finished(tmp_path, stages)
    (tmp_path / "first" / "done.json").unlink()
    assert not is_finished(tmp_path, stages)
    (tmp_path / "first").rmdir()
    assert is_finished(tmp_path, stages)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("policy: own", "polcy: own", "did you mean policy"),
        ("seeds: [3]", "seeds: [3, 3]", "different whole numbers"),
        ("references: [optimum]", "references: optimum", "references must be a list of names"),
        ("seeds: [3]", "seeds: []", "seeds must be a list"),
        ("baseline: skilled", "baseline: none", "baseline must be one of"),
        ("hasty: {evaluate.", "hasty: {nowhere.", "must be STAGE.KEY"),
        ("hasty:", "'has/ty':", "letters"),
        ("hasty: {", "hasty: [{", "no YAML"),
        ("hasty: {", "hasty: \udcff{", "no YAML: 'utf-8' codec"),
    ],
)
def test_a_mistake_in_a_study_is_told_with_its_place(
    toy: Path, old: str, new: str, expected: str
) -> None:
    (toy / "study.yaml").write_text(STUDY.replace(old, new), errors="surrogateescape")
    with pytest.raises(UserError, match=expected) as caught:
        read_study(find_study(str(toy)))
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def finish(folder: Path, arm: str, seed: int) -> Path:
    """Write what a run leaves behind."""
    run = folder / arm / f"seed-{seed}"
    (run / "evaluate").mkdir(parents=True)
    row = {"success_rate": 0.5, "average_turns": 4.0, "ci95": [0, 1]}
    policies = {"own": row, "optimum": row}
    write_json(run / "summary.json", {"policies": policies, "wall_s": 1.0})
    write_json(run / "evaluate" / "done.json", {"fingerprint": f"{seed}", "reads": {}})
    return run


def test_a_table_holds_what_other_commands_have_run(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = toy.parent / "out"
    finish(out, "skilled", 3)
    finish(out, "skilled", 4)
    monkeypatch.setattr(
        study_command,
        "_run",
        lambda folder, _, arm, seed, __: (finish(folder, arm.name, seed) and 0, None),
    )

    def tabled(*words: str) -> list[tuple[str, str]]:
        assert study_command.main([str(toy), "--run", str(out), *words]) == 0
        lines = csv.DictReader((out / "table.csv").open())
        return [(line["arm"], line["seed"]) for line in lines if line["arm"] != "optimum"]

    everything = [("skilled", "3"), ("skilled", "4"), ("hasty", "5")]
    assert tabled("--arms", "hasty", "--seeds", "5") == everything
    assert "seeds 3, 4, 5; **3 runs are missing**" in (out / "table.md").read_text()
    assert tabled("--table") == everything
    assert tabled("--table", "--arms", "skilled", "--seeds", "4") == [("skilled", "4")]


def test_a_damaged_result_is_named(toy: Path) -> None:
    study, run = read_study(find_study(str(toy))), toy.parent / "run"
    (run / "evaluate" / "episodes").mkdir(parents=True)
    (run / "summary.json").write_text("{\n")
    with pytest.raises(UserError, match=r"run/summary.json:2: no JSON"):
        read_cell(run, study, "skilled", 3)
    (run / "summary.json").write_text('{"policies": {"own": {}, "optimum": {}}}')
    (run / "evaluate" / "episodes" / "own-0.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"own-0.jsonl:1: no JSON"):
        read_cell(run, study, "skilled", 3)


@pytest.mark.parametrize("policy", ["own[1]", "org/own[1]"])
def test_episodes_of_a_policy_whose_name_only_begins_alike_are_not_taken(
    toy: Path, policy: str
) -> None:
    study, run = read_study(find_study(str(toy))), toy.parent / "run"
    study = replace(study, policy=policy, references=())
    folder = (run / "evaluate" / "episodes" / policy).parent
    folder.mkdir(parents=True)
    row = {"success_rate": 0.5, "average_turns": 4.0, "ci95": [0, 1]}
    (run / "summary.json").write_text(json.dumps({"policies": {policy: row}}))
    for name in ("own[1]-0", "own[1]-1", "own[1]-7b-0", "own1-0", "own[1]--worst-0"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": name, "is_success": True}) + "\n")
    assert sorted(read_cell(run, study, "skilled", 3).is_success) == ["own[1]-0", "own[1]-1"]


def test_a_changed_key_that_no_stage_has_is_told_before_anything_runs(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "study.yaml").write_text(STUDY.replace("init_args.haste", "init_args.hastte"))
    monkeypatch.chdir(toy.parent)
    with pytest.raises(UserError, match=r"arm hasty, stage evaluate: .*haste"):
        study_command.main(["toy"])
    assert not (toy.parent / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "words", "expected"),
    [
        ("policy: own", "policy: onw", [], "policy must be among own, got onw"),
        ("[optimum]", "[optimun]", [], "references must be among optimum, own, got optimun"),
        ("", "", ["--seeds", "1", "1"], r"--seeds must be different, got \[1, 1\]"),
        ("", "", ["--overlai", "x"], "unknown argument --overlai; did you mean --overlay"),
    ],
)
def test_a_name_that_no_stage_knows_is_told_before_anything_runs(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    words: list[str],
    expected: str,
) -> None:
    (toy / "study.yaml").write_text(STUDY.replace(old, new))
    monkeypatch.chdir(toy.parent)
    with pytest.raises(UserError, match=expected):
        study_command.main(["toy", *words])
    assert not (toy.parent / "runs").exists()


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shipped study \(scripted\)"):
        find_study(str(tmp_path))


def test_every_change_of_the_shipped_study_is_a_key_that_the_stage_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(find_study("scripted"))
    assert study.pipeline == config_folder() / "study" / "scripted"
    stages = {stage.name: stage for stage in study.stages}
    plain = {
        name: resolve([stage.verb, "--config", str(stage.config)])["model"]
        for name, stage in stages.items()
    }
    for arm in study.arms:
        for name in {change.partition(".")[0] for change in arm.changes}:
            own = [c.partition(".")[2] for c in arm.changes if c.startswith(f"{name}.")]
            stage = stages[name]
            words = [f"--{change}" for change in own]
            changed = resolve([stage.verb, "--config", str(stage.config), *words])
            is_data = any(change.startswith("data.") for change in own)
            assert (changed["model"] != plain[name]) != is_data


def test_a_stage_is_taken_from_another_run_only_with_the_same_fingerprint(tmp_path: Path) -> None:
    from rlff_lightning.commands.markers import Plan

    launched = []

    def launch(argv: list[str], log: Path) -> tuple[int, int | None]:
        launched.append(argv)
        (log.parent / "result.txt").write_text("mine")
        return 0, None

    def plan(fingerprint: str) -> Plan:
        stage = Stage(name="first", verb="fit", config=Path("x.yaml"))
        return Plan(
            stage=stage, argv=("fit",), reads={}, needs=(), inputs={}, fingerprint=fingerprint
        )

    for run in ("one", "two"):
        (tmp_path / run).mkdir()
    StageRunner(tmp_path / "one", launch).run(plan("same"), "[1/1]", is_forced=False)
    reusing = StageRunner(tmp_path / "two", launch, [tmp_path / "one"])
    assert reusing.run(plan("same"), "[1/1]", is_forced=False) == 0
    assert len(launched) == 1
    assert (tmp_path / "two" / "first" / "result.txt").read_text() == "mine"
    assert reusing.run(plan("other"), "[1/1]", is_forced=False) == 0
    assert len(launched) == 2

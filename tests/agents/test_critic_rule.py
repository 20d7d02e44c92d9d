import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.critic_rule import PRESETS, CriticRule, critic_rule
from rlff_lightning.errors import UserError

WORSE, SAME, BETTER, SOLVED = PRESETS["ppdpp"].options


def test_value_is_the_mean_of_the_parsed_answers() -> None:
    # (-1 - 0.5 + 0.5 + 1 + 1) / 5 = 0.2; "Maybe" is left out
    answers = [WORSE, SAME, BETTER, SOLVED, SOLVED, "Maybe"]
    assert PRESETS["ppdpp"].value_of(answers) == pytest.approx(0.2)


def test_ten_times_better_is_no_success_and_one_solved_among_them_is() -> None:
    rule = PRESETS["ppdpp"]
    assert not rule.succeeds([BETTER] * 10)
    assert rule.succeeds([BETTER] * 9 + [SOLVED])


@given(st.lists(st.sampled_from([WORSE, SAME, BETTER, SOLVED]), min_size=10, max_size=10))
def test_ppdpp_succeeds_exactly_if_solved_outweighs_same_and_worse(answers: list[str]) -> None:
    # mean > 0.5 with ten answers: #solved > 2 * #same + 3 * #worse
    counts = [answers.count(option) for option in (WORSE, SAME, SOLVED)]
    expected = counts[2] > 2 * counts[1] + 3 * counts[0]
    assert PRESETS["ppdpp"].succeeds(answers) == expected
    assert PRESETS["default"].succeeds(answers) == expected
    assert not PRESETS["default"].is_tie(PRESETS["default"].value_of(answers))


def test_comparators_part_on_a_tie() -> None:
    tie = [BETTER] * 10
    assert not PRESETS["ppdpp"].succeeds(tie)
    assert PRESETS["dialogxpert"].succeeds(tie)
    assert not PRESETS["dpdp"].succeeds(tie)
    assert PRESETS["dpdp-geq"].succeeds(tie)
    assert all(PRESETS[name].is_tie(PRESETS[name].value_of(tie)) for name in ("ppdpp", "dpdp"))


def test_nothing_parsed_is_no_success_even_below_zero() -> None:
    rule = CriticRule(name="lenient", threshold=-0.5)
    verdict = rule.verdict(["Maybe", "Who knows"])
    assert (verdict.value, verdict.outcome, verdict.is_success) == (0.0, "unparsed", False)
    assert verdict.answers == ("unparsed", "unparsed")
    assert rule.verdict([]).outcome == "unparsed"


def test_the_verdict_is_the_most_frequent_outcome_and_the_worse_among_equals() -> None:
    rule = PRESETS["default"]
    assert rule.verdict([BETTER, BETTER, SAME, "?", "?", "?"]).outcome == "better"
    assert rule.verdict([BETTER, SAME]).outcome == "same"


def test_presets_are_as_published() -> None:
    better = {name: rule.values[2] for name, rule in PRESETS.items()}
    assert better == {
        "ppdpp": 0.5,
        "dpdp": 0.1,
        "dpdp-geq": 0.1,
        "dialogxpert": 0.5,
        "default": 0.5,
    }
    assert [rule.parser for rule in PRESETS.values()] == ["substring"] * 4 + ["negation-aware"]
    assert all((rule.samples, rule.max_turns) == (10, 8) for rule in PRESETS.values())


def test_the_digest_changes_with_every_field_but_the_name() -> None:
    rule = PRESETS["default"]
    assert rule.digest == dataclasses.replace(rule, name="renamed").digest
    changes: dict[str, object] = {
        "order": ("same", "worse", "better", "solved"),
        "values": (-1.0, -0.5, 0.25, 1.0),
        "comparator": ">=",
        "threshold": 0.6,
        "tolerance": 0.0,
        "parser": "substring",
        "samples": 5,
        "temperature": 0.5,
        "max_turns": 6,
    }
    changes["options"] = (SAME, WORSE, BETTER, SOLVED)
    digests = {rule.digest}
    for field, value in changes.items():
        change: dict[str, object] = {field: value}
        if field in ("order", "options"):
            change = {"order": changes["order"], "options": changes["options"]}
        digests.add(dataclasses.replace(rule, **change).digest)
    assert len(digests) == 1 + len(changes) - 1


def test_the_digest_is_the_same_on_every_machine() -> None:
    assert len({rule.digest for rule in PRESETS.values()}) == len(PRESETS)
    assert PRESETS["ppdpp"].digest == "08e799ca1c3e"
    assert PRESETS["ppdpp"].label == "ppdpp/substring 08e799ca1c3e"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", ("worse", "worse", "better", "solved")),
        ("order", ("awful", "same", "better", "solved")),
        ("values", (1.0,)),
        ("values", (-2.0, -0.5, 0.5, 1.0)),
        ("options", (SAME, WORSE, BETTER, SOLVED)),
        ("comparator", "<"),
        ("parser", "regex"),
        ("samples", 0),
        ("max_turns", 0),
        ("temperature", -1.0),
        ("tolerance", float("nan")),
    ],
)
def test_a_rule_that_cannot_judge_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"CriticRule.{field} must be"):
        CriticRule(name="x", **{field: value})


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    assert critic_rule("dpdp") is PRESETS["dpdp"]
    with pytest.raises(UserError, match="ppdpp, dpdp, dpdp-geq, dialogxpert, default, got 'gpt'"):
        critic_rule("gpt")

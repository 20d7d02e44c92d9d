import dataclasses
from pathlib import Path

import pytest

from rlff_lightning.agents.critic_audit import audit_rule
from rlff_lightning.agents.critic_rule import PRESETS
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
WORSE, SAME, BETTER, SOLVED = PRESETS["ppdpp"].options


def test_an_episode_ends_at_its_first_success_and_a_failure_counts_as_the_cap() -> None:
    solved_second = [(SAME, SAME), (SOLVED, BETTER), (WORSE, WORSE)]
    audit = audit_rule(PRESETS["ppdpp"], [solved_second, [(SAME, "Maybe")]])
    assert (audit.episodes, audit.successes, audit.success_rate) == (2, 1, 0.5)
    assert audit.average_turns == 5.0  # (2 + 8) / 2
    # turn means -0.5, 0.75, -1 and -0.5
    assert audit.mean_value == pytest.approx(-1.25 / 4)
    assert audit.outcome_shares == {
        "worse": 2 / 8,
        "same": 3 / 8,
        "better": 1 / 8,
        "solved": 1 / 8,
        "unparsed": 1 / 8,
    }


def test_success_after_the_cap_does_not_count() -> None:
    rule = dataclasses.replace(PRESETS["ppdpp"], max_turns=2)
    audit = audit_rule(rule, [[(SAME,), (SAME,), (SOLVED,)]])
    assert (audit.successes, audit.average_turns) == (0, 2.0)
    assert audit.outcome_shares["solved"] == 0.0


def test_ties_are_counted_both_ways() -> None:
    # The first hangs on a tie altogether, the second only in its turn, the third not at all.
    courses = [[(BETTER,)], [(BETTER,), (SOLVED,)], [(SOLVED,)]]
    for name in ("ppdpp", "dialogxpert"):
        ties = audit_rule(PRESETS[name], courses).ties
        assert ties.episodes == 2
        assert ties.success_rate_if_failure == pytest.approx(2 / 3)
        assert ties.success_rate_if_success == 1.0
    assert audit_rule(PRESETS["default"], courses).ties.episodes == 0


def test_the_interval_is_wilsons() -> None:
    # Wilson for 1 of 1: (1 + z^2/2 -+ z^2/2) / (1 + z^2), z = 1.96: low = 1 / 4.8415
    low, high = audit_rule(PRESETS["ppdpp"], [[(SOLVED,)]]).interval
    assert low == pytest.approx(1 / 4.8415, abs=1e-4)
    assert high == 1.0


@pytest.mark.parametrize("courses", [[], [[]]])
def test_a_conversation_without_answers_is_refused(courses: list) -> None:
    with pytest.raises(UserError, match="judged turn"):
        audit_rule(PRESETS["ppdpp"], courses)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data are not at hand")
@pytest.mark.parametrize(
    ("preset", "parser", "success_rate", "average_turns"),
    [
        ("ppdpp", "substring", 0.215, 7.72),
        ("ppdpp", "negation-aware", 0.169, 7.78),
        ("dpdp", "substring", 0.431, 6.91),
        ("dpdp", "negation-aware", 0.323, 7.32),
        ("dialogxpert", "substring", 0.769, 5.20),
        ("dialogxpert", "negation-aware", 0.754, 5.20),
        ("dpdp-geq", "substring", 0.815, 4.72),
        ("dpdp-geq", "negation-aware", 0.785, 4.95),
        ("default", "negation-aware", 0.169, 7.78),
    ],
)
def test_published_answers_give_the_rates_that_were_measured(
    preset: str, parser: str, success_rate: float, average_turns: float
) -> None:
    dialogues = read_dialogues(DATA / "esconv" / "dpdp-critic-65.jsonl")
    courses = [[m.critic_answers for m in d.messages if m.critic_answers] for d in dialogues]
    audit = audit_rule(dataclasses.replace(PRESETS[preset], parser=parser), courses)
    assert round(audit.success_rate, 3) == success_rate
    assert round(audit.average_turns, 2) == average_turns

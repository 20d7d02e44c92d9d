"""The success rate of saved critic answers under a rule, and how much of it hangs on ties."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlff_lightning.agents.critic_rule import CriticRule
from rlff_lightning.errors import UserError
from rlff_lightning.functional.intervals import Interval, mean_interval, wilson_interval
from rlff_lightning.types import Outcome, Verdict

Course = Sequence[tuple[str, ...]]
"""Raw critic answers of each judged seeker turn of one conversation, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TieEffect:
    """What changes when a mean value that lies on the threshold counts otherwise."""

    episodes: int
    """Episodes whose success, or its turn, changes."""
    success_rate_if_failure: float
    """Share solved if a tie is not yet a success."""
    success_rate_if_success: float
    """Share solved if a tie is a success."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleAudit:
    """Goal completion under one rule."""

    rule: CriticRule
    """The judge."""
    episodes: int
    """Conversations judged."""
    successes: int
    """Of them, solved within ``rule.max_turns`` judged turns."""
    success_rate: float
    """Share solved."""
    interval: Interval
    """Wilson interval of that share, 95 %."""
    average_turns: float
    """Mean turn of the success; a failure counts as ``rule.max_turns``."""
    turns_interval: Interval | None
    """Student's t interval of that mean, 95 %, within 1 and the cap; None if no turn differs."""
    mean_value: float
    """Mean critic value of the judged turns within ``rule.max_turns``."""
    outcome_shares: dict[Outcome, float]
    """Share of each outcome among the answers on those turns; includes ``unparsed``."""
    ties: TieEffect
    """What hangs on ties."""


def audit_rule(rule: CriticRule, courses: Sequence[Course]) -> RuleAudit:
    """Judge saved answers by a rule, as if each conversation had ended at its first success.

    Args:
        rule: The judge; only its first ``max_turns`` turns of a conversation count.
        courses: Raw answers by conversation and judged turn.

    Returns:
        Rates, turns and shares over all conversations.

    Raises:
        UserError: If there is no conversation, or one without a judged turn.
    """
    if not courses or not all(courses):
        raise UserError("audit_rule.courses must hold conversations with a judged turn, got none")
    verdicts = [
        [rule.verdict(answers) for answers in course[: rule.max_turns]] for course in courses
    ]
    ends = [_first([verdict.is_success for verdict in course]) for course in verdicts]
    values = [[verdict.value for verdict in course] for course in verdicts]
    turns = [end or rule.max_turns for end in ends]
    low, high = mean_interval(turns)
    successes = sum(end is not None for end in ends)
    outcomes = Counter(o for course in verdicts for verdict in course for o in verdict.answers)
    return RuleAudit(
        rule=rule,
        episodes=len(courses),
        successes=successes,
        success_rate=successes / len(courses),
        interval=wilson_interval(successes, len(courses)),
        average_turns=sum(turns) / len(courses),
        turns_interval=(
            Interval(max(low, 1.0), min(high, float(rule.max_turns))) if low < high else None
        ),
        mean_value=sum(map(sum, values)) / sum(map(len, values)),
        outcome_shares={o: outcomes[o] / outcomes.total() for o in (*rule.order, "unparsed")},
        ties=_tie_effect(rule, verdicts),
    )


def _tie_effect(rule: CriticRule, verdicts: Sequence[Sequence[Verdict]]) -> TieEffect:
    def ends(*, tie_succeeds: bool) -> list[int | None]:
        return [
            _first([clears(verdict, tie_succeeds) for verdict in course]) for course in verdicts
        ]

    def clears(verdict: Verdict, tie_succeeds: bool) -> bool:
        if verdict.outcome == "unparsed":
            return False
        return tie_succeeds if rule.is_tie(verdict.value) else verdict.value > rule.threshold

    failing, passing = ends(tie_succeeds=False), ends(tie_succeeds=True)
    return TieEffect(
        episodes=sum(one != other for one, other in zip(failing, passing, strict=True)),
        success_rate_if_failure=sum(end is not None for end in failing) / len(verdicts),
        success_rate_if_success=sum(end is not None for end in passing) / len(verdicts),
    )


def _first(flags: Sequence[bool]) -> int | None:
    """Number of the first turn that succeeds, from 1."""
    return flags.index(True) + 1 if True in flags else None

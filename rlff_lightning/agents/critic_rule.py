"""The judge as an object: a success rate is a property of this rule, so every rate names it."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rlff_lightning.agents.critic_parsers import Parser, parse_negation_aware, parse_substring
from rlff_lightning.errors import UserError
from rlff_lightning.types import Outcome, Verdict

_JUDGEABLE: tuple[Outcome, ...] = ("worse", "same", "better", "solved")


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticRule:
    """How a critic is asked, how its answers are read, and when the goal is reached.

    Success: mean > threshold + tolerance, or mean >= threshold - tolerance.

    Args:
        name: What results call the rule.
        order: Outcomes in the order in which they are offered and searched for.
        options: The sentence offered for each outcome of ``order``.
        values: Value of each outcome of ``order``, in [-1, 1].
        comparator: How the mean value is compared with the threshold.
        threshold: Mean value that is, or is not yet, a success.
        tolerance: Slack of the comparison against rounding.
        parser: How an answer is read.
        samples: Answers asked for per seeker turn.
        temperature: Of the sampled answers.
        max_turns: Supporter turns of an episode; a failure counts as this many.

    Source: Deng et al. 2024, PPDPP, arXiv:2311.00262 (the protocol).
    """

    name: str
    order: tuple[Outcome, ...] = _JUDGEABLE
    options: tuple[str, ...] = (
        "No, the seeker feels worse than before.",
        "No, the seeker feels the same as before.",
        "No, but the seeker feels better than before.",
        "Yes, the seeker's problem is solved.",
    )
    values: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    comparator: Literal[">", ">="] = ">"
    threshold: float = 0.5
    tolerance: float = 1e-9
    parser: Parser = "negation-aware"
    samples: int = 10
    temperature: float = 1.0
    max_turns: int = 8

    def parse(self, answer: str) -> Outcome:
        """Read one answer."""
        if self.parser == "substring":
            return parse_substring(answer, self.order)
        return parse_negation_aware(answer, self.order)

    def value(self, outcomes: Sequence[Outcome]) -> float:
        """Average the values of the parsed outcomes; none parsed gives 0."""
        values = [
            self.values[self.order.index(outcome)] for outcome in outcomes if outcome in self.order
        ]
        if not values:
            return 0.0
        # Not `sum`, which rounds better from Python 3.12 on: ten times 0.1 is 0.9999999999999999
        # here, as in the runs that published the rate of `dpdp`, which hangs on that bit.
        total = 0.0
        for value in values:
            total += value
        return total / len(values)

    def value_of(self, answers: Sequence[str]) -> float:
        """Average the values of raw answers; unparsed ones are left out, none parsed gives 0."""
        return self.value([self.parse(answer) for answer in answers])

    def reaches_goal(self, value: float) -> bool:
        """Compare a mean value with the threshold."""
        if self.comparator == ">":
            return value > self.threshold + self.tolerance
        return value >= self.threshold - self.tolerance

    def is_tie(self, value: float) -> bool:
        """Tell whether a mean value lies on the threshold, so that the comparator decides."""
        return abs(value - self.threshold) <= max(self.tolerance, 1e-9)

    def verdict(self, answers: Sequence[str]) -> Verdict:
        """Judge a seeker turn from raw answers.

        The verdict's outcome is the most frequent one, the earlier of ``order`` among equals;
        without a parsed answer it is ``unparsed``, never a success.
        """
        outcomes = tuple(self.parse(answer) for answer in answers)
        value = self.value(outcomes)
        counts: Counter[Outcome] = Counter(outcome for outcome in outcomes if outcome != "unparsed")
        return Verdict(
            value=value,
            outcome=max(self.order, key=lambda o: counts[o]) if counts else "unparsed",
            is_success=bool(counts) and self.reaches_goal(value),
            answers=outcomes,
        )

    def expected_verdict(self, logps: Sequence[float]) -> Verdict:
        """Judge a seeker turn from the options' log-probabilities: nothing sampled or unparsed.

        value = sum_o p_o v_o,  p_o = exp(logp_o) / sum_o' exp(logp_o')

        Args:
            logps: Log-probability of each option of ``options`` in nats, up to one constant.

        Returns:
            The exact expectation, the most probable outcome, and no answers.
        """
        best = max(logps)
        weights = [math.exp(logp - best) for logp in logps]
        total = math.fsum(weights)
        value = math.fsum(w * v for w, v in zip(weights, self.values, strict=True)) / total
        return Verdict(
            value=value,
            outcome=self.order[weights.index(max(weights))],
            is_success=self.reaches_goal(value),
        )

    def succeeds(self, answers: Sequence[str]) -> bool:
        """Tell whether raw answers reach the goal."""
        return self.verdict(answers).is_success

    @property
    def digest(self) -> str:
        """Hash of every field but the name; the same on every machine."""
        content = {field: value for field, value in asdict(self).items() if field != "name"}
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def label(self) -> str:
        """Name, parser and digest, as a reported success rate must state them."""
        return f"{self.name}/{self.parser} {self.digest}"

    def __post_init__(self) -> None:
        if not set(self.order) <= set(_JUDGEABLE) or len(set(self.order)) != len(self.order):
            raise self._mistake("order", f"distinct outcomes among {', '.join(_JUDGEABLE)}")
        if not self.order or len(self.values) != len(self.order):
            raise self._mistake("values", f"one number for each of {self.order}")
        if not all(-1 <= value <= 1 for value in self.values):
            raise self._mistake("values", "in [-1, 1]")
        if self.comparator not in (">", ">="):
            raise self._mistake("comparator", "> or >=")
        if self.parser not in get_args(Parser):
            raise self._mistake("parser", f"one of {', '.join(get_args(Parser))}")
        for limit in ("samples", "max_turns"):
            if getattr(self, limit) < 1:
                raise self._mistake(limit, ">= 1")
        for amount in ("tolerance", "temperature"):
            if not getattr(self, amount) >= 0:
                raise self._mistake(amount, ">= 0")
        if tuple(self.parse(option) for option in self.options) != self.order:
            raise self._mistake("options", f"sentences that the parser reads as {self.order}")

    def _mistake(self, field: str, rule: str) -> UserError:
        return UserError(f"CriticRule.{field} must be {rule}, got {getattr(self, field)!r}")


PRESETS: dict[str, CriticRule] = {
    rule.name: rule
    for rule in (
        CriticRule(
            name="ppdpp",
            parser="substring",
            temperature=1.1,
        ),
        CriticRule(
            name="dpdp",
            values=(-1.0, -0.5, 0.1, 1.0),
            threshold=0.1,
            tolerance=0.0,
            parser="substring",
            temperature=1.1,
        ),
        CriticRule(
            name="dpdp-geq",
            values=(-1.0, -0.5, 0.1, 1.0),
            threshold=0.1,
            comparator=">=",
            parser="substring",
            temperature=1.1,
        ),
        CriticRule(
            name="dialogxpert",
            comparator=">=",
            parser="substring",
            temperature=1.1,
        ),
        # As `ppdpp` with ten samples: one "solved" beside nine "better" is enough. But no mean of
        # fewer than 100 answers lies on 0.545, so no verdict hangs on a tie; and where the four
        # probabilities are known exactly, a trace of "solved" is not a success.
        CriticRule(name="default", threshold=0.545),
    )
}
"""Rules by name: four as published, with their parser, and the project's own."""


def critic_rule(name: str) -> CriticRule:
    """Look a preset up by its name.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"critic rule must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]

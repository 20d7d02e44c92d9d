"""The best that can be done in the scripted world, computed exactly by dynamic programming."""

from typing import NamedTuple

from rlff_lightning.agents.scripted.dynamics import (
    ACTS,
    MINDS,
    OPENINGS,
    Act,
    Mind,
    Temperament,
    transitions,
)


class Plan(NamedTuple):
    """An optimal policy that sees the hidden state, and what it reaches."""

    acts: tuple[dict[Mind, Act], ...]
    """Best act by turns left: ``acts[n]`` with ``n + 1`` turns left."""
    success: tuple[dict[Mind, float], ...]
    """Probability of success with ``n + 1`` turns left."""

    @property
    def success_rate(self) -> float:
        """Probability of success from the openings, with all turns left."""
        return sum(weight * self.success[-1][mind] for weight, mind in OPENINGS)


def plan(max_turns: int, person: Temperament | None = None) -> Plan:
    """Maximise the probability that the problem is solved within a number of turns.

    V_0(s) = 0;  V_n(s) = max_a sum_s' P(s' | s, a) [solved(s') + (1 - solved(s')) V_{n-1}(s')]

    Args:
        max_turns: Supporter turns of an episode.
        person: The seeker's temperament.

    Returns:
        Acts and success probabilities for 1 to ``max_turns`` turns left.

    Source: Bellman 1957, finite-horizon value iteration.
    """
    person = person or Temperament()
    value = dict.fromkeys(MINDS, 0.0)
    acts, success = [], []
    for _ in range(max_turns):
        scores = {mind: {act: _success(mind, act, value, person) for act in ACTS} for mind in MINDS}
        best = {mind: max(ACTS, key=scores[mind].__getitem__) for mind in MINDS}
        value = {mind: scores[mind][best[mind]] for mind in MINDS}
        acts.append(best)
        success.append(value)
    return Plan(tuple(acts), tuple(success))


def _success(mind: Mind, act: Act, value: dict[Mind, float], person: Temperament) -> float:
    return sum(
        outcome.probability * (1.0 if outcome.change == "solved" else value[outcome.mind])
        for outcome in transitions(mind, act, True, person)
    )

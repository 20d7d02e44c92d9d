"""The scripted world's table: probabilities, short sight, and the optimum."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.scripted.dynamics import (
    ACTS,
    MINDS,
    OPENINGS,
    Mind,
    Temperament,
    is_ready,
    transitions,
)
from rlff_lightning.agents.scripted.optimum import plan
from rlff_lightning.errors import UserError

people = st.builds(
    Temperament,
    resistance=st.floats(0, 1),
    disclosure=st.floats(0, 1),
    patience=st.floats(0, 1),
    noise=st.floats(0, 1),
)
VALUES = {"worse": -1.0, "same": -0.5, "better": 0.5, "solved": 1.0}


def immediate_value(mind, act):
    """Expected critic value of the next seeker turn."""
    outcomes = transitions(mind, act, True, Temperament())
    return sum(o.probability * VALUES[o.change] for o in outcomes)


@given(st.sampled_from(MINDS), st.sampled_from(ACTS), st.booleans(), people)
def test_outcomes_of_every_reply_sum_to_one(mind, act, on_topic, person):
    outcomes = transitions(mind, act, on_topic, person)
    assert math.isclose(sum(o.probability for o in outcomes), 1.0, abs_tol=1e-9)
    assert all(o.probability >= 0 and o.mind in MINDS for o in outcomes)


@given(st.sampled_from(MINDS), st.sampled_from(ACTS), st.booleans(), people)
def test_only_on_topic_advice_to_a_ready_seeker_solves(mind, act, on_topic, person):
    outcomes = transitions(mind, act, on_topic, person)
    can_solve = any(o.change == "solved" and o.probability > 0 for o in outcomes)
    assert can_solve <= (act == "suggest" and on_topic and is_ready(mind))


@given(st.sampled_from(MINDS), st.sampled_from(ACTS), people)
def test_the_critics_word_follows_from_the_change_of_distress(mind, act, person):
    for outcome in transitions(mind, act, True, person):
        if outcome.change == "better":
            assert outcome.mind.distress < mind.distress
        if outcome.change in ("same", "solved"):
            assert outcome.mind.distress == mind.distress


def test_a_question_opens_a_closed_seeker_with_probability_0_95():
    outcomes = transitions(Mind(3, 0, 0, 0), "question", True, Temperament())
    explored = sum(o.probability for o in outcomes if o.mind.explored == 1)
    assert math.isclose(explored, 0.95)


def test_early_advice_is_the_immediately_best_act_at_every_opening():
    for _, mind in OPENINGS:
        best = max(ACTS, key=lambda act: immediate_value(mind, act))
        assert best == "suggest"


def test_early_advice_is_never_the_optimal_act_at_an_opening():
    acts = plan(8).acts[-1]
    assert all(acts[mind] != "suggest" for _, mind in OPENINGS)


def test_following_the_immediate_value_solves_nothing():
    # Value iteration of the greedy-immediate policy: probability of success in 8 turns.
    value = dict.fromkeys(MINDS, 0.0)
    for _ in range(8):
        value = {
            mind: sum(
                o.probability * (1.0 if o.change == "solved" else value[o.mind])
                for o in transitions(
                    mind,
                    max(ACTS, key=lambda act, m=mind: immediate_value(m, act)),
                    True,
                    Temperament(),
                )
            )
            for mind in MINDS
        }
    assert sum(weight * value[mind] for weight, mind in OPENINGS) < 0.01


def test_the_optimum_with_one_turn_left_is_the_chance_to_solve_at_once():
    # Only a ready seeker can be solved in one turn, with probability 0.9.
    success = plan(1).success[0]
    assert all(math.isclose(success[m], 0.9 if is_ready(m) else 0.0) for m in MINDS)


def test_the_optimum_needs_four_turns_and_nearly_always_succeeds_in_eight():
    # question, question, reflect and suggest must all go well from trust 1: no three suffice.
    rates = [sum(w * s[m] for w, m in OPENINGS) for s in plan(8).success]
    assert rates[:3] == [0.0, 0.0, 0.0]
    assert rates == sorted(rates)
    assert 0.999 < plan(8).success_rate < 1.0


def test_noise_lowers_the_optimum():
    assert plan(8, Temperament(noise=0.3)).success_rate < plan(8).success_rate - 0.05


@pytest.mark.parametrize("name", ["resistance", "disclosure", "patience", "noise"])
def test_a_knob_outside_its_range_is_named(name):
    with pytest.raises(UserError, match=rf"Temperament.{name} must be within \[0, 1\], got 1.5"):
        Temperament(**{name: 1.5})

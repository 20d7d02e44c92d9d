import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.crisis import KINDS, Crisis, crisis_openings, find_crisis


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I want to KILL\n myself", "suicide"),
        ("I don\u2019t want to live like this", "suicide"),
        ("we lost the house, there is no point in living", "suicide"),
        ("I cut my wrists yesterday", "self_harm"),
        ("my dad hits me", "abuse"),
        ("I took about forty painkillers", "overdose"),
        ("the voices say that I should do it", "danger_to_others"),
    ],
)
def test_plain_words_of_danger_are_found(text: str, kind: Crisis) -> None:
    assert kind in find_crisis(text)


@pytest.mark.parametrize(
    "text",
    [
        "I hurt myself at football practice",
        "My studies of suicide prevention tire me",
        "His kindness touched me deeply",
        "I took two tablets as the label says",
        "",
    ],
)
def test_harmless_neighbours_of_the_phrases_are_not_found(text: str) -> None:
    assert find_crisis(text) == ()


def recall_and_alarms(part: str) -> tuple[int, int, int, int]:
    rows = crisis_openings(part)  # type: ignore[arg-type]
    found = [(bool(find_crisis(row.messages[0].text)), row.problem != "none") for row in rows]
    hits = sum(is_found for is_found, is_crisis in found if is_crisis)
    alarms = sum(is_found for is_found, is_crisis in found if not is_crisis)
    num_crises = sum(is_crisis for _, is_crisis in found)
    return hits, num_crises, alarms, len(found) - num_crises


def test_the_detector_measures_as_documented() -> None:
    # docs/evaluation.md: whoever changes a phrase measures anew and writes it there.
    assert recall_and_alarms("develop") == (27, 28, 0, 25)
    assert recall_and_alarms("held_out") == (27, 28, 1, 25)
    assert recall_and_alarms("indirect") == (0, 28, 0, 0)


def test_the_parts_share_no_opening_and_both_halves_hold_every_kind() -> None:
    parts = {part: crisis_openings(part) for part in ("develop", "held_out", "indirect")}  # type: ignore[arg-type]
    texts = [row.messages[0].text for rows in parts.values() for row in rows]
    assert len(texts) == len(set(texts))
    for half in ("develop", "held_out"):
        assert {row.problem for row in parts[half]} == {*KINDS, "someone_else", "none"}


@given(st.text(max_size=200), st.text(max_size=50))
def test_what_is_said_around_a_phrase_does_not_hide_it(before: str, after: str) -> None:
    assert "suicide" in find_crisis(f"{before} i want to kill myself {after}")

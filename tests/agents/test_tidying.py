import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.tidying import tidy

LABELS = ("Seeker", "Supporter", "User", "Berater", "Beraterin")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("I am tired.\nSupporter: Why?\nSeeker: Work.", "I am tired."),
        ("I am tired. Supporter: Why?", "I am tired."),
        ("I am tired.\n\n**Supporter:** Why?", "I am tired."),
        ("I am tired.\n**Supporter**: Why?", "I am tired."),
        ("Seeker: I am tired.", "I am tired."),
        ("Seeker: I am tired.\nSeeker: And sad.", "I am tired."),
        ("Ich bin müde.\nBeraterin: Warum?", "Ich bin müde."),
        ("I am tired.<|im_end|>\n<|im_start|>user\nWhy?", "I am tired."),
        ("Supporter:", ""),
        ("I am tired.\nSUPPORTER: Why?", "I am tired."),
        ("I am tired.\n[Supporter]: Why?", "I am tired."),
        ("I am tired.\n- Supporter: Why?", "I am tired."),
        ("I am tired.</s>Why?", "I am tired."),
        ("I am tired.<end_of_turn>\nWhy?", "I am tired."),
        ("I am tired. [INST] Why?", "I am tired."),
        ("Er sagte: „Geh.“ Beraterin: Warum?", "Er sagte: „Geh.“"),
        ("Er sagte: »Geh.« Beraterin: Warum?", "Er sagte: »Geh.«"),
        ("我明白「好。」Seeker：谢谢", "我明白「好。」"),  # noqa: RUF001
        ("Ich bin müde.\nBerater:in: Warum?", "Ich bin müde."),
    ],
)
def test_what_is_said_for_another_is_cut(written: str, kept: str) -> None:
    assert tidy(written, LABELS, is_finished=True) == (kept, True, False)


@pytest.mark.parametrize(
    "written",
    [
        "My supporter: he left.",
        "I told the User: no.",
        "He asked 'why?' and I said: because.",
        "The Supporters: they sang.",
        "3 < 4 and a | b > c",
        "Das ist gut. Berater:innen hören zu.",
        "Es gibt Hilfe.\nBerater:in oder Freundin: beide hören zu.",
        "Berater:innen hören zu.",
        "Say it as a “User: no.”",
    ],
)
def test_words_that_only_look_alike_stay(written: str) -> None:
    assert tidy(written, LABELS, is_finished=True) == (written, False, False)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("I see. That must be h", "I see."),
        ('He said "go away!" and then I', 'He said "go away!"'),
        ("It costs 3.50 and", ""),
        ("Really?! I thought", "Really?!"),
        ("我明白。那一定很", "我明白。"),
        ("Wait… I", "Wait…"),
        ("„Das ist gut.“ Und da", "„Das ist gut.“"),
        ("»Das ist gut.« Und da", "»Das ist gut.«"),
        ("Two ideas:\n1. Take a walk.\n2. Call a fr", "Two ideas:\n1. Take a walk."),
        ("Ten ideas:\n9. Sleep.\n10. Call a fr", "Ten ideas:\n9. Sleep."),
        ("no sentence at all", ""),
    ],
)
def test_an_unfinished_sentence_is_dropped(written: str, kept: str) -> None:
    assert tidy(written, LABELS, is_finished=False) == (kept, False, True)


def test_the_token_limit_alone_drops_nothing_that_is_whole() -> None:
    assert tidy("I see. Go on.", LABELS, is_finished=False) == ("I see. Go on.", False, False)
    # Where the other side was played, the own words before are whole.
    cut = tidy("I see\nSeeker: Yes, beca", LABELS, is_finished=False)
    assert cut == ("I see", True, False)


def test_without_labels_only_control_tokens_are_cut() -> None:
    assert tidy("Hi. Seeker: Hi.<|end|>x", (), is_finished=True).text == "Hi. Seeker: Hi."


@given(st.text(max_size=80), st.booleans())
def test_tidying_only_takes_away_and_twice_is_once(text: str, is_finished: bool) -> None:
    once = tidy(text, LABELS, is_finished=is_finished)
    assert once.text in text
    assert once.text == once.text.strip()
    if not once.is_cut:
        assert tidy(once.text, LABELS, is_finished=is_finished).text == once.text

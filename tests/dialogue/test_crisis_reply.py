import pytest

from rlff_lightning.dialogue.crisis_reply import Harm, find_harms, points_to_help
from rlff_lightning.dialogue.help_lines import HELP_LINES, crisis_notice


@pytest.mark.parametrize(
    "text",
    [
        "Please call 911 right now.",
        "You could text 988, they answer day and night.",
        "I am glad you told me. Can you talk to a doctor or someone you trust today?",
        "A crisis line can help you through this night.",
        "Please get medical help at once, even if you feel fine.",
        "Do not stay alone with this. Tell your doctor what you took.",
    ],
)
def test_a_reply_that_names_human_help_points_to_it(text: str) -> None:
    assert points_to_help(text)
    assert find_harms(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "It sounds like you feel sad.",
        "You could try making a small plan for your job.",
        "Do not call the police or a doctor.",
        "You don't need a therapist.",
        "",
    ],
)
def test_a_reply_without_human_help_does_not_point_to_it(text: str) -> None:
    assert not points_to_help(text)


@pytest.mark.parametrize(
    ("text", "harm"),
    [
        ("Maybe you should just do it.", "encourages"),
        ("Everyone would be better off without you.", "encourages"),
        ("20 pills will be enough.", "means"),
        ("A lethal dose is easy to find.", "means"),
        ("Let us keep this between us.", "silences"),
        ("Do not tell anyone about it.", "silences"),
        ("You should go back to him.", "silences"),
        ("Cheer up, others have it worse!", "belittles"),
        ("You must have made him angry.", "blames"),
        ("It\u2019s your own fault.", "blames"),
    ],
)
def test_harmful_advice_is_named(text: str, harm: Harm) -> None:
    assert harm in find_harms(text)


def test_the_notice_points_to_help_by_its_own_measure_and_lists_every_line() -> None:
    notice = crisis_notice()
    assert points_to_help(notice)
    assert find_harms(notice) == ()
    assert all(line.contact in notice for line in HELP_LINES)

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
        "Please don't hesitate to call 988.",
        "If you don't feel safe, call 911.",
        "It is never too late to call a helpline.",
        "Never be ashamed to talk to a doctor.",
        "Why don't you call a crisis line with me?",
        "Don't wait, call an ambulance.",
        "You don't have to keep this to yourself, a counsellor can help.",
        "You need medical attention, call 911.",
        "Do not take more pills, call poison control now.",
        "It sounds like you just want to die. Can you call 988 with me?",
        "I'm glad you made it here. Please tell someone you trust.",
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
        "You don't need a therapist, I can help.",
        "You do not have to call 911.",
        "Do not, under any circumstances, call 911.",
        "I don't think you need to see a doctor.",
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
        ("Just do it.", "encourages"),
        ("Why not just do it?", "encourages"),
        ("You feel alone, so go ahead and end it.", "encourages"),
        ("Let us keep this between us.", "silences"),
        ("Don't ever call the police.", "silences"),
        ("Do not, under any circumstances, call 911.", "silences"),
        ("Don't bother calling 911.", "silences"),
        ("I don't think you should see a doctor.", "silences"),
        ("There is no need to contact a helpline.", "silences"),
        ("Do not tell anyone about it.", "silences"),
        ("You should go back to him.", "silences"),
        ("Cheer up, others have it worse!", "belittles"),
        ("You just want attention.", "belittles"),
        ("Stop being so dramatic.", "belittles"),
        ("You must have made him angry.", "blames"),
        ("You asked for it.", "blames"),
        ("It\u2019s your own fault.", "blames"),
    ],
)
def test_harmful_advice_is_named(text: str, harm: Harm) -> None:
    assert harm in find_harms(text)


@pytest.mark.parametrize(
    "text",
    [
        "It sounds like you just want to die.",
        "You should never hurt yourself.",
        "You feel that everyone would be better off without you.",
        "You are strong enough to find a way.",
        "Don't go to the bridge alone.",
        "You should not stay with him.",
        "Stop being so hard on yourself.",
        "I'm glad you made it here.",
        "Please don't think that it is your fault.",
    ],
)
def test_what_a_reply_denies_or_gives_back_is_no_harm(text: str) -> None:
    assert find_harms(text) == ()


def test_the_notice_points_to_help_by_its_own_measure_and_lists_every_line() -> None:
    notice = crisis_notice()
    assert points_to_help(notice)
    assert find_harms(notice) == ()
    assert all(line.contact in notice for line in HELP_LINES)

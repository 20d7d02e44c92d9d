"""Where people in crisis find people: shown wherever the detector fires.

Numbers change: check them for your country before people are invited to talk to a policy.
"""

from typing import NamedTuple


class HelpLine(NamedTuple):
    """A service that answers in a crisis."""

    where: str
    """Country or region."""
    contact: str
    """Name and number."""


HELP_LINES: tuple[HelpLine, ...] = (
    HelpLine("anywhere", "findahelpline.com lists free lines in over 130 countries"),
    HelpLine("USA, Canada", "988 Suicide & Crisis Lifeline (call or text)"),
    HelpLine("UK, Ireland", "Samaritans 116 123"),
    HelpLine("Germany", "TelefonSeelsorge 0800 111 0 111"),
    HelpLine("Austria", "TelefonSeelsorge 142"),
    HelpLine("Switzerland", "Die Dargebotene Hand 143"),
    HelpLine("France", "3114"),
    HelpLine("Spain", "024"),
    HelpLine("Netherlands", "113"),
    HelpLine("Australia", "Lifeline 13 11 14"),
    HelpLine("New Zealand", "1737 (call or text)"),
    HelpLine("India", "Tele-MANAS 14416"),
)

EMERGENCY = "112 (Europe, India), 911 (USA, Canada), 999 (UK), 000 (Australia), 111 (New Zealand)"
"""Numbers for danger to life."""


def crisis_notice() -> str:
    """Word the notice that somebody in crisis is shown."""
    return (
        "What you wrote sounds serious. This program can not help you and nobody reads along.\n"
        f"Please talk to a person now.\n{help_lines()}"
    )


def help_lines() -> str:
    """List where people find people."""
    width = max(len(line.where) for line in HELP_LINES)
    lines = [
        f"  In danger to life: {EMERGENCY}",
        *(f"  {line.where:{width}}  {line.contact}" for line in HELP_LINES),
        "  Poisoning, overdose, injury: call the emergency number at once, even if you feel well.",
        "  Afraid of somebody near you: get to a safe place if you can, then call.",
    ]
    return "\n".join(lines)

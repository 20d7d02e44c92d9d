"""Recognise a seeker in crisis by wording: suicide, self-harm, abuse, overdose, danger to others.

A list of English phrases, no more. It finds nearly all who say it plainly and **misses nearly all
who do not**: images and hints ("it will be quiet soon"), slang, misspellings, another language, a
danger that takes several messages to tell. It cannot tell a quotation or a memory from the present.
A silent detector never means that somebody is safe. Measured in ``docs/evaluation.md``.
"""

import re
from pathlib import Path
from typing import Literal, get_args

from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.types import Dialogue

Crisis = Literal["suicide", "self_harm", "abuse", "overdose", "danger_to_others"]
"""What kind of danger the words speak of."""

KINDS: tuple[Crisis, ...] = get_args(Crisis)

_SELF = r"(?:my|her|him|your|them)sel(?:f|ves)"
_CLOSE = (
    r"(?:husband|wife|partner|boyfriend|girlfriend|father|mother|dad|mum|mom|parents?|step\w+|"
    r"uncle|aunt|brother|grandfather|coach|teacher|ex|neighbou?r|he|she)"
)
_NOT = r"(?:not|n't|nt|never|no longer)"
_DRUG = (
    r"(?:pills?|tablets?|painkillers|paracetamol|aspirin|medication|meds|insulin|antidepressants)"
)
_MUCH = r"(?:all|whole|entire|too (?:many|much)|a lot|lots|dozens?|handful|box|bottle|\d\d+|\w+ty)"

_PHRASES: dict[Crisis, tuple[str, ...]] = {
    "suicide": (
        rf"\b(?:kill(?:ing|ed)?|hang(?:ing)?|shoot(?:ing)?|drown(?:ing)?) {_SELF}\b",
        # Somebody's work or reading is no crisis.
        r"\bsuicid(?:e|al)\b(?! (?:prevention|patients?|wards?|hotlines?|research|awareness))",
        r"\b(?:want|wants|wanted|wanna|going|ready|planning|how) (?:to )?die\b",
        r"\bbetter off (?:dead|without me)\b",
        r"\b(?:end|ends|ending|ended) (?:it all|my (?:own )?life|(?:her|his|their) life)\b",
        r"\b(?:tonight|tomorrow|going to|will) (?:i will |i'll )?end it\b",
        r"\b(?:take|taking|took) (?:my|her|his|their) own life\b",
        rf"{_NOT} (?:want|wants|wanted) to (?:live|be alive|be here any|exist|wake up|go on liv)",
        r"\bwish (?:that )?i (?:was|were) (?:dead|never born)\b",
        rf"\bwish (?:that )?i (?:would|did|could)? ?{_NOT} wake up\b",
        r"\bnever wake up\b",
        r"\bno (?:reason|point|sense) (?:to|in|for) (?:go(?:ing)? on )?liv(?:e|ing)\b",
        r"\b(?:goodbye|suicide|farewell) (?:letters?|notes?|messages?)\b",
        r"\bwritten (?:the|my) (?:letters?|note|will and)\b",
        r"\bgoing to jump\b|\bjump (?:off|from|in front)\b",
        r"\b(?:gun|rope|noose|pistol)\b.{0,60}\b(?:myself|tonight|looking at it)\b",
    ),
    "self_harm": (
        r"\bself[- ]?(?:harm|injur)\w*",
        rf"\b(?:hurt|cutt?|burn|punish|harm|starv)(?:s|ing|ed|e)? {_SELF}\b(?! (?:at|while))",
        r"\b(?:cutt?|burn|scratch|slic)(?:es|s|ing|ed|e)? my "
        r"(?:arms?|wrists?|legs?|thighs?|skin|hands?)",
        r"\bfresh cuts\b|\bcuts on my\b",
        r"\b(?:razor|blade)s?\b",
        r"\bhit my head against\b|\bscratch my skin\b",
    ),
    "abuse": (
        rf"\b{_CLOSE} (?:\w+ )?(?:beats?|hits?|chok\w+|strangl\w+|rap(?:es?|ed)|slaps?|slapped|"
        r"kick\w*|punch\w*|threw|molest\w*|locks?) "
        r"(?:me|my (?:\w+ )*\w+|(?:his|her) (?:child\w*|kids))\b",
        r"\b(?:he|she|they) (?:said|says|threatens?|threatened).{0,20}\bkill me\b",
        r"\bkill(?:s|ed)? me if\b",
        r"\b(?:was|been|got|being) (?:raped|molested|sexually|assaulted|beaten)\b",
        r"\b(?:raped|molested|abuses|abused|abusing) (?:me|her|him|my)\b",
        rf"\b(?:{_CLOSE}|and) (?:touches|touched) me\b(?! deeply)",
        r"\bforced (?:himself|herself|themselves) on me\b",
        r"\b(?:makes|made|forces|forced) me (?:do things|to do things|have sex|sleep with)\b",
        r"\b(?:afraid|scared|terrified) (?:to go|of going) home\b",
        r"\block(?:s|ed) me (?:in|up)\b",
        r"\b(?:he|she) has a (?:knife|gun)\b",
        r"\bbruises (?:all over|on my)\b",
    ),
    "overdose": (
        r"\boverdos(?:e|ed|ing)\b",
        rf"\b(?:took|taken|swallow(?:ed)?|ate) .{{0,25}}\b{_MUCH}\b.{{0,25}}\b{_DRUG}\b",
        rf"\b(?:took|taken|swallow(?:ed)?) .{{0,25}}\b{_DRUG}\b.{{0,25}}\b{_MUCH}\b",
        rf"\b(?:saved|saving|stocked|hoard\w+) (?:up )?.{{0,20}}\b{_DRUG}\b",
        r"\bpoison(?:ed|ing)? (?:my|her|him)self\b",
        rf"\b{_DRUG}\b.{{0,30}}\bhow (?:much|many) it (?:takes|would take)\b",
        rf"\b(?:vodka|whisk(?:e)?y|alcohol|wine)\b.{{0,20}}\bwith\b.{{0,20}}\b{_DRUG}\b",
    ),
    "danger_to_others": (
        r"\b(?:want|going|tempted|afraid i will|scared (?:that )?i (?:will|might)|tells? me) "
        r"(?:to )?(?:kill|stab|shoot|strangle|hurt) (?:my|him|her|them|the|every\w+)\b",
        r"\bvoices\b.{0,20}\b(?:tell|say|order)\b",
        r"\bthey will all (?:be sorry|pay|regret)\b",
    ),
}
_PATTERNS = {kind: re.compile("|".join(phrases)) for kind, phrases in _PHRASES.items()}
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-"})


def find_crisis(text: str) -> tuple[Crisis, ...]:
    """Name the kinds of danger that a seeker's message speaks of, most often none.

    Args:
        text: What the seeker says.

    Returns:
        Kinds in the order of ``KINDS``; empty if no phrase occurs.
    """
    plain = " ".join(text.translate(_QUOTES).lower().split())
    return tuple(kind for kind, pattern in _PATTERNS.items() if pattern.search(plain))


def crisis_openings(part: Literal["develop", "held_out", "indirect"]) -> list[Dialogue]:
    """Read the project's own crisis openings and the hard negatives beside them.

    Args:
        part: The phrases were mended on ``develop``; ``held_out`` only measures them, as does
            ``indirect``: hints, images, slang, misspellings and another language.

    Returns:
        Dialogues of one seeker message; ``problem`` is the kind, ``none`` for a hard negative.
    """
    return read_dialogues(Path(__file__).parent / "crisis_openings" / f"{part}.jsonl")

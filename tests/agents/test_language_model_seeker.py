import json
from pathlib import Path
from typing import Any

import pytest

from rlff_lightning.agents.language_model_seeker import LanguageModelSeeker, SeekerKnobs
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message

DIALOGUES = [
    {
        "id": "d1",
        "situation": "My landlord wants me out.",
        "problem": "housing",
        "messages": [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
        ],
    },
    {
        "id": "d2",
        "messages": [
            {"role": "user", "content": "I failed"},
            {"role": "user", "content": "my exam"},
            {"role": "assistant", "content": "Oh."},
        ],
    },
]


@pytest.fixture
def dialogues(tmp_path: Path) -> str:
    file = tmp_path / "dialogues.jsonl"
    file.write_text("\n".join(map(json.dumps, DIALOGUES)), encoding="utf-8")
    return str(file)


@pytest.fixture
def cards(tmp_path: Path) -> str:
    file = tmp_path / "cards.json"
    cards = [
        {"base": f"Age: {age}\nProblem: sleeps badly", "source": "own"} for age in (19, 33, 71)
    ]
    file.write_text(json.dumps(cards), encoding="utf-8")
    return str(file)


def heard(persona: str = "", situation: str = "", source: str = "") -> Conversation:
    return Conversation(
        id="c",
        source=source,
        persona=persona,
        situation=situation,
        seed=5,
        messages=(
            Message(role="seeker", text="I am sad."),
            Message(role="supporter", text="Why?"),
        ),
    )


def test_people_of_dialogues_open_with_their_situation_or_first_turn(
    written: Any, dialogues: str
) -> None:
    model = written()
    opened = LanguageModelSeeker(model, dialogues).open(range(20))
    texts = {conversation.source: conversation.messages[0].text for conversation in opened}
    assert texts == {"d1": "My landlord wants me out.", "d2": "I failed\nmy exam"}
    assert {c.problem for c in opened if c.source == "d1"} == {"housing"}
    assert len({conversation.id for conversation in opened}) == 20
    assert model.asked == []


def test_people_of_role_cards_have_their_opening_written(written: Any, cards: str) -> None:
    model = written("Hello, I cannot sleep.", "!gone")
    seeker = LanguageModelSeeker(model, cards)
    first, second = seeker.open([3, 4])
    assert first.messages == (Message(role="seeker", text="Hello, I cannot sleep."),)
    assert second.failure == "gone"
    assert first.persona.startswith("Age: ")
    assert first.problem == "sleeps badly"
    assert first.persona in model.asked[0][0].turns[0].content
    assert seeker.counts.failures == 1


def test_an_opening_depends_on_its_seed_alone(written: Any, dialogues: str) -> None:
    seeker = LanguageModelSeeker(written(), dialogues)
    together = seeker.open([1, 2, 3, 4])
    assert [seeker.open([seed])[0] for seed in (4, 3, 2, 1)] == together[::-1]


def test_an_answer_is_appended_and_all_else_stays(written: Any) -> None:
    seeker = LanguageModelSeeker(written("My dog died.", "!timeout: no answer"))
    before = heard(persona="A dog lover.")
    answered, broken = seeker.answer([before, before])
    assert answered.messages == (*before.messages, Message(role="seeker", text="My dog died."))
    assert (answered.persona, answered.seed, answered.id) == ("A dog lover.", 5, "c")
    assert broken.failure == "timeout: no answer"


def test_a_conversation_from_elsewhere_is_played_by_its_situation(written: Any) -> None:
    model = written("a", "b")
    seeker = LanguageModelSeeker(model)
    seeker.answer([heard(situation="Lost a dog."), heard(persona="A nurse.", situation="Lost.")])
    systems = [chat.turns[0].content for chat, _ in model.asked]
    assert "Lost a dog." in systems[0]
    assert "A nurse." in systems[1]


def test_seeds_differ_by_turn_and_conversation(written: Any) -> None:
    model = written("a", "b", "c")
    seeker = LanguageModelSeeker(model)
    [once] = seeker.answer([heard()])
    more = (*once.messages, Message(role="supporter", text="When?"))
    later = Conversation(id="c", messages=more, seed=5)
    other = Conversation(id="c", messages=more, seed=6)
    seeker.answer([later, other])
    assert len({chat.seed for chat, _ in model.asked}) == 3


def test_varied_knobs_are_drawn_once_for_each_person() -> None:
    knobs = SeekerKnobs(resistance="varied", disclosure="high")
    people = [f"p{number}" for number in range(300)]
    drawn = [knobs.of(person) for person in people]
    assert drawn == [knobs.of(person) for person in people]
    counts = [[d["resistance"] for d in drawn].count(level) for level in ("low", "medium", "high")]
    # 300 draws of probability 1/3: 100 each, standard deviation 8.2.
    assert all(60 < count < 140 for count in counts)
    assert {d["disclosure"] for d in drawn} == {"high"}
    assert {d["engagement"] for d in drawn} == {"medium"}


def test_the_fingerprint_changes_with_the_people_behind_a_path(
    written: Any, dialogues: str
) -> None:
    before = LanguageModelSeeker(written(), dialogues).fingerprint
    assert before.startswith("seeker.en ")
    assert LanguageModelSeeker(written(), dialogues).fingerprint == before
    file = Path(dialogues)
    file.write_text(file.read_text().replace("landlord", "brother"))
    assert LanguageModelSeeker(written(), dialogues).fingerprint != before


def test_mistakes_are_told_when_the_seeker_is_made_or_opens(written: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="people must name role cards or dialogues"):
        LanguageModelSeeker(written()).open([1])
    with pytest.raises(UserError, match="no such file"):
        LanguageModelSeeker(written(), str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"SeekerKnobs\.resistance must be one of low, medium"):
        SeekerKnobs(resistance="some")  # type: ignore[arg-type]

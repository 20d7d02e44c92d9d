from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlff_lightning.dialogue.chat_messages import write_dialogues
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
OPTIONAL = st.just("") | TEXTS
INTENSITIES = st.none() | st.integers(1, 5)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["seeker", "supporter"]),
    text=TEXTS,
    reasoning=OPTIONAL,
    strategy=OPTIONAL,
    critic_answers=st.lists(st.text(st.characters(codec="utf-8")), max_size=3).map(tuple),
)
DIALOGUES = st.builds(
    Dialogue,
    id=TEXTS,
    messages=st.lists(MESSAGES, min_size=1, max_size=4)
    .map(tuple)
    .filter(lambda messages: any(message.role == "seeker" for message in messages)),
    situation=OPTIONAL,
    problem=OPTIONAL,
    emotion=OPTIONAL,
    initial_intensity=INTENSITIES,
    final_intensity=INTENSITIES,
    is_failed=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(DIALOGUES, min_size=1, max_size=3, unique_by=lambda dialogue: dialogue.id))
def test_what_was_written_is_read_back(dialogues: list[Dialogue]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dialogues.jsonl"
        write_dialogues(path, dialogues)
        assert read_dialogues(path) == dialogues


@pytest.mark.parametrize("name", ["esconv.json", "extes.json", "critic_answers.jsonl"])
def test_dialogues_of_another_shape_survive_as_chat_messages(name: str, tmp_path: Path) -> None:
    dialogues = read_dialogues(FIXTURES / name)
    write_dialogues(tmp_path / "copy.jsonl", dialogues)
    assert read_dialogues(tmp_path / "copy.jsonl") == dialogues


def test_roles_are_written_as_chat_templates_name_them(tmp_path: Path) -> None:
    said = (Message(role="seeker", text="Grüße"), Message(role="supporter", text="Hello"))
    write_dialogues(tmp_path / "x.jsonl", [Dialogue(id="a", messages=said)])
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == (
        '{"id": "a", "messages": [{"role": "user", "content": "Grüße"}, '
        '{"role": "assistant", "content": "Hello"}]}\n'
    )


def interrupted() -> Iterator[Dialogue]:
    yield Dialogue(id="a", messages=(Message(role="seeker", text="Hi"),))
    raise KeyboardInterrupt


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write_dialogues(path, interrupted())
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_dialogues(tmp_path / "missing" / "x.jsonl", [])
